"""What is to be had by HTTP.

======= ======================================================================
pages   which page there is, and what is on it
status  what the pages tell of the running proxy
server  sockets, limits and times; the protocol is h11's
======= ======================================================================
"""
