"""How far a long command is, shown on a terminal: a bar, rows, bytes, and how many of them a second."""

from __future__ import annotations

import sys
import time
from importlib import import_module
from types import TracebackType
from typing import Any, Final

from keyhaus.cli import report

_SHOW_SECONDS: Final = 0.1


class Meter:
    """Counts rows and bytes; a `with` shows them on standard error, where that is a terminal and it is wanted."""

    def __init__(self, title: str, *, shown: bool = True) -> None:
        self.rows = self.bytes = 0
        self._title = title
        self._shown = shown and sys.stderr.isatty()
        self._progress: Any = None
        self._task: Any = None
        self._began = self._told = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def __enter__(self) -> Meter:
        if self._shown:
            # Only now: a command that shows nothing starts without it.
            rich = import_module("rich.progress")
            columns = (
                rich.TextColumn("{task.description}"),
                rich.BarColumn(),
                rich.TaskProgressColumn(),
                rich.TextColumn("{task.fields[told]}"),
            )
            self._progress = rich.Progress(
                *columns, console=import_module("rich.console").Console(stderr=True), transient=True
            )
            self._task = self._progress.add_task(self._title, total=None, told="")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def total(self, total: int | None) -> None:
        """How much there is to do, in the unit of `show`."""
        if self._progress is not None:
            self._progress.update(self._task, total=total)

    @property
    def shows(self) -> bool:
        return self._progress is not None

    def show(self, done: int) -> None:
        """Shows the counts, and how much is done; often enough for eyes, not more often."""
        now = time.monotonic()
        if self._progress is None or now - self._told < _SHOW_SECONDS:
            return
        self._told = now
        seconds = max(now - self._began, 1e-9)
        told = (
            f"{self.rows:,} rows, {report.size(self.bytes)}, {self.rows / seconds:,.0f} rows/s, "
            f"{report.size(round(self.bytes / seconds))}/s"
        )
        self._progress.update(self._task, completed=done, told=told)
