"""The Debian package under a systemd of its own, by hand and as root: ``python -m deployed --help``.

======== =============================================================================================
boot     makes of a Debian root what systemd needs as process 1; a script
booted   the namespaces around it, and programs that run inside
story    what an operator does, from the installation to the purge, and what has to be true behind it
======== =============================================================================================
"""
