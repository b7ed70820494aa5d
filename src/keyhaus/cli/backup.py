"""`keyhaus backup`: makes, lists, verifies and brings back backups."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from keyhaus.cli import report
from keyhaus.cli.database import SERVER, connected
from keyhaus.core.disk import OsDisk
from keyhaus.core.errors import InUse, NotFound, StorageError
from keyhaus.store.backup import form, offline
from keyhaus.store.backup import restore as restoring
from keyhaus.store.backup.online import DIRECTORY
from keyhaus.store.backup.restore import Point, shown
from keyhaus.store.backup.writer import summary
from keyhaus.store.repair import backups as checking

POLL_SECONDS = 0.2

app = typer.Typer(help="Make, list, verify and restore backups.", no_args_is_help=True, rich_markup_mode=None)

_Directory = Annotated[Path, typer.Argument(help="The directory of the backups.", metavar="BACKUP_DIR")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Number = Annotated[int | None, typer.Option(help="Which backup.", metavar="N", min=1)]


@app.command()
def create(
    backup_dir: Annotated[
        Path | None,
        typer.Argument(
            help="The directory of the backups. With --url it is one of the server's, below its backup-dir, which is "
            "the default; else the default is DATA_DIR/backups.",
            metavar="[BACKUP_DIR]",
        ),
    ] = None,
    url: Annotated[str | None, typer.Option(help=f"A running server, which does the work: {SERVER}.")] = None,
    data_dir: Annotated[Path, typer.Option(help="A database that no server has open.")] = Path("data"),
    keep: Annotated[
        int, typer.Option(help="How many backups stay; 0 for all. A server goes by its setting backup-keep.", min=0)
    ] = 0,
    json: _Json = False,
) -> None:
    """Make a backup, of a running server or of a stopped database.

    What an earlier backup in the same directory has is not copied again.

    Examples:

      keyhaus backup create --url redis://127.0.0.1:19272

      keyhaus backup create --data-dir /var/lib/keyhaus /mnt/backups
    """
    with report.failures():
        if url is not None:
            made = _remote(url, backup_dir)
        else:
            target = backup_dir or data_dir / DIRECTORY
            try:
                made = offline.create(data_dir, target, keep, report.progress)
            except InUse as error:
                if error.directory == data_dir.resolve():
                    raise StorageError(f"a server has {data_dir} open: say where it answers, with --url") from None
                raise
        report.clear()
        for damage in made.get("damaged", ()):
            typer.echo(f"keyhaus: no earlier backup is taken away while one is damaged: {damage}", err=True)
        if json:
            report.as_json(made)
        else:
            typer.echo(
                f"backup {made['number']}: up to commit {made['to_seqno']}, {report.size(made['bytes'])}, of which "
                f"{report.size(made['added_bytes'])} are new"
            )


def _remote(url: str, directory: Path | None) -> dict[str, Any]:
    with contextlib.closing(connected(url)) as remote:
        words = ["BACKUP", "CREATE", *([str(directory)] if directory is not None else [])]
        made = remote.table("BACKUP", "STATUS")["made"]
        remote.ask(*words)
        while (status := remote.table("BACKUP", "STATUS"))["state"] != b"idle":
            report.progress(status["state"].decode(), status["bytes-done"], status["bytes-total"])
            time.sleep(POLL_SECONDS)
        if status["made"] == made:
            raise StorageError(f"the backup has failed: {status['last-error'].decode()}")
    names = ("number", "to_seqno", "bytes", "added_bytes")
    return {name: status["last-" + name.replace("_", "-")] for name in names}


@app.command("list")
def list_backups(backup_dir: _Directory, json: _Json = False) -> None:
    """List the backups of a directory: number, time, the commits that each can be restored to, size."""
    with report.failures():
        found, damaged = form.readable(OsDisk(backup_dir, read_only=True))
        if not found and not damaged:
            raise NotFound(f"there is no backup in {backup_dir}")
        if json:
            report.as_json([summary(backup) for backup in found])  # what is damaged is told below
        else:
            typer.echo(
                f"{'number':>6}  {'made':24}  {'from commit':>20}  {'to commit':>20}  {'size':>11}  {'added':>11}"
            )
            for backup in found:
                typer.echo(
                    f"{backup.number:6}  {shown(backup.ended_ms):24}  {backup.base_seqno:20}  {backup.to_seqno:20}  "
                    f"{report.size(backup.bytes):>11}  {report.size(backup.added_bytes):>11}"
                )
        for error in damaged[:-1]:
            typer.echo(f"keyhaus: {error.message}", err=True)
        if damaged:
            raise damaged[-1]


@app.command()
def verify(backup_dir: _Directory, number: _Number = None, json: _Json = False) -> None:
    """Read every file of the backups, and say what is wrong with which: checksums, tables, commits.

    The exit status is 1 where anything is.
    """
    with report.failures():
        disk = OsDisk(backup_dir, read_only=True)
        lock = disk.lock_to_read()
        try:
            report.findings(checking.check(disk, number, report.progress), json)
        finally:
            lock.release()


@app.command()
def restore(
    backup_dir: _Directory,
    to: Annotated[Path, typer.Option(help="The new data directory: missing or empty.", metavar="NEW_DIR")],
    number: _Number = None,
    to_seqno: Annotated[
        int | None, typer.Option(help="Restore all commits up to this number.", metavar="SEQNO", min=0)
    ] = None,
    to_time: Annotated[
        str | None,
        typer.Option(
            help="Restore all commits up to this time, such as 2026-03-01T12:00:00Z (UTC where it has no zone).",
            metavar="TIME",
        ),
    ] = None,
    archive_dir: Annotated[
        Path | None, typer.Option(help="The archive of the journal, for commits that the backup doesn't have.")
    ] = None,
    json: _Json = False,
) -> None:
    """Make a new database of a backup, as it was at its end, or at another moment.

    Without --number the best backup is taken: the newest, or the newest that leads to the moment. The new database has
    a new history: who followed the old one's CHANGES begins anew.

    Examples:

      keyhaus backup restore /mnt/backups --to /var/lib/keyhaus-restored

      keyhaus backup restore /mnt/backups --to restored --to-time 2026-03-01T12:00:00Z --archive-dir /mnt/archive
    """
    if to_seqno is not None and to_time is not None:
        raise typer.BadParameter("it is either a number or a time", param_hint="--to-seqno, --to-time")
    point = Point(number, to_seqno, None if to_time is None else _unix_ms(to_time))
    with report.failures():
        archive = report.archive(archive_dir)
        disk = OsDisk(backup_dir, read_only=True)
        lock = disk.lock_to_read()
        try:
            restored = restoring.restore(disk, to, point, archive, report.progress)
        finally:
            lock.release()
        report.clear()
        report.archive_is_of(archive, archive_dir, restored.from_history)
        if json:
            report.as_json(restored._asdict())
        else:
            typer.echo(
                f"{to}: backup {restored.number} and {restored.commits} commits behind its base, up to commit "
                f"{restored.seqno} of {shown(restored.unix_ms)}; the new history is {restored.history}"
            )


def _unix_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: expected one such as 2026-03-01T12:00:00Z", param_hint="--to-time"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
