"""What all tests share: the seed, hypothesis' profiles, and the count of tests per kind.

Every random choice of a test comes from the `seed` fixture or from hypothesis; both follow from the one number that
stands in pytest's header. `KEYHAUS_SEED=number` runs the same choices again. `KEYHAUS_HYPOTHESIS=soak` tries many more
examples.
"""

from __future__ import annotations

import os
import secrets
import signal
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

_TESTS = Path(__file__).parent
_SEED = pytest.StashKey[int]()
_OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")

# On a busy machine one slow example says nothing, so there is no deadline. The blob repeats a failure exactly.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile(
    "soak",
    settings.get_profile("default"),
    max_examples=5_000,
    stateful_step_count=200,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Begun in the background by a shell: programs of the tests would inherit it, and be deaf to Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.load_profile(os.environ.get("KEYHAUS_HYPOTHESIS") or "default")
    seed = int(os.environ.get("KEYHAUS_SEED") or secrets.randbelow(1 << 32))
    config.stash[_SEED] = seed
    os.environ["KEYHAUS_SEED"] = str(seed)  # of the processes that pytest-xdist shares the tests out to, too
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(seed)


def pytest_report_header(config: pytest.Config) -> str:
    profile = os.environ.get("KEYHAUS_HYPOTHESIS") or "default"
    return f"seed: {config.stash[_SEED]} (again: KEYHAUS_SEED={config.stash[_SEED]}), hypothesis: {profile}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number for `random.Random`, another one for each test, the same one under the same KEYHAUS_SEED."""
    return zlib.crc32(request.node.nodeid.encode(), request.config.stash[_SEED])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many tests there were of each kind, which is the directory that they stand in."""
    kinds: dict[str, Counter[str]] = {}
    for outcome in _OUTCOMES:
        for report in terminalreporter.stats.get(outcome, ()):
            if kind := _kind(report.nodeid):
                kinds.setdefault(kind, Counter())[outcome] += 1
    if not kinds:
        return
    terminalreporter.section("tests by kind")
    for kind, counts in sorted(kinds.items()):
        rest = "".join(f", {counts[outcome]} {outcome}" for outcome in _OUTCOMES[1:] if counts[outcome])
        terminalreporter.write_line(f"{kind:12} {counts['passed']:5} passed{rest}")


def _kind(nodeid: str) -> str:
    """`unit` for tests/unit/test_limits.py::…; empty for what stands in no directory of tests."""
    path = (_TESTS.parent / nodeid.partition("::")[0]).resolve()
    parts = path.relative_to(_TESTS).parts if path.is_relative_to(_TESTS) else ()
    return parts[0] if len(parts) > 1 else ""
