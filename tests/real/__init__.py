"""Tests against real programs: Prosody and ejabberd as nodes, slixmpp and aioxmpp as clients.

How they stand together, left to right as the bytes go::

    clients/ (slixmpp, aioxmpp: own processes)  ->  proxy.py  ->  tap.py  ->  prosody.py | ejabberd.py
    raw.py   (a client made by hand)

``wire`` reads what was recorded on both sides, ``accounting`` compares the two: what a node handed over against what
its client read, what a client wrote against what reached the node. Neither asks the proxy anything.
"""
