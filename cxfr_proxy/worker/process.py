"""A worker as a process of its own: a fresh interpreter that was given its sockets, and one end of a channel.

Signals of an operator are the supervisor's, and ignored here: service managers send them to every process.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence

import trio

from cxfr_proxy import events, gc_policy, log_hooks, signals
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.channel import StreamChannel
from cxfr_proxy.ipc.codec import MESSAGES
from cxfr_proxy.ipc.messages import Setup
from cxfr_proxy.net.names import look_up_apart
from cxfr_proxy.net.tls_watch import watching_tls
from cxfr_proxy.process_title import name_process
from cxfr_proxy.worker.worker import Worker

_log = logging.getLogger(__name__)


def main() -> None:
    """Serve as the worker that ``worker CHANNEL_DESCRIPTOR LISTENING_DESCRIPTOR ...`` starts."""
    signals.ignore()
    events.open_log(events.LogFormat.TEXT, events.LogLevel.INFO, sys.stderr)  # until it is told how
    log_hooks.install()
    channel, *listening = map(int, sys.argv[1:])
    sys.exit(trio.run(_main, channel, listening))


async def _main(channel: int, listening: Sequence[int]) -> int:
    look_up_apart()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(_inherited(channel)))
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(_inherited(each))) for each in listening]
    try:
        with watching_tls():
            await Worker(StreamChannel(stream, MESSAGES), listeners, _configure).run()
    except ConfigError as exc:
        emit(_log, "worker-fault", level=logging.ERROR, reason=str(exc))
        return 2
    return 0


def _inherited(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


def _configure(setup: Setup) -> None:
    name_process(f"cxfr-worker-{setup.number}", f"cxfr-proxy: worker {setup.number}")
    config = setup.taking.config
    events.open_log(config.log_format, config.log_level, sys.stderr)
    gc_policy.settle()


if __name__ == "__main__":
    main()
