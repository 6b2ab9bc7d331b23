"""One client, from header to last byte. Sans-IO: bytes and time in, commands out.

=============== ==========================================================================================
session         a session as its relay sees it: bytes, ends, orders and time in, commands out
tables          the states of a session and of its legs, and which may follow which
commands        commands to the relay, and the events that a session reports
policy          the settings that a session needs, and its questions to the rest of the proxy
parts           the parts of one session, each with its own fields
legs            the client's and the node's side: what may still be read and written
injecting       puts stanzas into the streams and takes some out, with the counts
accounting      XEP-0198 counts that stay true although stanzas were injected or swallowed
opening         exists only until the client is bound
transfer        exists only while the client is being moved
closing         exists only while the session ends
exchange        exists only while the node's leg is exchanged
stand_in        exists only while the proxy speaks XEP-0198 with the node and the client does not
replay          stanzas that the node has not acknowledged, to be sent again where the session is resumed
client_stream   reads the client's stream
node_stream     reads the node's stream
node_end        says what follows for the client when the node's stream ends
climbing        the ladder, climbed: one rung after the other until the client has left
ladder          chooses the next way to tell this client to move
ending          the last things between node and client, and the end of both streams
exchanging      another leg in the place of the session's own, on another node or on the same
standing_in     XEP-0198 with the node in the client's place: who counts, what is acknowledged, handing over
client_software reactions of client programs that are told to move: measured, learned, or set by the operator
chart           the tables as a page for people
node_owes       who has to answer next in a login, and so who is to blame if it fails
=============== ==========================================================================================
"""
