"""Sockets: listening, TLS and PROXY headers. Knows nothing of XMPP."""
