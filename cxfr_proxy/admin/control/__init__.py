"""The control socket: how a command reaches the proxy that runs.

=========== =========================================================================================
socket_file the unix socket and its lock: one proxy at a time has it, and a stale one is replaced
server      one connection, one request, its answers
peer        the process at the other end of the socket
client      the other end, which the command line uses
=========== =========================================================================================

A request is a line of JSON, and so is each of its answers::

    -> {"command": "drain", "arguments": {"node": "node1", "wait": true}}
    <- {"progress": {"node": "node1", "left": 512, ...}}      as often as there is some
    <- {"note": {"note": "worker 2 has not answered ..."}}    what has to be known of the result
    <- {"result": ...}    or    {"error": {"message": "..."}}     once; then the proxy closes
"""
