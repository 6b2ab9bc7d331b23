"""Thousands of sessions that chat across a real ejabberd cluster, while one of its nodes is drained and then stopped.

::

    pairs of clients -> the proxy -> node1 and node2 <- a watcher, who is told of everybody's presence

``PYTHONPATH=tests:tests/helpers python -m unnoticed --sessions 2000 --rate 500`` plays it once and prints the figures
of docs/migration.md: what was lost, came twice or out of turn, who noticed, for how long clients were held, and what it
took. ``--by cut`` plays the same where the nodes do not let the proxy take sessions. ``python -m unnoticed.cuts``
resets connections between the proxy and the nodes instead.

======= ==============================================================================================
crowd   the clients, a process of them: pairs that write numbered messages to each other, and the watcher
scene   servers, proxy, crowds
run     one run: the drain, and the stop
cuts    another command: connections are reset
cost    another command: what node-stream-management costs
======= ==============================================================================================
"""
