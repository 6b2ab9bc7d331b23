"""Things that a machine may lack, for tests that can't do without them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

has_proc: Final = Path("/proc/self").exists()

needs_proc = pytest.mark.skipif(not has_proc, reason="/proc is read, which is not mounted here")
