"""Sources of the list of nodes.

========= ==========================================================================================
source    what a source is: it gives readings, knows how it is, and may share directives and pins
named     the source that an operator names
file      a file, looked at every second
dns       SRV records, looked up when their time is over
etcd      keys in etcd, which several proxies share
gateway   etcd's JSON gateway: requests, watches, leases
========= ==========================================================================================
"""
