"""The choices on the command line, for all benches alike."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench import machine, programs, relays
from bench.load import Load, load
from bench.programs import Folder, Missing
from bench.relays import Kind, Setup, relay
from bench.report import Report


@dataclass(frozen=True, slots=True)
class Options:
    """``engine`` is the proxy's framing engine; ``proxy_options`` go to the proxy as they are.

    ``rounds``, ``seconds``, ``sessions``, ``workers`` and ``rate`` ``None``: what the bench itself finds right.
    ``rate``, in clients a second, and ``tls`` are for the benches with moving clients.
    """

    quick: bool = False
    engine: str = "native"
    proxy_options: tuple[str, ...] = ()
    rounds: int | None = None
    seconds: float | None = None
    sessions: int | None = None
    workers: int | None = None
    rate: float | None = None
    tls: bool = False

    def rounds_or(self, usual: int, quick: int) -> int:
        return self.rounds or (quick if self.quick else usual)

    def seconds_or(self, usual: float, quick: float) -> float:
        return self.seconds or (quick if self.quick else usual)


def new_report(name: str, options: Options) -> Report:
    """With what a reader has to know of machine and programs."""
    return Report(name, options.quick, machine.describe() | relays.describe(options.engine))


@contextlib.contextmanager
def new_setup(options: Options, *, tls: bool, workers: int = 1) -> Iterator[Setup]:
    """A temporary folder, a certificate if there is TLS, and the cores. ``workers``: if none were asked for."""
    workers = options.workers or workers
    with contextlib.closing(Folder()) as folder:
        yield Setup(
            tls=tls,
            folder=folder,
            cores=machine.cores(workers),
            certificate=programs.new_certificate(folder) if tls else None,
            engine=options.engine,
            workers=workers,
            options=options.proxy_options,
        )


@contextlib.contextmanager
def loads(kinds: Iterable[Kind], setup: Setup, missing: list[str]) -> Iterator[list[Load]]:
    """A load for each of these relays, all running at once; why one is not there goes to ``missing``.

    Behind TLS there is no bare relay, and ``DIRECT`` stays plain.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for kind in kinds:
            if setup.tls and not (kind.speaks_tls or kind is Kind.DIRECT):
                continue
            try:
                found.append(stack.enter_context(load(stack.enter_context(relay(kind, setup)), setup)))
            except Missing as exc:
                if str(exc) not in missing:
                    missing.append(str(exc))
        yield found


def tell(text: str) -> None:
    """Progress, for whoever waits."""
    print(f"  … {text}", file=sys.stderr, flush=True)
