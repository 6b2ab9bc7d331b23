"""Where one element of a stream ends and the next begins.

======== =====================================================================================================
framer   what a framer is, and which of the two engines there are
events   what it reports
_scan.c  the native engine
_expat   the engine in Python, which also reads all headers but the usual ones
tag_ends where markup may end, for the engine in Python
lane     one direction of a session: what may go out now, and what is held back until it is whole
======== =====================================================================================================
"""
