"""The pages that the proxy serves by HTTP.

======= ======================================================================
pages   the pages, and their contents
status  the state of the running proxy, for the pages
server  sockets, limits and times; the protocol is h11's
======= ======================================================================
"""
