"""A hurried store: what it does in its own time happens within a few milliseconds; and bounds that are met."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Final
from unittest.mock import patch

from keyhaus.core import limits
from keyhaus.store import optimistic, outcomes, sweeper, transactions, turns

BOUNDED: Final = 0.2  # of all histories


@contextlib.contextmanager
def hurried(generator: random.Random) -> Iterator[None]:
    """Sweeps and time-outs come every few milliseconds, ranges are validated in slices of a few keys."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(sweeper, "SWEEP_MS", generator.choice((1, 2, 5, 50))))
        stack.enter_context(patch.object(transactions, "WATCH_MS", 1))
        stack.enter_context(patch.object(optimistic, "SLICE_KEYS", generator.choice((1, 1, 2, 2000))))
        stack.enter_context(patch.object(turns, "ROUNDS_FREE", generator.choice((0, 1, 2, 2))))
        yield


@contextlib.contextmanager
def bounded(seed: int) -> Iterator[None]:
    """In some histories little may be locked, read, written, or remembered of what has ended."""
    choice = (generator := random.Random(f"bounds {seed}")).choice
    if generator.random() > BOUNDED:
        yield
        return
    most = choice((1_000, 3_000, 1 << 30))
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(limits, "TRANSACTION_READ_BYTES_MAX", choice((600, 1500, 1 << 30))))
        stack.enter_context(patch.object(limits, "TRANSACTION_RANGES_MAX", choice((1, 2, 1000))))
        stack.enter_context(patch.object(limits, "LOCKED_RANGES_MAX", choice((2, 4, 1000))))
        stack.enter_context(patch.object(outcomes, "OUTCOMES_MAX", choice((1, 5, 100_000))))
        stack.enter_context(patch.object(transactions.Transactions, "_set_most_bytes", _at_most(most)))
        yield


def _at_most(bound: int) -> Callable[[transactions.Transactions, int], None]:
    def set_most_bytes(open_ones: transactions.Transactions, most: int) -> None:
        open_ones.most_bytes = min(bound, most)

    return set_most_bytes
