"""Programs that only tests need: redis-server, redis-cli, strace, Chromium, …

Whoever runs the tests at home need not have them: what needs one is skipped, and pytest says why. In CI everything must
run, so there the same test fails.
"""

from __future__ import annotations

import os
import shutil
from typing import Final

import pytest

PACKAGES: Final = {
    "redis-server": "redis-server",
    "redis-cli": "redis-tools",
    "redis-benchmark": "redis-tools",
    "strace": "strace",
    "chromium": "chromium",
}


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def require_program(name: str) -> str:
    """The path of a program; where it is missing the test is skipped, or fails in CI."""
    if path := shutil.which(name):
        return path
    reason = f"{name} is not installed (Debian: apt-get install {PACKAGES.get(name, name)})"
    if in_ci():
        pytest.fail(f"{reason}, and in CI nothing is skipped", pytrace=False)
    pytest.skip(reason)
