"""Checks a directory of backups: every file's checksum, and that tables and commits can be read to their end."""

from __future__ import annotations

from collections.abc import Iterator

from keyhaus.core.disk import OsDisk
from keyhaus.core.errors import Corruption, NotFound
from keyhaus.engines import rocksdb_files
from keyhaus.store.backup import form, restore
from keyhaus.store.backup.form import Backup
from keyhaus.store.repair import archives
from keyhaus.store.repair import base as bases
from keyhaus.store.repair.findings import NOTE, Finding, Progress, silent


def check(disk: OsDisk, number: int | None = None, progress: Progress = silent) -> Iterator[Finding]:
    """What is wrong with the backups of a directory, or with one of them.

    Raises:
        NotFound: There is no such backup, or none at all.
        OSError: The directory can't be read.
    """
    found, damaged = form.readable(disk)
    if number is not None:
        if number not in form.numbers(disk):
            raise NotFound(f"there is no backup {number}")
        found = [backup for backup in found if backup.number == number]
        damaged = [error for error in damaged if error.file == form.backup_name(number)]
    elif not found and not damaged:
        raise NotFound(f"there is no backup in {disk.root}")
    yield from map(Finding.of, damaged)
    known: dict[str, Finding | None] = {}
    yield from _check_files(disk, found, known, progress)
    for backup in found:
        yield from _check_content(disk, backup, known, progress)
    if number is None and not damaged:
        yield from _left_over(disk, found)


def _check_files(
    disk: OsDisk, found: list[Backup], known: dict[str, Finding | None], progress: Progress
) -> Iterator[Finding]:
    """Each stored file once, however many backups need it."""
    sizes = {file: size for backup in found for file, size in backup.files.items()}
    done, total = 0, sum(sizes.values())
    for file, size in sizes.items():
        known[file] = None
        try:
            for data in restore.read_stored(disk, file, size):
                done += len(data)
                progress("files", done, total)
        except Corruption as error:
            finding = Finding.of(error)
            known[file] = told = Finding(finding.file, finding.offset, f"{finding.problem} ({_uses(found, file)})")
            yield told


def _uses(found: list[Backup], file: str) -> str:
    """What a stored file is, and for which backups."""
    using = [backup for backup in found if file in backup.files]
    names = [f"base/{entry.name}" for entry in using[0].base if entry.file == file]
    names += [f"commits {piece.begins_after + 1} to {piece.ends}" for piece in using[0].journal if piece.file == file]
    numbers = ", ".join(str(backup.number) for backup in using)
    return f"{names[0]} of backup {numbers}"


def _check_content(
    disk: OsDisk, backup: Backup, known: dict[str, Finding | None], progress: Progress
) -> Iterator[Finding]:
    """Walks what the checksums vouch for: the tables of the base, and the commits."""
    if any(known[entry.file] is not None for entry in backup.base):
        return
    files = {entry.name: (disk.root / form.stored_name(entry.file)).resolve() for entry in backup.base}
    with rocksdb_files.mirrored(files) as place:
        yield from bases.check(place, progress, f"backup {backup.number}: base")
    for piece in backup.journal:
        if known[piece.file] is None:
            name = form.stored_name(piece.file)
            yield from archives.check_file(disk, name, backup.history, piece.begins_after, piece.ends)


def _left_over(disk: OsDisk, found: list[Backup]) -> Iterator[Finding]:
    needed = {file for backup in found for file in backup.files}
    superfluous = sum(name not in needed for name in disk.names(form.FILES))
    superfluous += sum(name.endswith(form.UNFINISHED) for name in disk.names("."))
    if superfluous:
        yield Finding(form.FILES, None, f"{superfluous} files belong to no backup: the next one removes them", NOTE)
