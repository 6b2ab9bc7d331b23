"""The workers in their slots: started, replaced, asked, and told what they have to know.

=============== ===============================================================
workers         all workers: sums, and questions that all are asked
slot            the place of one worker
worker_slots    keeps a worker in each slot, and replaces it
grants          which worker gets the next token
client_sockets  the listening sockets of each slot
link            one worker: its end of the channel, and whether it lives
rolling_restart replaces all workers, one by one
node_states     sends changes of the nodes to the workers
catch_up        keeps what a worker that starts later has to know of users
absences        clients that moved and are away, and their returns
=============== ===============================================================
"""
