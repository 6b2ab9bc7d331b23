"""Sockets. Knows nothing of XMPP.

================= =========================================================================================
transport         the bytes' way in and out of one connection, plain or over TLS, without waiting
endpoint          the same for code that waits
waits             how that waits: in a trio task, or without one
names             looking names up, in threads of their own number
listen            where clients come in: bind, and accept
inherited         listening sockets that the process was started with
connection_limit  how many connections fit into the descriptors that there are
tls               which certificate a client is shown
node_tls          how nodes' certificates are verified, and the one that the proxy shows them
pem               certificates and keys as files hold them
certificate_files which files of a directory hold a certificate and its key
certificate_names what a certificate is for
client_hello      the name that a client asks for before TLS begins
close_notify      TLS closed in good order, and read on
tls_errors        what a broken TLS connection would leave to all others of its thread
tls_failures      why a client's handshake has failed, as one of few reasons
tls_watch         an end to a TLS read that goes on and on
proxy_protocol    PROXY headers as nodes get them, and what the ends of a connection are called
incoming_header   PROXY headers as balancers send them
arrival           how a client's connection has come here
trusted_proxies   who is believed when they say whose connection they pass on
forwarded         the client's address by the HTTP headers of those who are trusted
================= =========================================================================================
"""
