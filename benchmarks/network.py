"""keyhaus beside redis-server over the network, both driven by redis-benchmark.

Run it with `make bench`, or `python -m benchmarks.network --help` in the environment that `make test` makes.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from benchmarks.options import add_plan, fight, plan_of
from benchmarks.servers import BenchmarkError, Contender, Keyhaus, Redis

_DESCRIPTION = """\
Runs redis-benchmark against keyhaus and redis-server in turn and prints the ratio of their throughputs.

Both servers run at once, on the loopback, pinned to the same core; the load generator has another one. Each line of the
table is measured in pairs, one right after the other, and who goes first alternates; the ratio is the median of the
pairs', the brackets are their least and greatest. CPU is the time that the server with all its threads and helpers
spent per request, in microseconds.

modes:
  memory    keyhaus --engine memory         redis: no snapshots, no append-only file
  durable   keyhaus as it is by default     redis: --appendonly yes --appendfsync always
            (every confirmed write is on the disk, in both)
"""
_EPILOG = """\
examples:
  make bench                                          everything; takes its time
  make bench ARGS=--quick                             whether it runs at all, in seconds
  make bench ARGS='--modes memory --pipelines 16 --rounds 9 --json memory.json'
  make bench ARGS='--keyhaus-options "--durability everysec" --modes durable'
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="make bench",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_plan(made)
    made.add_argument("--keyhaus-options", default="", help="more options for keyhaus serve")
    made.add_argument("--redis-only", action="store_true", help="redis-server beside itself: the noise of the ratios")
    return made


def main() -> int:
    made = parser()
    options = made.parse_args()
    console = Console(stderr=True)
    try:
        plan = plan_of(options)
    except ValueError as error:
        made.error(str(error))
    ours: Contender = Redis("redis-2") if options.redis_only else Keyhaus(options=options.keyhaus_options.split())
    try:
        fight(plan, ours, Redis(), console, options)
    except BenchmarkError as error:
        console.print(error, style="red", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
