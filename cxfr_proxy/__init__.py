"""cxfr-proxy: a front proxy for XMPP client connections that moves clients instead of cutting them off.

The map of the package, from the ground up; each room's ``__init__`` has the map of its modules, and each module opens
with its own theory:

================ ==============================================================================================
errors           whose fault it is: :class:`ConfigError`, :class:`ClientError`, :class:`NodeError`
events           the log: one line for each event, for people or for programs
log_writer       lines are written by a thread, so that nobody waits for the disk
log_sums         what one stranger could repeat without end, summed up
log_latest       the latest warnings and errors, for whoever asks what has gone wrong
log_hooks        what Python itself would write to standard error, as events
tasks            a fault in one task ends what that task serves, and nothing else
bounded          a dictionary that forgets its oldest entries
units            how quantities are written: ``500ms``, ``2m``
speed            how fast a count changes
spellings        one key for all spellings of an account or a domain, and for all addresses of a client
gc_policy        when the garbage collector of a process with many sessions looks at what
file_lock        a lock that at most one program has, and that can be handed over
engines          the choice between an engine in C and the one in Python that does the same
files            what can be read of the files that an operator names
process_figures  what a process costs, as the system counts it
process_title    the names under which processes are listed
service_manager  what systemd is told: ready, reloading, stopping, alive
shortage         what this machine lacks, told from what is wrong with a file or with the other end
signals          signals that arrive before the proxy can act on them

xmpp             what goes over the wire: framing, stanzas, stream opening, XEP-0051. Sans-IO
cluster          which nodes there are, and who belongs where. Sans-IO, but ``sources``
plugins          for client programs: the other end of XEP-0051; nothing here uses it
config           every setting, with its default and the reason for it: one table
net              sockets, TLS and PROXY headers; knows no XMPP
session          one client, from header to last byte: bytes and time in, commands out. Sans-IO
transfers        many clients: the live sessions, who moves when and where to, who returns
upstream         towards the nodes: reaching them, checking them, asking whose a client is
relay            the bytes of every session: the pump, and a connection until the pump has it
admin            what an operator can ask and order: one table of commands, one of metrics
ipc              what supervisor and workers tell each other, and what carries it
worker           what serves clients
supervisor       what there is one of: nodes, health, drains, pace, peers; and the workers, in slots
proxy            the running proxy, put together of these, and its signals
doctor           what is wrong with the nodes: facts that were collected, and rules that judge them
demo             a small XMPP world, behind ``cxfr-proxy demo`` and the tests
cli              the command line
__main__         ``python -m cxfr_proxy``: holds signals back, then runs the command line
================ ==============================================================================================

Imports run one way: a room imports those above it in this list, never those below (``tests/test_shape.py`` reads them).
"Sans-IO" means that a room neither touches a socket nor reads a clock nor throws dice: time and chance come in as
arguments.
"""

__version__ = "0.1.0"
