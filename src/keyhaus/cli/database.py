"""The database whose rows a command reads or writes: a running server's, or the directory of a stopped one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

import typer

from keyhaus.core.errors import InUse, NotFound, StorageError
from keyhaus.core.settings import INT_MAX, TABLE
from keyhaus.embedded.database import Database, open_database
from keyhaus.journal import manifest as manifests
from keyhaus.store.base import BASE

if TYPE_CHECKING:
    from keyhaus.cli.remote import Remote

SERVER: Final = "keyhaus://HOST[:PORT] (19272), or redis://[[USER]:PASSWORD@]HOST[:PORT] (6379)"
Url = Annotated[str | None, typer.Option(help=f"A running server: {SERVER}.")]
DataDir = Annotated[Path, typer.Option(help="A database that no server has open.")]
_DATABASES_MAX: Final = TABLE["databases"].most


class Door(Protocol):
    """Whatever takes commands."""

    def ask(self, *words: str | bytes) -> Any:
        """The reply. Raises Error where it is an error, or the connection is lost."""
        ...


class Embedded:
    """A database of this process as a door."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, *words: str | bytes) -> Any:
        encoded = (word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape") for word in words)
        return self._database.execute(*encoded)


def connected(url: str) -> Remote:
    """The server of a URL. Raises ValueError, and Error where nobody answers there or the password is wrong."""
    # It needs redis-py, which no server should have to import.
    remote: Remote = import_module("keyhaus.cli.remote").Remote(url)
    return remote


@contextlib.contextmanager
def opened(url: str | None, data_dir: Path, *, to_read: bool) -> Iterator[Door]:
    """The server of a URL, or the database of a directory, which only a writer makes where there is none.

    Raises:
        ValueError: The URL is none.
        Error: Nobody answers there, or the password is wrong.
        NotFound: There is no database to read.
        StorageError: The database can't be opened.
    """
    if url is not None:
        with contextlib.closing(connected(url)) as remote:
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
    except InUse:
        raise StorageError(f"a server has {data_dir} open: say where it answers, with --url") from None
    with database:
        yield Embedded(database)


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
