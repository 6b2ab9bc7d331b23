"""Every setting.

=============== ==========================================================================================
table           the table: each setting with its default, its help and the reason for it
serving         its rows about how clients are served
moving          its rows about how clients are moved
timeouts        its rows that are times
limits          its rows that are sizes
operating       its rows about the proxy's own surface: control, metrics, log
values          how values are written: one :class:`~.values.ValueType` for each kind of value
choices         settings that are one of a few words
settings        how a table is read: flags, environment, file; and how it is documented
sample          a settings file to begin with, drawn from the table
source          where the settings of a process are from, to read them again
current         the settings in use, and which others a proxy that runs can take
hints           what check says of settings that hardly fit together
control_places  where the control socket is by default
=============== ==========================================================================================
"""
