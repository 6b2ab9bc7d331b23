"""Which nodes there are, and who belongs where.

========= ==========================================================================================
backends  where the list comes from, as the operator says it
nodes     the grammar of ``nodes.txt``
srv       nodes from SRV records
members   the live list: what the operator wants x what checks see
assigned  who has a node that is not left to a policy: pins, user map, answers
placement the order in which the nodes suit one user: a pure function
plan      who has to move, and where to: a snapshot in, moves out
pace      how fast: a token bucket
shared    what several proxies have together: its keys and values, and each one's share of the pace
words     files that an operator writes, a word at a time
sources   where the list comes from, and when it has changed; the one place here that touches the world
========= ==========================================================================================

Sans-IO, but ``sources``: time comes in as an argument, and nothing here knows what an XMPP stanza is.
"""
