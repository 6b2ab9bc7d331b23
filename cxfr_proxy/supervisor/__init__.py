"""The part that exists once in a proxy, and the workers as it sees them.

=============== =================================================================================================
supervisor      puts it together, and acts on what workers report
management      nodes, health, files and the operator's console
workers         the workers in their slots, and what they are told
orders          what goes on for as long as an operator wants it: drains, rolls, rebalances; and their state file
reading         what is read at the start and at each reload: settings, node list, user map, certificates
upgrading       the replacement of this proxy by a new process
peer_proxies    shares directives, pins and load with the other proxies
vacancy         logs that logins could be placed on no node
about           the proxy as a whole, as an operator is shown it
service_reports what the service manager is told while the proxy runs
startup_log     events of the proxy as a whole
=============== =================================================================================================

The supervisor imports nothing of a worker: :mod:`cxfr_proxy.ipc` has what both know.
"""
