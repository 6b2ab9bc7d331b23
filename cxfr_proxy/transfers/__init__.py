"""Many clients on the move: the live sessions, who moves when and where to, and who returns.

================= ==========================================================================================
relayed           a live session as its relay offers it
registry          the live sessions of a process, and its connections
counts            what sessions and their moves count as
statistics        counts since the proxy began, with a number for each combination that occurred
memory            what is remembered of clients when their sessions have ended
awaited           clients that were cut and are to fetch their sessions elsewhere
returning_clients where a client that connects is led, if it may be one that was asked or lost
returns           which of the clients that moved have logged in again
loop_guard        nobody is sent to and fro

mover             the one task: takes the next session out of a queue whenever there is a token
queues            who is next: the sessions that wait to be moved, the most urgent first
pace              at which pace: the supervisor's bucket, and what a mover sees of it
token_bucket      the bucket itself, which is told the time
leaving           who has to leave: nodes that are emptied or down, a worker that goes
young_sessions    who has to wait a moment before they are moved, where nodes share sessions
slow_logins       logins on nodes that are emptied are stopped when they take too long
homes             who sits elsewhere than they belong, and where they should go
orders            what a session is told: its target, and the address for its client
announcements     all processes know where a client is sent before the client does

drains            the drains under way, as the supervisor keeps them
drain_stages      how far a drain is, and so who of its sessions is moved
rebalances        the rebalances, one at a time, as the supervisor keeps them
planner           a rebalance carried out in one process
================= ==========================================================================================

Sans-IO, but for those that wait: ``mover``, ``young_sessions``, ``slow_logins``, ``pace``, ``drains``, ``rebalances``
and ``planner``.
"""
