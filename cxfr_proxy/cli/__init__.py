"""The command line: ``cxfr-proxy [SETTINGS]`` serves, ``cxfr-proxy COMMAND`` speaks to a proxy that serves.

=========== ==================================================================================================
program     chooses between the two, and reports mistakes
exit_codes  tell the outcome to scripts
parser      flags and commands, drawn from the tables of settings and of commands
hints       mistyped words and flags, and what may have been meant
speaking    sending a command to the proxy that runs, once or again and again
screen      showing its answers
rolling     a rolling restart: the command that restarts nodes runs here
completion  completion scripts for shells
manual      the manual page
time_left   how long something still takes
checking    ``cxfr-proxy check``: the faults in the settings and files
doctoring   ``cxfr-proxy doctor``: what is wrong with the nodes, and how to mend it
connecting  ``cxfr-proxy check --connect``: whether each node can be reached
=========== ==================================================================================================

A command imports what it needs when it runs: ``show`` loads no TLS library and no part of a proxy.
"""

from cxfr_proxy.cli.program import main

__all__ = ["main"]
