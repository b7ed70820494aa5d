"""Checks the base of a database, through links to its files: nothing is written beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from keyhaus.core.errors import OtherFormat, StorageError
from keyhaus.engines import rocksdb_files, rocksdb_salvage, rocksdb_verify
from keyhaus.store import layout
from keyhaus.store.base import BASE
from keyhaus.store.layout import Meta
from keyhaus.store.repair.findings import Finding, Progress

_FILE: Final = re.compile(r"(\d{6,}\.sst|MANIFEST-\d+|CURRENT)")
_PLACE: Final = re.compile(r" at offset (\d+): ")
_BLOCK: Final = re.compile(r" offset (\d+) size \d+")


def check(base: Path, progress: Progress, name: str = BASE) -> Iterator[Finding]:
    """What is wrong with the files of a base.

    Args:
        base: Its directory.
        progress: Told of each file.
        name: What findings call it.
    """
    pointer = _current(base)
    if pointer is not None:
        yield Finding(f"{name}/CURRENT", 0, pointer)
        return
    with rocksdb_files.mirror(str(base)) as place:
        found = [
            _finding(name, file, message.replace(f"{place}/", ""), str(place))
            for file, message in rocksdb_verify.verify(str(place))
        ]
    yield from found
    if not found:
        yield from _alone(base, name, progress)


def _alone(base: Path, name: str, progress: Progress) -> Iterator[Finding]:
    """Each file by itself: what a deleted range covers is not read otherwise."""
    names = [file for file in rocksdb_files.live(str(base)) if file.endswith(".sst")]
    for number, file in enumerate(names):
        progress(name, number, len(names))
        problem = rocksdb_salvage.problem((base / file).absolute())
        if problem is not None:
            yield Finding(f"{name}/{file}", None, problem)


def _current(base: Path) -> str | None:
    """What is wrong with the file that names the manifest; None for nothing."""
    try:
        text = (base / "CURRENT").read_bytes()
    except FileNotFoundError:
        return "missing"
    if not re.fullmatch(rb"MANIFEST-\d{6,}\n", text):
        return "it does not name a manifest"
    named = text.decode().strip()
    if not (base / named).exists():
        others = sorted(path.name for path in base.glob("MANIFEST-*"))
        return f"it names {named}, which is missing" + (f"; {others[-1]} is there" if others else "")
    return None


def _finding(name: str, file: str, message: str, place: str) -> Finding:
    known = _FILE.search(file.removeprefix(place)) or _FILE.search(message)
    offset = _BLOCK.search(message) or _PLACE.search(message)
    text = _PLACE.split(message, maxsplit=1)[-1] if _PLACE.search(message) else message
    return Finding(f"{name}/{known[1]}" if known else name, int(offset[1]) if offset else None, text)


def read_meta(base: Path) -> Meta | None:
    """What a base says of itself; None for one that was never flushed to. Raises Corruption, OSError, StorageError."""
    return layout.decode_meta(rocksdb_files.read_row(str(base), layout.META), BASE)


def meta_or_finding(base: Path) -> tuple[Meta | None, Finding | None]:
    """The same, or what stands in the way. Raises OtherFormat."""
    try:
        return read_meta(base), None
    except OtherFormat:
        raise
    except (OSError, StorageError) as error:
        known = _FILE.search(str(error))
        return None, Finding(f"{BASE}/{known[1]}" if known else BASE, None, str(error))
