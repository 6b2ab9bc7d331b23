"""HTTP on the port of the clients: one request, which becomes a WebSocket (RFC 7395) or gets one answer.

=========== ================================================================================
request     one request, read within limits, and the answers to it
upgrade     whether a request may become a WebSocket (RFC 6455 section 4.2)
pages       what there is besides: a word on what this is, and where WebSocket clients go (XEP-0156)
web_opening a connection from its first byte of HTTP to one of these ends
=========== ================================================================================
"""
