"""Which nodes there are, and who belongs where.

========== ==========================================================================================
nodes      a node as its operator describes it: the table of options
nodes_file the grammar of ``nodes.txt``
addresses  where a node is dialled, and where clients are sent: host names, IP addresses, ports
words      files that an operator writes, read one word at a time, so that faults have a place
targets    where clients may be sent: ``redirect-targets``
backends   where the list comes from, as the operator writes it
srv        nodes from SRV records
sources    reads the list, and says when it has changed; the one place here that touches the world
shared     what several proxies have together: its keys and values, and each one's share of the pace
kept_state what a proxy keeps of orders, pins and software for its next start
members    the live list: what the operator wants x what checks see
health     from what is seen of a node to whether it is up: a table of rules
hints      what ``check`` says of nodes whose lines are right
assigned   whose node is not left to a policy: pins, user map, answers
user_map   the user map: a file with a node for each of millions of users
placement  the order in which the nodes suit one user: a pure function
plan       a drain's plan: who has to move, and where to; a snapshot in, moves out
roll       a rolling restart of several nodes: what comes next, and what it would come to
rebalance  a rebalance's plan: who sits elsewhere than they belong
========== ==========================================================================================

Sans-IO, but ``sources``: time comes in as an argument, and nothing here knows what an XMPP stanza is.
"""
