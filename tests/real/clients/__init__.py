"""Real client libraries, many clients in a process of their own, driven by JSON lines.

``fleet`` is the side of the test (trio). ``driver`` is the side of the process (asyncio), ``use_slixmpp`` and
``use_aioxmpp`` the two programs. One JSON object a line.

Commands, all with ``"do"``::

    connect       users [[name, resource]...], domain, password, host, port,
                  tls ("starttls" | "direct" | "none"), ca (path, or null: verify nothing), stream_management,
                  transfer (null, or an object: the XEP-0051 plugin's configuration; slixmpp only)
    send          plan [[name, [recipient JID...]]...], rate (a second and sender), tag,
                  count (each; null: until stopped)
    stop_sending
    wire          -> one "wire" event: all bytes of all connections so far
    quit          close the streams, end

Events, all with ``"event"``, ``"user"``, ``"at"`` (monotonic seconds)::

    connected     jid, seconds since the connection was lost (null the first time), resumed
    disconnected  reason
    message       from, id, body
    sent          to, id: handed to the library (what reached the wire is in "wire")
    error         id, from, condition: an error stanza
    transfer      step ("requested" | "moved" | "failed"), server, unacknowledged: the XEP-0051 plugin's events
    sending_done  (user null) all of a plan with a count was sent
    wire          (user null) connections {user: [{opened, closed, up [[at, latin-1 text]...], down}]}
"""
