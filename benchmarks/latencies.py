"""Many latencies in few figures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


class Latencies(msgspec.Struct, frozen=True):
    """The distribution of some latencies, in milliseconds; all 0 where there are none."""

    count: int
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p99_ms: float = 0.0
    p999_ms: float = 0.0
    max_ms: float = 0.0

    def cells(self) -> list[str]:
        """The figures as a table shows them, the count first."""
        if not self.count:
            return ["0", *["–"] * 5]
        figures = (self.p50_ms, self.p90_ms, self.p99_ms, self.p999_ms, self.max_ms)
        return [f"{self.count:,}", *(f"{figure:.3f}" if figure < 10 else f"{figure:.1f}" for figure in figures)]


CELLS: Final = ["count", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"]


def summary(nanoseconds: Iterable[int]) -> Latencies:
    """Sums up latencies; a quantile is the least latency that so large a part of them does not exceed."""
    ordered = sorted(nanoseconds)
    if not ordered:
        return Latencies(0)
    count = len(ordered)
    chosen = (ordered[max(0, math.ceil(count * part) - 1)] for part in QUANTILES.values())
    p50, p90, p99, p999 = (nanos / 1e6 for nanos in chosen)
    return Latencies(count, p50, p90, p99, p999, ordered[-1] / 1e6)
