"""Web clients in headless Chromium: their node is drained under them, with or without their notice, or nobody says a
word for ten minutes.

``PYTHONPATH=tests:tests/helpers python -m browser`` plays it. ``browser.status_page`` is a program of its own.

============= =====================================================================================
stories       log in, chat, drain, chat on, within ten seconds and without a reload; silence
site          the pages' web server, and what the pages tell it
chromium      the browser, and the few things that are asked of it
page.html     two users of strophe.js on one page
converse.html Converse, for one user
status_page   the proxy's status page: what is done on it is done
============= =====================================================================================
"""
