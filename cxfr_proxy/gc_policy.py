"""The garbage collector of a process that holds many sessions.

While it runs nothing is served, and a full collection looks at every object there is. With Python's own thresholds the
worst pause was 440 to 680 ms, measured (Python 3.11) with 9,800 idle sessions in the pump, 490,000 objects, while they
came, and while all of them went and came; as it is here, 1.7 ms (2.8 ms on a machine with much else to do).
``gc.freeze()`` alone changes nothing: sessions come later than it. So:

* The oldest generation is never collected. That is possible because a session that is over leaves no circles behind:
  what it held is freed by reference counts, which a test counts. The young generations are still looked at, for the
  circles that an exception makes with its traceback.
* The young are looked at every few sessions, and not only when Python thinks so. Python counts objects that were made
  less those that were freed, of whatever age: while as many sessions go as come, the count stands still, and what has
  come becomes one large young generation (measured: 45 ms, when at last it was looked at).
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 3_500
"""Objects made and not freed before the youngest generation is looked at: half a millisecond."""
MIDDLE: Final = 1
"""Collections of the youngest generation before one of the middle: what a session is made of would be looked at twice,
in the one and then in the other, and nearly all of it stays."""
OLD: Final = 1_000_000_000
"""Collections of the middle generation before one of the oldest: never."""

SESSIONS: Final = 60
"""That come before both are looked at: some 50 objects each, so about :data:`YOUNG`."""


def settle() -> None:
    """Call it once, when all is loaded: what there is now stays for good, and is looked at no more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)


class Turns:
    """Looks at the young generations as sessions come; does nothing where the collector is switched off."""

    def __init__(self) -> None:
        self._came = 0

    def session_comes(self) -> None:
        """Call it for each."""
        self._came += 1
        if self._came % SESSIONS == 0 and gc.isenabled():
            gc.collect(1)
