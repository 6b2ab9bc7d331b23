"""A page with strophe.js in headless Chromium, whose node is drained under it.

``PYTHONPATH=tests:tests/helpers python -m browser`` tells it.

======== ==========================================================================================
site     the page's web server, and what the page tells it
chromium the browser, and the few things that are asked of it
__main__ the story: log in, chat, drain, chat on, within ten seconds and without a reload
======== ==========================================================================================
"""
