"""Runs seeds: `python -m tests.support.simulate SEEDS`, or `make simulate SEEDS=…`."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.support.simulate.histories import Report, history, run_all
from tests.support.simulate.planted import PLANTED, planted

SHOWN_MAX = 20  # failures


def seeds_of(text: str) -> list[int]:
    """The seeds that a text names: numbers and ranges, with commas between them."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        seeds += range(int(first), int(last if dash else first) + 1)
    return seeds


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.support.simulate", description=__doc__)
    parser.add_argument("seeds", help="4711, or 1-1000, or 1,5,100-200")
    parser.add_argument("--trace", action="store_true", help="print each step of each seed, one after the other")
    parser.add_argument("--plant", choices=sorted(PLANTED), help="leave out a rule, and stop once a seed breaks")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes")
    return parser.parse_args()


def _trace(seeds: list[int], plant: str | None) -> int:
    failures = 0
    for seed in seeds:
        print(f"seed {seed}")
        with planted(plant):
            broken, world = history(seed, print)
        print(f"seed {seed}: {broken or 'nothing broke'}, digest {world.oracle.digest():08x}")
        failures += broken is not None
    return int(failures > 0)


def _show(report: Report, seconds: float) -> None:
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(report.counts.items()))
    print(f"{report.seeds:,} seeds in {seconds:.1f} s, {report.seeds / seconds:.1f} a second: {counts}")


def main() -> int:
    arguments = _arguments()
    seeds = seeds_of(arguments.seeds)
    if arguments.trace:
        return _trace(seeds, arguments.plant)
    begun = shown = time.monotonic()
    total = Report()
    for report in run_all(seeds, arguments.jobs, arguments.plant):
        total.add(report)
        for seed, broken in report.broken[:SHOWN_MAX]:
            print(f"seed {seed}: {broken}\n  replay it: make simulate SEEDS={seed} ARGS=--trace", flush=True)
        if arguments.plant and total.broken:
            print(f"{arguments.plant} ({PLANTED[arguments.plant][0]}): found after {total.seeds} seeds")
            return 0
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            rate = total.seeds / (shown - begun)
            print(f"… {total.seeds:,} of {len(seeds):,}, {rate:.1f} a second, {len(total.broken)} broken", flush=True)
    _show(total, time.monotonic() - begun)
    if total.broken:
        print(f"{len(total.broken)} seeds broke: {' '.join(str(seed) for seed, _ in sorted(total.broken)[:SHOWN_MAX])}")
    return int(bool(total.broken) or arguments.plant is not None)


if __name__ == "__main__":
    sys.exit(main())
