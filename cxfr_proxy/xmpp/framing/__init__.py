"""Find where one element of a stream ends and the next begins.

======== =====================================================================================================
framer   the interface of a framer, and the choice of its engine
events   the events that it reports
_scan.c  the native engine
_expat   the engine in Python, which also reads all headers but the usual ones
tag_ends finds where markup may end, for the engine in Python
lane     one direction of a session: bytes that may go out now, and bytes that are held back
======== =====================================================================================================
"""
