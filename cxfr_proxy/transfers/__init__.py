"""Many clients on the move: the live sessions, who moves when and where to, and who returns.

================= ==========================================================================================
registry          the live sessions, and what has become of those that were
mover             carries out moves at their pace
queues            who is next: sessions that wait to be moved, the most urgent first
pace              how fast: a token bucket
drains            the drains under way
drain_stages      how far a drain is, and so who of its sessions is moved
rebalances        the rebalances, one at a time
planner           a rebalance carried out in one process
loop_guard        nobody is sent to and fro
awaited           clients that were cut and are to fetch their sessions elsewhere
returning_clients where a client that connects is led, if it may be one that was asked or lost
returns           which of the clients that moved have logged in again
statistics        counts since the proxy began
================= ==========================================================================================

Sans-IO, but for those that wait: ``mover``, ``drains``, ``rebalances`` and ``planner``.
"""
