"""The database whose rows a command reads or writes: a running server's, or the directory of a stopped one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import typer

from keyhaus.cli.remote import Refused, Remote
from keyhaus.core.errors import Error, NotFound, StorageError
from keyhaus.core.settings import INT_MAX, TABLE
from keyhaus.embedded.database import Database, open_database
from keyhaus.journal import manifest as manifests
from keyhaus.store.base import BASE

Url = Annotated[str | None, typer.Option(help="A running server: redis://[[USER]:PASSWORD@]HOST[:PORT].")]
DataDir = Annotated[Path, typer.Option(help="A database that no server has open.")]
_DATABASES_MAX: Final = TABLE["databases"].most


class Door(Protocol):
    """Whatever takes commands."""

    def ask(self, *words: str | bytes) -> Any:
        """The reply. Raises Error where it is an error, OSError where the connection is lost."""
        ...


class Embedded:
    """A database of this process as a door."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, *words: str | bytes) -> Any:
        encoded = (word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape") for word in words)
        return self._database.execute(*encoded)


@contextlib.contextmanager
def opened(url: str | None, data_dir: Path, *, to_read: bool) -> Iterator[Door]:
    """The server of a URL, or the database of a directory, which only a writer makes where there is none.

    Raises:
        ValueError: The URL is none.
        OSError: Nobody answers there.
        NotFound: There is no database to read.
        StorageError: The database can't be opened.
    """
    if url is not None:
        with contextlib.closing(Remote(url)) as remote:
            yield remote
        return
    if to_read and not (data_dir / manifests.NAME).exists() and not (data_dir / BASE / "CURRENT").exists():
        raise NotFound(
            f"there is no database in {data_dir}: name its directory with --data-dir, or a server with --url"
        )
    # Nobody else is kept from anything, so a snapshot may be as old as it needs; and there may be more databases than
    # the default, which only a writer could add to.
    patient: dict[str, Any] = {
        "snapshot_max_ms": INT_MAX,
        "transaction_max_ms": INT_MAX,
        "databases": _DATABASES_MAX,
    }
    try:
        database = open_database(data_dir, **patient if to_read else {})
    except StorageError as error:
        if "is in use by" in error.message:
            raise StorageError(f"a server has {data_dir} open: say where it answers, with --url") from None
        raise
    with database:
        yield Embedded(database)


def code_of(error: Error) -> str:
    """The code of an error, also of one that a server has answered."""
    if isinstance(error, Refused):
        word = error.message.partition(" ")[0]
        return word if word.isupper() else "ERR"
    return error.code


def databases(door: Door) -> int:
    """How many databases there are."""
    reply = door.ask("CONFIG", "GET", "databases")
    return int(next(iter(reply.values())) if isinstance(reply, dict) else reply[1])


def keys(door: Door, database: int | None) -> int:
    """How many keys there are about, in one database or all."""
    total = 0
    for line in bytes(door.ask("INFO", "keyspace")).decode().splitlines():
        name, _, facts = line.partition(":keys=")
        if facts and database in (None, int(name.removeprefix("db"))):
            total += int(facts.partition(",")[0])
    return total
