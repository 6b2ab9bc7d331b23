"""The bench: what the proxy costs, side by side with HAProxy, nginx and a bare epoll relay, in one run.

``python -m bench NAME [--quick] [--json FILE]``; ``README.md`` says how to read what it prints. Rules it keeps:

* Only ratios are worth quoting. So everything that is compared runs on the same core in the same run, and rounds take
  turns, A B A B, with all sessions of all relays already open: a machine that gets slower gets slower for all.
* CPU time is read from the kernel's own clock of each process, in nanoseconds, at the same instants as the count of
  round trips.
* The load must not be what is measured: it is written in C, as is the node, has a core of its own where there is one,
  and its own CPU time stands in the table. A row where it was the bottleneck says so.
* Programs that are missing on a machine are left out with a sentence, never made up.

============ =========================================================================================================
machine      cores, limits, CPU clocks, memory, what the machine is
programs     start, stop and pin a process; compile ``native/*.c``; a certificate
relays       the proxy and its peers, each started in front of a node
trio_relay   one of the peers: a relay on trio-websocket's server
load         the C load generator's orders and answers
crowd        clients that can be moved: numbered messages, what was lost, what came twice (a process of its own)
fleet        the operator's command in front of two nodes, with crowds
spread       one figure over several rounds: median, ends, ratios
pace         how exactly a drain's rate was held
report       tables, goals, JSON
plots        bars and lines, where there is matplotlib
benches/     one file a bench, each with ``run(options) -> Report``
============ =========================================================================================================
"""
