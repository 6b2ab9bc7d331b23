"""Web clients in headless Chromium: their node is drained under them, with or without their notice, or nobody says a
word for ten minutes.

``PYTHONPATH=tests:tests/helpers python -m browser`` plays it.

============= =====================================================================================
stories       log in, chat, drain, chat on, within ten seconds and without a reload; silence
site          the pages' web server, and what the pages tell it
chromium      the browser, and the few things that are asked of it
page.html     two users of strophe.js on one page
converse.html Converse, for one user
============= =====================================================================================
"""
