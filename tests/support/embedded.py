"""Embedded databases in tests: threads with results, INFO as a dict, and one whose syncs wait at a gate."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from keyhaus.core.disk import OsDisk
from keyhaus.core.errors import StorageError
from keyhaus.embedded.database import Database, open_database
from keyhaus.store import opening
from tests.support.gated import GatedDisk

SECONDS: Final = 20.0
SMALL: Final = {"journal_segment_bytes": "256kb"}


class Running(threading.Thread):
    """A thread, and what its function gave."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._function, self._args = function, args
        self._given: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._given = self._function(*self._args)
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        """What it gave, or raised."""
        self.join(SECONDS)
        assert not self.is_alive(), "the thread is stuck"
        if self._error is not None:
            raise self._error
        return self._given


def until(predicate: Callable[[], bool]) -> None:
    """Waits for something that nobody tells."""
    end = time.monotonic() + SECONDS
    while not predicate():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.001)


def fields(database: Database, section: str) -> dict[str, str]:
    """A section of INFO."""
    text: bytes = database.execute("INFO", section)
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)


def waiting(database: Database) -> int:
    """How many threads are in the middle of a command that waits."""
    return int(fields(database, "clients")["blocked_clients"])


class GatedJournal(GatedDisk):
    """A gated disk for a database whose callers may write the journal themselves."""

    running = False

    def journals(self, name: str) -> bool:
        thread = threading.current_thread().name
        return self.running and name.endswith(".segment") and thread != "journal-preparer"


@contextlib.contextmanager
def gated_database(directory: Path, **settings: Any) -> Iterator[tuple[Database, GatedJournal]]:
    """A database over a gated disk; what poisoned it is no failure of its end."""
    disk = GatedJournal(directory)

    def of(root: Path) -> OsDisk:
        return disk if Path(root) == directory else OsDisk(root)

    with patch.object(opening, "OsDisk", of):
        database = open_database(directory, **{**SMALL, **settings})
    disk.running = True
    try:
        yield database, disk
    finally:
        disk.let_go()
        with contextlib.suppress(StorageError):
            database.close()
