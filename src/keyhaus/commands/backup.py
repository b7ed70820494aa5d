"""Backups: BACKUP CREATE and STATUS, and what Redis calls saving: BGSAVE, SAVE, LASTSAVE."""

from __future__ import annotations

import os
from typing import Any, Final

from keyhaus.commands.help import add_help
from keyhaus.commands.spec import Flag, command, container, option
from keyhaus.core.context import Context
from keyhaus.core.errors import StorageError, Syntax, UserError
from keyhaus.core.reply import OK
from keyhaus.store.backup.online import Backups
from keyhaus.store.transaction import Transaction

GROUP: Final = "server"
_FLAGS: Final = Flag.CONNECTION | Flag.ADMIN | Flag.DANGEROUS


def _backups(tx: Transaction) -> Backups:
    backups = tx.store.backups
    if backups is None:
        raise UserError("there is nothing on disk to make a backup of: the server runs with --engine memory")
    return backups


@command(
    "BGSAVE",
    -1,
    _FLAGS,
    summary="Begins a backup in backup-dir; LASTSAVE and INFO tell when it is done.",
    since="1.0.0",
    group=GROUP,
    syntax="[SCHEDULE]",
)
async def bgsave(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) > 2 or (len(args) == 2 and option(args[1]) != b"SCHEDULE"):
        raise Syntax
    _backups(tx).start()
    return "Background saving started"


@command(
    "SAVE",
    1,
    _FLAGS | Flag.NO_MULTI | Flag.BLOCKING,
    summary="Makes a backup in backup-dir, and answers once it is there; other clients go on.",
    since="1.0.0",
    group=GROUP,
)
async def save(tx: Transaction, args: list[bytes], context: Context) -> Any:
    running = _backups(tx).start()
    await running.over
    if running.error is not None:
        raise StorageError(f"the backup has failed: {running.error}")
    return OK


@command(
    "LASTSAVE",
    1,
    Flag.CONNECTION | Flag.FAST | Flag.ADMIN | Flag.DANGEROUS,
    summary="Answers when the last backup was done, in seconds since 1970; without one, when the server started.",
    since="1.0.0",
    group=GROUP,
)
async def lastsave(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return _backups(tx).last_ms // 1000


container("BACKUP", _FLAGS, summary="Makes backups.", since="keyhaus 0.1", group=GROUP)
add_help("BACKUP", group=GROUP, since="keyhaus 0.1")


@command(
    "BACKUP|CREATE",
    -2,
    _FLAGS,
    summary="Begins a backup in backup-dir, or in a directory below it.",
    since="keyhaus 0.1",
    group=GROUP,
    syntax="[directory]",
)
async def create(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) > 3:
        raise Syntax
    backups = _backups(tx)
    backups.start(backups.place(os.fsdecode(args[2])) if len(args) == 3 else "")
    return OK


@command(
    "BACKUP|STATUS",
    2,
    _FLAGS,
    summary="Tells how far the backup is that is being made, and how the last one ended.",
    since="keyhaus 0.1",
    group=GROUP,
)
async def status(tx: Transaction, args: list[bytes], context: Context) -> Any:
    backups = _backups(tx)
    running, last = backups.running, backups.last or {}
    return {
        b"state": b"idle" if running is None else running.step.encode(),
        b"directory": os.fsencode(backups.directory if running is None else running.directory),
        b"number": 0 if running is None else running.number,
        b"files-done": 0 if running is None else running.files_done,
        b"files-total": 0 if running is None else running.files_total,
        b"bytes-done": 0 if running is None else running.bytes_done,
        b"bytes-total": 0 if running is None else running.bytes_total,
        b"made": backups.made,
        b"last-error": backups.last_error.encode("utf-8", "backslashreplace"),
        b"last-number": last.get("number", 0),
        b"last-to-seqno": last.get("to_seqno", 0),
        b"last-added-bytes": last.get("added_bytes", 0),
        b"last-bytes": last.get("bytes", 0),
    }
