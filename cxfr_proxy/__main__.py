"""``python -m cxfr_proxy`` is ``cxfr-proxy``."""

from __future__ import annotations

import sys

from cxfr_proxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
