"""Where the list of nodes comes from.

A source has two methods: ``load()`` gives the specs as they stand now or raises
:class:`~cxfr_proxy.errors.ConfigError`, and ``wait_changed()`` returns once loading again is worth while. A
source never touches the live :class:`~cxfr_proxy.cluster.members.Cluster`, so a reading that fails changes
nothing.
"""
