"""Runs histories: `python -m tests.support.isolation SEEDS [--ground memory|durable] [--leave-out RULE] [--trace]`."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.support.isolation.histories import GROUNDS, Report, history, run_all
from tests.support.isolation.left_out import DURABLE, LEFT_OUT, MEMORY, left_out
from tests.support.simulate.__main__ import seeds_of

SHOWN_MAX = 20  # failures
SHOWN_SECONDS = 10


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.isolation",
        description="Random histories of transactions and commands, checked for strict serializability and durability.",
    )
    parser.add_argument("seeds", help="4711, or 1-1000, or 1,5,100-200")
    parser.add_argument("--ground", choices=sorted(GROUNDS), help="only the store in memory, or only the durable one")
    parser.add_argument("--trace", action="store_true", help="print each step of each seed, one after the other")
    parser.add_argument("--leave-out", metavar="RULE", choices=sorted(LEFT_OUT), help="stop once a history breaks")
    parser.add_argument("--weak", action="store_true", help="stop also where only another order explains a history")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes")
    parser.add_argument("--rules", action="store_true", help="list the rules that can be left out, and do nothing else")
    return parser.parse_args()


def _trace(seeds: list[int], ground: str, rule: str | None) -> int:
    failures = 0
    for seed in seeds:
        print(f"seed {seed}, {ground}")
        with left_out(rule):
            broken, world = history(seed, ground, print)
        for operation in sorted(world.recorder.all, key=lambda operation: operation.point):
            print(f"  {operation}")
        print(f"seed {seed}, {ground}: {broken or 'nothing broke'}, digest {world.recorder.digest():08x}")
        failures += broken is not None
    return int(failures > 0)


def _show(report: Report, ground: str, seconds: float) -> None:
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(report.counts.items()))
    attempts = report.counts["attempts"]
    print(
        f"{ground}: {report.histories:,} histories in {seconds:.1f} s, {report.committed:,} committed transactions, "
        f"{report.contention:.0%} of {attempts:,} attempts in contention, {len(report.broken)} anomalies"
    )
    print(f"  {counts}")


def _run(seeds: list[int], ground: str, arguments: argparse.Namespace) -> Report:
    begun = shown = time.monotonic()
    total = Report()
    rule = arguments.leave_out
    for report in run_all(seeds, ground, arguments.jobs, rule):
        total.add(report)
        for seed, broken in report.broken[:SHOWN_MAX]:
            print(f"seed {seed}, {ground}: {broken}", flush=True)
            again = f"--leave-out {rule} " if rule else ""
            print(f"  again: python -m tests.support.isolation {seed} --ground {ground} {again}--trace", flush=True)
        if rule and any(arguments.weak or not broken.startswith("ELSEWHERE") for _, broken in total.broken):
            print(f"{rule} ({LEFT_OUT[rule][0]}): found after {total.histories} histories")
            break
        if time.monotonic() - shown > SHOWN_SECONDS:
            shown = time.monotonic()
            print(f"… {ground}: {total.histories:,} of {len(seeds):,}, {len(total.broken)} broken", flush=True)
    _show(total, ground, time.monotonic() - begun)
    return total


def main() -> int:
    arguments = _arguments()
    if arguments.rules:
        for name, (text, ground, _) in LEFT_OUT.items():
            print(f"{name:20} {ground:8} {text}")
        return 0
    rule = arguments.leave_out
    grounds = [arguments.ground] if arguments.ground else [LEFT_OUT[rule][1]] if rule else [MEMORY, DURABLE]
    seeds = seeds_of(arguments.seeds)
    if arguments.trace:
        return max(_trace(seeds, ground, rule) for ground in grounds)
    reports = [_run(seeds, ground, arguments) for ground in grounds]
    broken = any(report.broken for report in reports)
    return int(broken is not (rule is not None))


if __name__ == "__main__":
    sys.exit(main())
