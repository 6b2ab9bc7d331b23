"""The client's end of XEP-0051, for whoever writes clients: take the request, answer it, go where it says.

A proxy that asks is of use only if somebody follows. These are plugins for client libraries, small enough to be read
before they are trusted, and for authors of other clients the rules written out:

======================= ===============================================================================================
rules                   must this request be followed? A pure function of the stanza and the client's situation
slixmpp                 a plugin for slixmpp (``pip install 'cxfr-proxy[slixmpp]'``)
js/cxfr.js              an ES module without dependencies: the same rules, and adapters for strophe.js, xmpp.js and
                        stanza.js
======================= ===============================================================================================

docs/connection-transfer.md says why the rules are what they are. Nothing in the proxy uses this room.
"""
