"""Reads the records of a damaged base.

Where its manifest can be read, the base is walked as a whole, so that every newer version and every deletion counts;
only in a stretch that a damaged block hides each file is asked by itself. Where it can't, all files are. Of several
versions of a key the one with the highest number is taken. What a file says by itself is uncertain: a later deletion,
or a later version in what was damaged, is not seen; the commits that are still at hand correct what they can.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

from rocksdict import Rdict

from keyhaus.core.errors import StorageError
from keyhaus.engines import rocksdb_files, rocksdb_salvage
from keyhaus.engines.base import Row
from keyhaus.engines.rocksdb_salvage import Gap
from keyhaus.store import layout
from keyhaus.store.layout import DEADLINE, META, RECORD, Generation, Meta
from keyhaus.store.record import seqno_of

BEGIN: Final = META
_KEY: Final = itemgetter(0)


class BaseRows:
    """What can be read of a base. To be closed.

    Attributes:
        meta: What the base says of itself, as new as could be found; None where nothing could.
        whole: Whether the base is walked as a whole.
        gaps: Stretches in which a damaged block hides rows of at least one file.
        unreadable: Files of which nothing can be read.
        uncertain: How many records come from single files.
        top: The highest number of a record.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._stack = contextlib.ExitStack()
        self._tables: dict[str, Rdict | None] = {}
        self.gaps: list[Gap] = []
        self.unreadable: list[str] = []
        self.uncertain = self.top = 0
        self.meta: Meta | None = None
        self._place = self._stack.enter_context(rocksdb_files.mirror(str(base))) if base.exists() else None
        self._database = self._open()
        self.whole = self._database is not None
        self._read_meta()

    def _open(self) -> Rdict | None:
        if self._place is None:
            return None
        self._mend_current(self._place)
        for paranoid in (True, False):
            try:
                return self._stack.enter_context(rocksdb_salvage.opened(str(self._place), paranoid))
            except (OSError, StorageError) as error:
                if "MANIFEST" in str(error) and ".sst" not in str(error):
                    return None
        return None

    @staticmethod
    def _mend_current(place: Path) -> None:
        """The file that names the manifest follows from which manifests there are."""
        manifests = sorted(path.name for path in place.glob("MANIFEST-*"))
        current = place / "CURRENT"
        named = current.read_bytes() if current.exists() else b""
        if manifests and named.strip().decode("latin-1") not in manifests:
            current.unlink(missing_ok=True)
            current.write_text(manifests[-1] + "\n")

    def _files(self) -> list[str]:
        if self._database is not None:
            return sorted(Path(file["name"]).name for file in self._database.live_files())
        return sorted(path.name for path in self._base.glob("*.sst")) if self._place is not None else []

    def _table(self, name: str) -> Rdict | None:
        if name not in self._tables:
            self._tables[name] = None
            try:
                self._tables[name] = self._stack.enter_context(rocksdb_salvage.table((self._base / name).absolute()))
            except (OSError, StorageError):
                self.unreadable.append(name)
        return self._tables[name]

    def _read_meta(self) -> None:
        with contextlib.suppress(Exception):
            if self._database is not None:
                self.meta = layout.decode_meta(self._database.get([META])[0], "base")
                return
        for name in self._files():
            for row in self._single(name, META, RECORD):
                with contextlib.suppress(StorageError):
                    meta = layout.decode_meta(row[1], name)
                    if meta is not None and (self.meta is None or meta.seqno > self.meta.seqno):
                        self.meta = meta

    def records(self) -> Iterator[tuple[Generation, bytes, bytes]]:
        """Every record that can be read: its generation, its key, itself."""
        found = self._merged(RECORD, DEADLINE) if self._database is None else self._walked(self._database)
        for row, value in found:
            if len(row) >= layout.PREFIX_BYTES and len(value) >= 8:
                self.top = max(self.top, seqno_of(value))
                generation = int.from_bytes(row[1:9], "big"), int.from_bytes(row[9:13], "big")
                yield generation, row[layout.PREFIX_BYTES :], value

    def _walked(self, database: Rdict) -> Iterator[Row]:
        for item in rocksdb_salvage.rows(database, RECORD, DEADLINE):
            if isinstance(item, Gap):
                self.gaps.append(item)
                yield from self._merged(item.after + b"\0", item.before or DEADLINE)
            else:
                yield item

    def _merged(self, start: bytes, end: bytes) -> Iterator[Row]:
        """The rows of a range as single files have them."""
        parts = [self._single(name, start, end) for name in self._files()]
        for _, versions in groupby(heapq.merge(*parts, key=_KEY), key=_KEY):
            self.uncertain += 1
            yield max(versions, key=lambda row: seqno_of(row[1]))

    def _single(self, name: str, start: bytes, end: bytes) -> Iterator[Row]:
        table = self._table(name)
        if table is None:
            return
        for item in rocksdb_salvage.rows(table, start, end):
            if not isinstance(item, Gap):
                yield item
            elif self._database is None:
                self.gaps.append(item)

    def close(self) -> None:
        self._stack.close()
