"""The part that serves clients: a process of its own, or the one worker in the supervisor's process.

================ =====================================================================================
worker           follows the supervisor's messages, reports to it, and answers its questions
parts            everything of a worker that needs settings
service          serves clients: accepts them, acts upon what their sessions report, moves them at the end
ports            stands in for parts of the supervisor: the pace, and the health checks
queries          answers the supervisor's questions
time_share       what is done for operators, kept to a share of the time
session_views    sessions as operators are shown them: those that match, and all that is known of one
mirror           its copy of the list of nodes
user_map         its copy of the user map
user_endpoint    asks the operator's endpoint for users, whichever it is
reporter         its way to the supervisor: what goes at once, and what is reported when it has changed
reports          what it reports of its sessions, and the counts
session_changes  reports the sessions that have come and gone
session_log      the lines of a session in the log
in_process       a worker in the supervisor's process
launch, process  a worker in a process of its own: started, and from the inside
================ =====================================================================================

A worker imports nothing of the supervisor: :mod:`cxfr_proxy.ipc` has what both know.
"""
