"""Random stories for the relay loop in C, built with sanitizers, and for the one in Python: they must do the same.

Run it from the checkout's root; the same seed and number of stories give the same stories again::

    python tests/fuzz/relay_fuzz.py --stories 100000 --seed 1

``tests/helpers/relay_twins.py`` says what a story is, and what is compared. The first fault of memory ends the run
with the sanitizer's report. ``--tests`` runs the tests of the relay loop with that engine instead.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from framing_fuzz import ROOT, SCANNER, build, compiler, load, sanitized

ENGINES = {
    SCANNER: "cxfr_proxy/xmpp/framing/_scan.c",
    "cxfr_proxy.xmpp.websocket._frames": "cxfr_proxy/xmpp/websocket/_frames.c",
    "cxfr_proxy.relay._turn": "cxfr_proxy/relay/_turn.c",
}
"""In the order in which they need each other."""


def run(directory: Path, first: int, stories: int, *, tests: bool, websocket: bool) -> int:
    """In this process, with what was built there."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/helpers")]
    for name, source in ENGINES.items():
        load(directory / Path(source).with_suffix(".so").name, name)
    import relay_tools
    import relay_twins
    import trio

    if tests:
        import pytest

        return pytest.main(["-q", "-p", "no:cacheprovider", "tests/relay/test_relay_turn.py"])
    logging.disable(logging.CRITICAL)  # stories have faults in them
    certificate = relay_tools.write_pem(directory, "example.org")
    contexts = relay_tools.client_context(certificate), relay_tools.server_context(certificate)

    async def compare() -> list[str]:
        return relay_twins.compare(range(first, first + stories), contexts, websocket=websocket)

    found = trio.run(compare)
    for text in found[:10]:
        print("DIFFERENCE", text)
    print(f"{stories} stories from seed {first}: {len(found)} differences")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=int, default=10_000, help="so many (default: 10,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the first; each has the next")
    parser.add_argument("--websocket", action="store_true", help="with clients on WebSocket")
    parser.add_argument("--tests", action="store_true", help="run the tests of the relay loop instead")
    parser.add_argument("--engines", type=Path, help="where they are: don't build them, and run in this process")
    options = parser.parse_args()
    if options.engines is not None:
        return run(options.engines, options.seed, options.stories, tests=options.tests, websocket=options.websocket)
    if compiler() is None:
        parser.error("needs gcc")
    with tempfile.TemporaryDirectory() as directory:
        for source in ENGINES.values():
            build(Path(directory), source=source)
        return sanitized(__file__, ["--engines", directory, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
