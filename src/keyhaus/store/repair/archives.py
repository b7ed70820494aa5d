"""Checks an archive: each file's header, name, groups and commits, and whether the files of a history leave a gap."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from keyhaus.core.disk import Disk
from keyhaus.core.errors import Corruption, OtherFormat, StorageError
from keyhaus.journal import archive as archives
from keyhaus.journal.format import ALIGN_BYTES, END, HEADER_BYTES, frames_between, read_frame, read_group
from keyhaus.journal.reading import Block, Kept, Reader, Stretch
from keyhaus.store.repair.findings import NOTE, Finding, Progress

_HISTORY: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


def histories(disk: Disk) -> list[str]:
    """The histories that an archive has files of. Raises OSError."""
    return [name for name in disk.names(".") if _HISTORY.fullmatch(name)]


def check(disk: Disk, progress: Progress) -> Iterator[Finding]:
    """What is wrong with an archive."""
    for history in histories(disk):
        at: int | None = None
        files = archives.files(disk, history)
        for number, file in enumerate(files):
            progress("archive", number, len(files))
            yield from check_file(disk, file.name, history, file.begins_after, file.ends)
            if at is not None and file.begins_after > at:
                problem = f"no file has the numbers from {at + 1} to {file.begins_after}, between this one and the next"
                yield Finding(files[number - 1].name, None, problem, NOTE)
            at = file.ends if at is None else max(at, file.ends)
        if disk.exists(archives.unfinished_name(history)):
            yield Finding(archives.unfinished_name(history), None, "left over from a copy that was cut off", NOTE)


def check_file(disk: Disk, name: str, history: str, begins_after: int, ends: int) -> Iterator[Finding]:
    """What is wrong with one file in the archive's form, of which that much is known."""
    try:
        file = disk.open(name)
    except FileNotFoundError:
        yield Finding(name, None, "missing")
        return
    try:
        size = file.size()
        header = archives.read_header(file.read(HEADER_BYTES, 0), name)
        last = read_group(file.read(ALIGN_BYTES, header.bytes - ALIGN_BYTES), 0)
    except ValueError as error:
        yield Finding(name, 0, str(error))
        return
    finally:
        file.close()
    if (header.history, header.begins_after, header.ends) != (history, begins_after, ends):
        yield Finding(name, 0, "its header does not say what its name says")
        return
    if size < header.bytes:
        yield Finding(name, size, f"it has {size} bytes instead of {header.bytes}")
    elif last is None or last.kind != END:
        yield Finding(name, header.bytes - ALIGN_BYTES, "its end mark is missing or damaged")
    yield from _commits(disk, name, header)


def _commits(disk: Disk, name: str, header: archives.Header) -> Iterator[Finding]:
    stretch = Stretch(disk, name, 0, header.begins_after, header.ends)
    commits = 0
    try:
        for step in Reader(Kept((stretch,), header.ends), header.begins_after).steps():
            if isinstance(step, Block):
                for begin, _ in frames_between(step.data, step.begin, step.end):
                    read_frame(step.data, begin)
                commits += step.last - step.first + 1
    except OtherFormat:
        raise
    except Corruption as error:
        yield Finding.of(error)
        return
    except (StorageError, ValueError) as error:
        yield Finding(name, None, str(error))
        return
    if commits != header.commits:
        yield Finding(name, None, f"it has {commits} commits instead of {header.commits}")
