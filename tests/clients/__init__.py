"""The client matrix: real client programs behind the proxy, and which of them are back after which kind of move.

::

    16 programs -> the proxy (2 workers) -> node1, then node2

``PYTHONPATH=tests:tests/helpers python -m clients`` plays it all and prints the table as it goes; with
``--markdown FILE`` the table goes there too (docs/clients.md has one). ``--programs``, ``--clusters`` and
``--triggers`` play less, ``--quick`` only the programs that install in a minute. A program that is
not here is a row that says so.

========= ============================================================================================================
catalogue the programs: how each is got, which version it is, how it is started
terminal  programs that want a terminal, and those that don't
run       one run: one cluster, one trigger, all programs at once
table     what is printed
programs/ the smallest program of each library that behaves as the library comes
========= ============================================================================================================

Whether a client is back, and after how long, the proxy says (``returned`` in its log). How many messages survive is
another matter (:mod:`matrix`).
"""
