"""The bytes of every session, and a connection until it has one.

=================== =======================================================================================
client_server       serves clients' connections: counts them, begins their sessions, ends their duties
balancers           whose connection it is, where a balancer passes it on
connection          one connection until it has a session: sniff, TLS, opening, a node
connection_rules    what a connection goes by: settings, nodes' features, certificates
websocket_transport a client's WebSocket connection as a transport, for all of these
pump                the one task that carries the bytes of all sessions
live_session        a session in the pump, and its two legs
poller              which legs are ready: epoll and the switchboard
turns               which legs are served when
hearing             what was read of several legs, heard by their sessions together
deadlines           when a session, or a leg that takes no bytes, is due
pings               pings to silent clients on WebSocket, and the end of those that don't answer
openings            connections that open, carried on by the pump without a task for each
timers              many deadlines and one sleeping task
engine              whether the loop runs in C or in Python
_turn.c             the switchboard: what needs no decision, in C
=================== ================================================================================"""
