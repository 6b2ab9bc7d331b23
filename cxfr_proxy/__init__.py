"""cxfr-proxy: a front proxy for XMPP client connections that moves clients instead of cutting them off.

The map of the package; each room opens with its own theory:

========== =====================================================================================
errors     whose fault it is: :class:`ConfigError`, :class:`ClientError`, :class:`NodeError`
units      how quantities are written: ``500ms``, ``2m``
xmpp       what goes over the wire: framing, stanzas, stream opening, XEP-0051. Sans-IO
cluster    which nodes there are, and who belongs where. Sans-IO, but ``sources``
plugins    for clients: the other end of XEP-0051; nothing here uses it
config     every setting, with its default and the reason for it: one table
session    one client, from header to last byte: a state table. Sans-IO, but ``mover``
relay      sockets: listening, TLS, dialling, and the pump that carries the bytes
admin      what an operator can say: one table of commands
process    the running proxy: its tasks, its signals, its control socket
demo       a small XMPP node and clients, behind ``cxfr-proxy demo`` and the tests
cli        the command line
========== =====================================================================================

Imports run from the lower rows up to the higher ones, never back (``tests/test_shape.py`` reads them). "Sans-IO"
means that a room neither touches a socket nor reads a clock nor throws dice: time and chance come in as arguments.
"""

__version__ = "0.1.0"
