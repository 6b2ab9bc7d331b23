"""The client's end of XEP-0051, for authors of clients: take the request, answer it, move.

A proxy that asks is of use only if clients follow. These are plugins for client libraries, small enough to be read
before they are trusted, and the rules written out for authors of other clients:

======================= ===============================================================================================
rules                   must this request be followed? A pure function of the stanza and the client's situation
slixmpp                 a plugin for slixmpp (``pip install 'cxfr-proxy[slixmpp]'``)
js/cxfr.js              an ES module without dependencies: the same rules, and adapters for strophe.js, xmpp.js and
                        stanza.js
======================= ===============================================================================================

docs/connection-transfer.md gives the reasons for the rules. Nothing in the proxy uses this room.
"""
