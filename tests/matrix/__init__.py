"""Loss accounting: numbered messages both ways through every kind of transfer, between every kind of client and node.

::

    movers (10 kinds) -> the proxy -> a tap -> node1, then node2 <- witnesses

``PYTHONPATH=tests:tests/helpers python -m matrix`` plays it all and prints the table (``--markdown``: that of
docs/loss.md; names of nodes or triggers play only those). The tests play it too: the built-in nodes in
``tests/e2e``, real ones in ``tests/real``.

======= ==============================================================================================
people  who sends what, and how the sender knows what became of it
sites   the nodes
run     one run: one kind of nodes, one trigger, all kinds of client at once
limits  THE table of what no proxy can save, with reasons and bounds; everything else has to be zero
report  what is printed
======= ==============================================================================================
"""
