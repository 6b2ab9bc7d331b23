"""All that the proxy serves by HTTP: open pages, a status page, and an API for those who have a token.

=========== ==========================================================================================
server      connections: how many, and which of them makes room
connection  one connection, with limits and times; the protocol is h11's
tls_stream  the bytes of one over TLS
certificate the certificate of HTTPS
exchange    a request and its answer
site        which of them answers a path
pages       the open pages, and their contents
status_page files of the status page
status      the state of the running proxy, for the pages
api         the API: the table of commands as paths
paths       the paths of the API
openapi     the API described for programs
given       the arguments of a command in a query or a body
refusals    the operator's mistakes as statuses
access      who is let in, and what they may do
tokens      the file of tokens
topics      THE table of what can be watched
live        the live view: each topic's latest state
streams     answers that go on
sse         server-sent events, as they are written
=========== ==========================================================================================
"""
