"""XMPP over WebSocket (RFC 7395): frames on one side, the bytes of an RFC 6120 stream on the other.

=========== ===================================================================================================
stream      both directions of one connection, and what the proxy itself has to say in frames
frames      a frame's form, opcodes and close codes (RFC 6455)
reader      frames from a client, byte by byte: masks, fragments, control frames, UTF-8
messages    messages from a client become a stream, one element each
writer      a stream becomes messages, each of which stands alone
hot_path    whole messages and whole elements, many at once, where there is C code for that
_frames.c   that code; _frames.h is what of it the switchboard calls, _text.h what it reads byte by byte
translation ``<open/>`` and ``<close/>`` for the stream's tags, and the namespaces that an element leaves unsaid
=========== ===================================================================================================
"""
