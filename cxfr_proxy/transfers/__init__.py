"""Many clients on the move: the live sessions, the order in which they move, their targets, and their return.

================= ==========================================================================================
relayed           a live session as its relay offers it
registry          the live sessions of a process, and its connections
counts            counts of sessions and their moves
statistics        counts since the proxy began, with a number for each combination that occurred
client_news       what other processes have to know of a client, since it may come back to them
memory            facts that are remembered of clients when their sessions have ended
awaited           clients that were cut and should resume their sessions elsewhere
returning_clients leads clients that were asked or lost to the right node when they connect
returns           finds the clients that moved and have logged in again
loop_guard        keeps clients from being sent back and forth

mover             the one task: takes the next session out of a queue whenever there is a token
queues            the sessions that wait to be moved, the most urgent first
pace              the pace: the supervisor's bucket, and what a mover sees of it
token_bucket      the bucket itself, which is told the time
own_logins        turns of the proxy's own logins, of which few are under way at once
move_window       how many sessions are taken to other nodes at once, as their clients bear it
leaving           the sessions that have to leave: of nodes that are emptied or down, of a worker that goes
young_sessions    delays moves of sessions that have just begun, where nodes share sessions
slow_logins       logins on nodes that are emptied are stopped when they take too long
homes             the sessions that are not where their users belong
orders            makes a session's order: its target, and the address for its client
announcements     tells all processes where a client is sent before the client hears it

drains            the drains under way, as the supervisor keeps them
drain_stages      the stage of a drain, and so which of its sessions are moved
rebalances        the rebalances, one at a time, as the supervisor keeps them
planner           a rebalance carried out in one process
================= ==========================================================================================

Sans-IO, but for those that wait: ``mover``, ``own_logins``, ``young_sessions``, ``slow_logins``, ``pace``, ``drains``,
``rebalances`` and ``planner``.
"""
