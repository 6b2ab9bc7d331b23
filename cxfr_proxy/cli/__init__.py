"""The command line: ``cxfr-proxy [SETTINGS]`` serves, ``cxfr-proxy COMMAND`` speaks to a proxy that serves.

=========== ==================================================================================================
program     chooses between the two, and reports mistakes
exit_codes  tell the outcome to scripts
parser      flags and commands, drawn from the tables of settings and of commands
speaking    sending a command to the proxy that runs, and showing its answers
rolling     a rolling restart: the command that restarts nodes runs here
checking    ``cxfr-proxy check``: the faults in the settings and files
connecting  ``cxfr-proxy check --connect``: whether each node can be reached
=========== ==================================================================================================

A command imports what it needs when it runs: ``show`` loads no TLS library and no part of a proxy.
"""

from cxfr_proxy.cli.program import main

__all__ = ["main"]
