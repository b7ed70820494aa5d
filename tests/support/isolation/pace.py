"""A hurried store: what it does in its own time happens within the few milliseconds of a history."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from unittest.mock import patch

from keyhaus.store import optimistic, sweeper, transactions, turns


@contextlib.contextmanager
def hurried(generator: random.Random) -> Iterator[None]:
    """Sweeps and time-outs come every few milliseconds, ranges are validated in slices of a few keys."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(sweeper, "SWEEP_MS", generator.choice((1, 2, 5, 50))))
        stack.enter_context(patch.object(transactions, "WATCH_MS", 1))
        stack.enter_context(patch.object(optimistic, "SLICE_KEYS", generator.choice((1, 1, 2, 2000))))
        stack.enter_context(patch.object(turns, "ROUNDS_FREE", generator.choice((0, 1, 2, 2))))
        yield
