"""`keyhaus.StorageEngine`: the database within a process, with the methods of a well-known small engine.

A thin face of `keyhaus.open`: texts under texts, batches, ranges whose two ends both count.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from keyhaus.core.access.replies import told_key
from keyhaus.embedded.database import open_database


class StorageEngine:
    """An open database; every method may be called by any thread, and each raises `keyhaus.Error`.

    Keys are texts. So are values, as a rule; any other typed value (`core/objects.py`) comes back as it was, too.

    Args:
        data_dir: The directory of the data, which is made where there is none.
        memtable_size: After how many entries in memory they are written out to the base.

    Raises:
        UserError: The size is none.
        StorageError: It can't be opened; see `keyhaus.open`.
    """

    def __init__(self, data_dir: str | os.PathLike[str] = "./data", memtable_size: int = 1000) -> None:
        self._database = open_database(data_dir, memtable_size=memtable_size)

    def __enter__(self) -> StorageEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def put(self, key: str, value: Any) -> None:
        """Stores a value; it is on the disk when this returns."""
        self._database.put_object(_text(key), value)

    def get(self, key: str) -> Any:
        """The value of a key; None for a missing key."""
        return self._database.get_object(_text(key))

    def batch_put(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        """Stores several values, all of them or none.

        Raises:
            ValueError: There are not as many values as keys; nothing is stored.
        """
        if len(keys) != len(values):
            raise ValueError(f"a batch has as many values as keys, not {len(values)} for {len(keys)}")
        self._database.put_objects(zip(map(_text, keys), values, strict=True))

    def get_range(self, start_key: str, end_key: str) -> list[tuple[str | bytes, Any]]:
        """The keys from the first to the last, both included, with their values, as they are at one moment.

        Returns:
            Pairs in the order of the keys' UTF-8; a key of another door that is no UTF-8 is bytes.
        """
        behind = _text(end_key).encode() + b"\0"
        with self._database.transaction("readonly") as snapshot:
            return [(told_key(key), value) for key, value in snapshot.range_objects(_text(start_key), behind)]

    def delete(self, key: str) -> bool:
        """Deletes a key; whether there was one. A missing key is no error."""
        return bool(self._database.delete(_text(key)))

    def close(self) -> None:
        """Writes out everything, and gives the directory free; the second time does nothing."""
        self._database.close()


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"keys are str, not {type(key).__name__}")
    return key
