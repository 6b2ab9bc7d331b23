"""The part that exists once in a proxy, and the workers as it sees them.

=============== =====================================================================================
supervisor      puts it together, and acts on what workers report
management      nodes, health, files and the operator's console
workers         all workers, in slots: sums, and which one gets the next token
worker_slots    keeps a worker in each slot, and replaces it
client_sockets  the listening sockets of each slot
link            one worker: its end of the channel, and whether it lives
successor       replaces this proxy by a new process: the upgrade
predecessor     takes the place of a proxy that runs
succession      the parts that are handed over
handover        what the two tell each other
relaying        what an operator asks of all clients, asked of the old one too
rolls           restarts nodes one after the other, as an operator has ordered
state_keeper    the file in which orders, pins and a roll outlive this process
rolling_restart replaces all workers, one by one
node_states     sends changes of the nodes to the workers
node_list       keeps the live list as its source has it
served_files    certificates and CA certificates, as workers are to use them with the settings
reloading       takes settings and files anew: all of it, or nothing
user_list       the user map, read and sent to workers
drains          keeps the drains that workers carry out
auto_rebalance  begins a rebalance when users have come to belong elsewhere
peer_proxies    shares directives, pins and load with the other proxies
catch_up        keeps what a worker that starts later has to know of users
absences        clients that moved and are away, and their returns
vacancy         logs that logins could be placed on no node
about           the proxy as a whole, as an operator is shown it
service_reports what the service manager is told while the proxy runs
startup_log     events of the proxy as a whole
=============== =====================================================================================

The supervisor imports nothing of a worker: :mod:`cxfr_proxy.ipc` has what both know.
"""
