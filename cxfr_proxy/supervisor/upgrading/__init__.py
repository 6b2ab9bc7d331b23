"""The replacement of a running proxy by a new process: ``cxfr-proxy upgrade``.

The old one starts the new one, hands its sockets over and moves its clients; see the messages in :mod:`.handover`.

=========== ==============================================================
successor   in the old one: replaces this proxy by a new process
predecessor in the new one: takes the place of a proxy that runs
succession  the parts of a supervisor that are handed over, and taken over
handover    what the two tell each other
relaying    what an operator asks of all clients, asked of the old one too
=========== ==============================================================
"""
