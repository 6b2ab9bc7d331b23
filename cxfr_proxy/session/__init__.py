"""One client, from header to last byte. Sans-IO: bytes and time in, commands out.

=============== ==========================================================================================
session         a session as its relay sees it: bytes, ends, orders and time in, commands out
tables          the states of a session and of its legs, and which may follow which
commands        what a session tells its relay to do, and what it tells whoever listens
policy          what the operator decided, and what a session asks of the rest of the proxy
parts           what belongs to one session, each part with its own fields
legs            the client's and the node's side: what may still be read and written
accounting      XEP-0198 counts that stay true although stanzas were injected or swallowed
opening         what there is only until the client is bound
transfer        what there is only while the client is being moved
closing         what there is only while the session ends
exchange        what there is only while the node's leg is exchanged
client_stream   what the client's stream brings
node_stream     what the node's stream brings, and what it means when the node goes
climbing        the ladder, climbed: one rung after the other until the client has left
ladder          which way to tell this client to move, now
ending          the last things between node and client, and the end of both streams
exchanging      another node's leg in the place of the session's own
client_software what client programs do when they are told to move: measured, learned, or said by the operator
chart           the tables as a page for people
node_owes       whose turn it is in a login, and so whose fault it is if it ends without an answer
=============== ==========================================================================================
"""
