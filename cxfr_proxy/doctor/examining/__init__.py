"""Collect the facts: the only part of the doctor that opens a connection or reads a file.

================ ===================================================================================================
cluster          the whole examination, nodes side by side
visit            a look at one node without logging in
handshake        TLS that believes any certificate, to read it; nothing is said on such a connection
client           a client of a node's: log in, ask, resume
scram            the client's half of SCRAM, sans-IO
doors            the ways in: by password, by the certificate for nodes
sessions         log in everywhere, move sessions from node to node
tokens           a token of each node is tried on the next one
together         several things side by side
own              the proxy's own certificates and listeners
queues           room in the queues of this machine's listeners, by the kernel's sock_diag(7)
================ ===================================================================================================
"""
