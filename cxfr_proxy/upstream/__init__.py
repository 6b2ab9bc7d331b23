"""Towards the nodes.

================ ==========================================================================================
router           which node a client gets, and the way there
dial             reaching a node: connect, PROXY header, TLS
admission        how many logins a second reach a node
health_checks    looking at the nodes, and hearing what sessions say about theirs
node_login       logging in to a node in the name of a client, whose session is resumed there
probe            one look at a node, as a client would see it
probe_stream     the proxy's own stream to a node, which a probe reads
common_features  the stream features that all nodes of a domain share
node_warnings    what sessions notice about a node, said once
user_lookup      asking an HTTP endpoint on which node a user belongs
================ ==========================================================================================
"""
