"""Child processes of the command line: waited for until they are ready, and ended whatever they do."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from keyhaus.cli import child


def _python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_who_does_not_end_gently_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "STOP_SECONDS", 0.1)
    stubborn = _python(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready x', flush=True); signal.pause()"
    )
    assert child.ready_line(stubborn) == "ready x"
    assert child.end(stubborn) and stubborn.returncode == -signal.SIGKILL
    assert not child.end(stubborn), "it has ended already"


@pytest.mark.parametrize(
    ("code", "seconds"), [("print('no')", None), ("", None), ("import signal; signal.pause()", 0.1)]
)
def test_who_is_not_ready_says_nothing(code: str, seconds: float | None) -> None:
    process = _python(code)
    assert child.ready_line(process, seconds) == ""
    child.end(process)
