"""Every setting.

=============== ==========================================================================================
table           the table: each setting with its default, its help and the reason for it
timeouts        its rows that are times
values          how values are written: one :class:`~.values.ValueType` for each kind of value
choices         settings that are one of a few words
settings        how a table is read: flags, environment, file; and how it is documented
source          where the settings of a process are from, to read them again
hints           what check says of settings that hardly fit together
control_places  where the control socket is by default
=============== ==========================================================================================
"""
