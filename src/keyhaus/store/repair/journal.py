"""Checks a journal: its manifest, and each segment on its own, so that one damage doesn't hide another.

A segment must have every commit from where it begins to where the next one does; the last one up to what its groups,
or a clean stop, prove to be synced. What lies behind that may be the torn end that a crash leaves, and is no damage. At
the end recovery's own walk says what a start would say.
"""

from __future__ import annotations

from collections.abc import Iterator

from keyhaus.core.disk import Disk
from keyhaus.core.errors import Corruption, OtherFormat
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal import recovery
from keyhaus.journal.format import COMMITS, FAR, HEADER_BYTES, Group
from keyhaus.journal.manifest import DIRECTORY, Line, Manifest
from keyhaus.store.repair.findings import NOTE, Finding, Progress


def check(disk: Disk, base_seqno: int | None, progress: Progress) -> Iterator[Finding]:
    """What is wrong with a database's journal.

    Args:
        disk: The database's directory.
        base_seqno: Up to where the base has everything; None where that isn't known.
        progress: Told of each segment.
    """
    try:
        manifest = manifests.read(disk)
    except Corruption as error:
        yield Finding.of(error)
        yield from _without_manifest(disk)
        return
    if manifest is None:
        yield Finding(manifests.NAME, None, "missing")
        yield from _without_manifest(disk)
        return
    found: list[Finding] = []
    lines = manifest.lines
    for number, line in enumerate(lines):
        progress("journal", number, len(lines))
        ends = lines[number + 1].begins_after if number + 1 < len(lines) else None
        found += segment(disk, line, ends)
    yield from found
    yield from _walk(disk, manifest, base_seqno, {finding.file for finding in found})
    unnamed = recovery.unnamed(disk, manifest)
    if unnamed:
        yield Finding(DIRECTORY, None, f"{len(unnamed)} segments are prepared or left over, and hold no data", NOTE)


def _walk(disk: Disk, manifest: Manifest, base_seqno: int | None, known: set[str]) -> Iterator[Finding]:
    """What a start would refuse, unless it was found already."""
    if not manifest.segments:
        return
    try:
        recovery.walk(disk, manifest, manifest.segments[0].begins_after if base_seqno is None else base_seqno)
    except Corruption as error:
        if error.file not in known:
            yield Finding.of(error)


def _without_manifest(disk: Disk) -> Iterator[Finding]:
    """The headers can be checked all the same."""
    try:
        names = [f"{DIRECTORY}/{name}" for name in disk.names(DIRECTORY)]
    except FileNotFoundError:
        return
    for name in names:
        if manifests.segment_number(name) is not None:
            data = read(disk, name)
            try:
                version, _, _ = layout.read_segment_header(data[:HEADER_BYTES])
            except ValueError as error:
                yield Finding(name, 0, str(error))
            else:
                if version != layout.VERSION:
                    raise OtherFormat(name, version, layout.VERSION)


def read(disk: Disk, name: str) -> bytes:
    """All of a file. Raises OSError."""
    file = disk.open(name)
    try:
        return file.read(file.size(), 0)
    finally:
        file.close()


def segment(disk: Disk, line: Line, ends: int | None) -> list[Finding]:
    """What is wrong with one segment.

    Args:
        disk: The database's directory.
        line: What the manifest says of it.
        ends: Where the next one begins; None for the last.
    """
    try:
        data = recovery.load(disk, line)
    except Corruption as error:
        return [Finding.of(error)]
    heads = list(layout.groups(data, line.epoch))
    found = list(_frames(data, line, heads))
    limit = FAR if line.counts_to is None else line.counts_to
    jumps = [head.jump for head in heads if head.jump is not None]
    proven = ends
    if proven is None:
        evidence = [line.counts_to or 0, *(head.mark for head in heads), *(jump[0] for jump in jumps)]
        proven = max(number for number in evidence if number <= limit)
    found += _gaps(line, heads, limit, proven)
    if line.start and not jumps:
        found.append(Finding(line.name, HEADER_BYTES, "the start record is missing or damaged"))
    return found


def _gaps(line: Line, heads: list[Group], limit: int, proven: int) -> Iterator[Finding]:
    """The commits up to `proven` that are not there, each gap with the place where it begins."""
    at, end = line.begins_after, HEADER_BYTES
    for head in heads:
        begins, last = head.first - 1, min(head.last, limit)
        if head.jump is not None:
            begins, last = head.jump[0], head.jump[1] - 1
        if (head.kind == COMMITS or head.jump is not None) and begins < limit:
            if begins > at and at < proven:
                yield Finding(line.name, end, _missing(at + 1, min(begins, proven)))
            at = max(at, last)
            end = head.offset + head.length
    if at < proven:
        yield Finding(line.name, end, _missing(at + 1, proven))


def _missing(first: int, last: int) -> str:
    which = f"commit {first} is" if first == last else f"commits {first} to {last} are"
    return f"{which} missing or damaged here"


def _frames(data: bytes, line: Line, heads: list[Group]) -> Iterator[Finding]:
    for head in heads:
        if head.kind == COMMITS:
            try:
                for begin, _ in layout.frames(data, head):
                    layout.read_frame(data, begin)
            except ValueError as error:
                yield Finding(line.name, head.offset, str(error))
