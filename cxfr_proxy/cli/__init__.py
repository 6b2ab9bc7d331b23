"""The command line: ``cxfr-proxy [SETTINGS]`` serves, ``cxfr-proxy COMMAND`` speaks to a proxy that serves.

=========== ==================================================================================================
program     what runs: which of these is meant, and what a mistake looks like
exit_codes  what tells the outcome to scripts
parser      flags and commands, drawn from the tables of settings and of commands
speaking    sending a command to the proxy that runs, and showing its answers
checking    ``cxfr-proxy check``: the faults in the files
=========== ==================================================================================================

What a command needs is imported when it runs: ``show`` loads no TLS library and no part of a proxy.
"""

from cxfr_proxy.cli.program import main

__all__ = ["main"]
