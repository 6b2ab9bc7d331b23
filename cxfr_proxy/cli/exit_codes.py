"""Exit codes tell the outcome to scripts:

===== ==================================================================================
0     done; for ``--wait``: the node can be stopped, all workers are replaced, all who had to move were
      asked; for ``roll``: all nodes are restarted; for ``check``: no faults
1     ``--wait``: not empty at the deadline, not all replaced, not all asked; ``roll``: it has stopped on
      its way; ``--plan``: logins would be refused; ``check`` and ``reload``: there are faults
2     the operator's mistake (usage, settings, unknown node, no proxy running): one line says which
130   interrupted; what was started goes on
141   nobody reads the output any more; what was started goes on
===== ==================================================================================
"""

from __future__ import annotations

from typing import Final

OK: Final = 0
UNFINISHED: Final = 1
FAULTS: Final = 1
MISTAKE: Final = 2
INTERRUPTED: Final = 130
"""Exit code that shells give a program that SIGINT ended."""
UNREAD: Final = 141
"""The same for SIGPIPE."""
