"""The operator's surface: what can be asked of a running proxy and ordered, and how it is shown.

============= ================================================================================================
commands      THE table of commands, and carrying one out
arguments     what a command takes, checked once for every way that it comes in
callers       those who give commands, and what they may do
audit         a line in the log for each order
actions       what commands do and answer: a function each, which takes the parts it needs
console       the parts of the proxy that an operator can get at
drains        drains, as an operator begins, plans, watches and ends them
rebalances    rebalances, likewise
rolls         rolling restarts of nodes, likewise
nodes         nodes as an operator sees them; clients that are sent to one
clients       clients, found, looked at and kicked
filters       which of many are shown
pins          users whom an operator wants on a certain node
workers       workers, as an operator sees and replaces them
upgrades      the replacement of the proxy itself
parts         what these need of the proxy that stands above this room, as protocols
latest_events the latest events of the log that are worth showing
history       the last hour in numbers; transfers by software
feed          who watches is woken by what changes
reloads       what became of reading each file last
rows          what can be seen, flat, the same for people and for programs
order_rows    likewise, what an order would do, and how far it is
live_rows     likewise, what is told live and not shown
answers       what commands answer: rows, or a few words
views         THE table of what can be seen: columns, and where rows come from
text          rows as aligned tables
sentences     single answers in words
codec         rows and JSON
control       the control socket
http          health, metrics and an API by HTTP
metrics       THE table of metrics, and a snapshot of the proxy written as one page
============= ================================================================================================
"""
