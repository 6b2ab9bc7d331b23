"""XMPP on the wire, without the wire. Sans-IO: bytes in, bytes and facts out.

=================== ==========================================================================================
names               the namespaces and error conditions of the specifications
jid                 addresses taken apart
stanza              one element at a time, read and written with lxml
framing             where one element of a stream ends and the next begins, and what is held back till then
opening             from a client's first byte to its full JID
web                 HTTP on the port of the clients: what becomes a WebSocket, and a few pages
websocket           XMPP over WebSocket: messages on one side, a stream on the other
stream_management   XEP-0198 on a stream into which the proxy puts stanzas
connection_transfer XEP-0051, in both of its schemas
=================== ==========================================================================================
"""
