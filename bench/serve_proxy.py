"""``python -m bench.serve_proxy ENGINE ARGUMENT...``: the proxy's own command line, with a framing engine chosen.

The proxy takes the fastest engine there is, and has no setting for it. What it starts itself chooses again.
"""

from __future__ import annotations

import sys

from cxfr_proxy import cli
from cxfr_proxy.xmpp import framing


def main() -> int:
    engine, *arguments = sys.argv[1:]
    framing.use(engine)
    sys.argv = ["cxfr-proxy", *arguments]
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
