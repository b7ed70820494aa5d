"""How long to wait before another try: twice as long each time, up to a bound, times a random share ("full jitter").

After M. Brooker, "Exponential Backoff And Jitter" (2015): those who met once do not meet again at the same moment.
"""

from __future__ import annotations

import random
from typing import Final

FIRST_SECONDS: Final = 0.01
SECONDS_MAX: Final = 1.0


def pause(failures: int) -> float:
    """Seconds to wait after so many failures, from 1 on."""
    return random.uniform(0, min(SECONDS_MAX, FIRST_SECONDS * 2.0 ** min(failures - 1, 30)))
