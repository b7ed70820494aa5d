"""`keyhaus salvage`: brings back what is readable of a damaged database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from keyhaus.cli import report
from keyhaus.store.repair.salvage import Salvaged
from keyhaus.store.repair.salvage import salvage as bring_back


def salvage(
    directory: Annotated[Path, typer.Argument(help="The damaged database, which no server has open.")],
    to: Annotated[Path, typer.Option(help="The new data directory: missing or empty.", metavar="NEW_DIR")],
    archive_dir: Annotated[Path | None, typer.Option(help="The archive of the journal, where there is one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a new database of all that is readable of a damaged one, and say what is lost.

    The damaged one stays as it is. A backup that is not damaged is always better: this is for what came after it, or
    where there is none. The new database has a new history.
    """
    with report.failures():
        archive = report.archive(archive_dir)
        told = bring_back(directory, to, archive, report.progress)
        report.clear()
        report.archive_is_of(archive, archive_dir, told.from_history)
        if json:
            report.as_json({**msgspec.to_builtins(told), "complete": told.complete})
        else:
            _tell(to, told)


def _tell(to: Path, told: Salvaged) -> None:
    for finding in told.findings:
        place = "" if finding.offset is None else f" at offset {finding.offset}"
        typer.echo(f"damage: {finding.file}{place}: {finding.problem}")
    if told.base_whole:
        typer.echo(f"the base was copied whole: all up to commit {told.base_seqno}")
    else:
        typer.echo(f"{told.rows} rows were read of the base, which ended at commit {told.base_seqno}")
    if told.uncertain_rows:
        typer.echo(
            f"{told.uncertain_rows} of them are uncertain: what is damaged may have held a later version, or a deletion"
        )
    if told.corrected:
        typer.echo(f"{told.corrected} commits of the journal and the archive corrected that")
    for after, before in told.lost_keys:
        typer.echo(f"rows may be lost between {_key(after)} and {_key(before) if before else 'the end'}")
    for name in told.unreadable:
        typer.echo(f"nothing could be read of {name}")
    for seqno, number in told.adopted:
        typer.echo(f"what commit {seqno} began as database {number} was put there by guess")
    typer.echo(f"{told.commits} commits were applied, up to {told.seqno}")
    if told.from_the_first and not told.base_whole:
        typer.echo("the journal and the archive have every commit from the first on: nothing of the base was needed")
    for first, last in told.missing:
        which = f"commit {first}" if first == last else f"commits {first} to {last}"
        typer.echo(f"lost: {which}")
    typer.echo(
        f"{to}: {'nothing is known to be lost' if told.complete else 'what could be read'}; the new history is "
        f"{told.history}"
    )


def _key(row: str) -> str:
    """The key in a row of the base, for people."""
    return ascii(bytes.fromhex(row)[13:])[1:]
