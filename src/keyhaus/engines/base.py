"""The engine door: ordered bytes at rest, under the memtable.

An engine maps keys to values, both bytes, and keeps them in the order of the keys' bytes. It changes at two calls only:
`ingest` puts a whole sorted run in, `drop` takes out a range that nobody reaches any more. So what it holds is a
sequence of numbered views, one an ingest: a reader names the view that it reads, and a view stays readable, unchanged,
until it is released. An engine knows nothing of expiry, databases or transactions.

Engines are called by one thread at a time. Every method raises OSError where the disk fails or is full, and Corruption
where a file is not what was written. Keys and values may be any bytes, and empty.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = tuple[bytes, bytes]
Change: TypeAlias = tuple[bytes, bytes | None]  # None: the key is deleted


class Engine(Protocol):
    """Ordered bytes at rest.

    Attributes:
        newest: The number of the newest view. Views are numbered from 0 at each open, one more at each ingest.
    """

    newest: int

    def get(self, view: int, keys: list[bytes]) -> list[bytes | None]:
        """The values under keys as a view has them, None where there is none, in the order of `keys`.

        Raises KeyError for a view that is not there.
        """
        ...

    def scan(
        self, view: int, start: bytes, end: bytes | None, *, rows: int, size: int, reverse: bool = False
    ) -> tuple[list[Row], bool]:
        """Rows of a view in the order of their keys, from `start` up to, not including, `end` (None: no end).

        Args:
            view: The view; KeyError for one that is not there.
            start: The first key that may be among them.
            end: The first key behind the range.
            rows: How many rows at the most, at least 1.
            size: After how many bytes of keys and values it stops; one row is always given.
            reverse: Walk from the end.

        Returns:
            The rows, and whether there are more in the range.
        """
        ...

    def ingest(self, run: str) -> int:
        """Takes a run that a `RunWriter` finished, whole and durably, or not at all; its file is gone afterwards.

        The view before stays until it is released. Returns the number of the new view. After an error nothing has
        changed, and the run may be ingested again; but where it was an OSError the engine may refuse every change until
        it is opened again, and then may be found to hold the run.
        """
        ...

    def drop(self, start: bytes, end: bytes) -> None:
        """Deletes a range, durably; no view that is still to be read may reach it. Not atomic; may be done again."""
        ...

    def release(self, view: int) -> None:
        """Lets go of a view. Raises ValueError for the newest, KeyError for one that is not there."""
        ...

    def checkpoint(self, directory: str) -> None:
        """Makes a copy of the newest view in a new directory, hard links where the disk allows, durably.

        Raises FileExistsError where the directory is there.
        """
        ...

    def stats(self) -> dict[str, Any]:
        """Numbers for INFO and for the decision when to slow down writers.

        `bytes`: on disk · `rows`: about how many · `level0_files` · `compaction_pending_bytes` ·
        `compactions_running` · `block_cache_bytes` · `block_cache_capacity` · `block_cache_hits` ·
        `block_cache_misses` · `memory_bytes`. An engine leaves out what it has none of.
        """
        ...

    def close(self) -> None:
        """Ends it; every view is gone."""
        ...


class RunWriter(Protocol):
    """Makes one run: a file with sorted changes. Needs no open engine, and may work in another process."""

    def add(self, changes: Iterable[Change]) -> None:
        """Adds changes; keys ascend strictly, over all calls. Raises ValueError where they don't."""
        ...

    def finish(self) -> None:
        """Makes the run durable, its name included. Raises ValueError where it has no change."""
        ...
