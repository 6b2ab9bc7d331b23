"""The parts of a running proxy that an operator can get at: a class for each thing that commands are about.

========== ======================================================================
console    all of them
drains     drains, as an operator begins, plans, watches and ends them
rebalances rebalances, likewise
rolls      rolling restarts of nodes, likewise
nodes      nodes as an operator sees them; clients that are sent to one
clients    clients, found, looked at and kicked
pins       users whom an operator wants on a certain node
workers    workers, as an operator sees and replaces them
upgrades   the replacement of the proxy itself
reloads    what became of reading each file last
history    the last hour in numbers; transfers by software
parts      what these need of the proxy that stands above this room, as protocols
========== ======================================================================
"""
