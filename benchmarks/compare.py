"""This tree beside another commit of it, both driven by redis-benchmark.

Run it with `make bench-compare REF=main~3`.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks.options import add_plan, fight, plan_of
from benchmarks.servers import BenchmarkError, Keyhaus

_ROOT = Path(__file__).resolve().parent.parent
_DESCRIPTION = """\
Measures keyhaus as it stands in this tree beside keyhaus at another commit.

The other commit is checked out beside this one (git worktree, in a temporary directory) and installed into an
environment of its own with the versions that its own constraints.txt pins; both go away afterwards. What is measured,
and how, is the same as in `make bench`; the harness is this tree's.
"""
_EPILOG = """\
examples:
  make bench-compare REF=main~3
  make bench-compare REF=v0.1.0 ARGS='--modes memory --pipelines 1,16 --rounds 9'
"""


def git(*words: str) -> str:
    """What git answers. Raises BenchmarkError with its complaint."""
    run = subprocess.run(["git", "-C", str(_ROOT), *words], capture_output=True, text=True, check=False)
    if run.returncode:
        raise BenchmarkError(f"git {' '.join(words)}: {run.stderr.strip()}")
    return run.stdout.strip()


@contextlib.contextmanager
def installed(reference: str, console: Console) -> Iterator[tuple[str, Path]]:
    """A commit in an environment of its own: its short name and the environment's interpreter."""
    commit = git("rev-parse", "--short", "--verify", f"{reference}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="keyhaus-compare-") as scratch:
        tree, environment = Path(scratch) / "tree", Path(scratch) / "venv"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            with console.status(f"Installing {commit}"):
                _run([sys.executable, "-m", "venv", str(environment)])
                python = environment / "bin" / "python"
                pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
                pins = tree / "constraints.txt"
                _run([*pip, *(["--constraint", str(pins)] if pins.exists() else []), str(tree)])
            yield commit, python
        finally:
            git("worktree", "remove", "--force", str(tree))


def _run(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise BenchmarkError(f"{' '.join(command)} failed:\n{run.stdout}{run.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make bench-compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("reference", help="the commit, branch or tag to compare with (REF=…)")
    add_plan(parser)
    options = parser.parse_args()
    console = Console(stderr=True)
    try:
        plan = plan_of(options)
    except ValueError as error:
        parser.error(str(error))
    try:
        with installed(options.reference, console) as (commit, python):
            fight(plan, Keyhaus("this tree"), Keyhaus(commit, python), console, options)
    except BenchmarkError as error:
        console.print(error, style="red", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
