"""How the commands that work on files tell what they do: a line of progress, a result, one line for what is wrong."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from keyhaus.core.disk import OsDisk
from keyhaus.core.errors import Error, NotFound
from keyhaus.journal import archive as archives
from keyhaus.store.repair.findings import DAMAGE, Finding

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def progress(what: str, done: int, total: int) -> None:
    """One line on standard error that is written over, where somebody looks at it."""
    if sys.stderr.isatty():
        share = f"{100 * done // total} %" if total else f"{done}"
        sys.stderr.write(f"\r\x1b[K{what}: {share}")
        sys.stderr.flush()


def clear() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, least in _UNITS:
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count} bytes"


def as_json(value: Any, *, err: bool = False) -> None:
    """Prints one line of JSON, on standard error where that is wanted."""
    typer.echo(msgspec.json.encode(value).decode(), err=err)


def findings(found: Iterable[Finding], json: bool) -> None:
    """Tells what a check found, as it finds it; ends the process with 1 where anything is damaged."""
    told = [_tell(finding, json) for finding in found]
    clear()
    damaged = sum(finding.kind == DAMAGE for finding in told)
    if json:
        as_json({"ok": not damaged, "findings": told})
    elif not damaged:
        typer.echo("nothing is damaged")
    if damaged:
        raise typer.Exit(1)


def _tell(finding: Finding, json: bool) -> Finding:
    if not json:
        clear()
        place = "" if finding.offset is None else f" at offset {finding.offset}"
        typer.echo(f"{finding.kind}: {finding.file}{place}: {finding.problem}")
    return finding


def archive(directory: Path | None) -> OsDisk | None:
    """The archive that a command is to read. Raises NotFound where there is no such directory."""
    if directory is None:
        return None
    if not directory.is_dir():
        raise NotFound(f"{directory}: there is no such archive")
    return OsDisk(directory, read_only=True)


def archive_is_of(archive: OsDisk | None, directory: Path | None, history: str | None) -> None:
    """Says so where an archive was given that has nothing of what was looked for."""
    if archive is not None and history is not None and not archives.files(archive, history):
        typer.echo(f"keyhaus: the archive {directory} has nothing of history {history}", err=True)


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Ends the process with one line that says why, where something can't be done."""
    try:
        yield
    except Error as error:
        reason = error.message
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            reason = f"{error.filename}: {error.strerror or error}"
    else:
        clear()
        return
    clear()
    typer.echo(f"keyhaus: {reason}", err=True)
    raise typer.Exit(1)
