"""From a client's first byte to its full JID: headers, features, and what a login says and comes to.

=============== ==============================================================================================
header          a stream's header, read and judged
usual_header    the same of a header as nearly every program writes it, at a glance
client_opening  what the proxy answers a client by itself, before there is a node
negotiation     what passes between client and node until a resource is bound
verdict         what becomes of one element of that
features        which stream features pass when TLS ends at the proxy
node_features   the features a client is shown before it has a node
usual_elements  the elements of a login as nearly every program writes them, at a glance
sasl            whom the messages of a SASL exchange name
login           who logs in, to choose a node by
attempt         a login under way, and how it failed
authzid         who logs in as whom
client_identity what a client says of its own software
=============== ==============================================================================================
"""
