"""Every setting: one table (:mod:`.table`), how values are written (:mod:`.values`), how it is read and documented."""
