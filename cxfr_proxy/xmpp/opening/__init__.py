"""From a client's first byte to its full JID: headers, features, logins.

=============== ==============================================================================================
header          a stream's header, read and judged
usual_header    the same of a header as nearly every program writes it, at a glance
client_opening  the proxy's own answers to a client that has no node yet
negotiation     watches client and node until a resource is bound
verdict         says what is done with one element of that
features        the stream features that pass when TLS ends at the proxy
node_features   the features that a client is shown before it has a node
usual_elements  the elements of a login as nearly every program writes them, at a glance
sasl            the names in the messages of a SASL exchange
login           the user that logs in, to choose a node by
attempt         a login under way, and how it failed
authzid         the check that users log in as themselves
client_identity a client's words about its own software
=============== ==============================================================================================
"""
