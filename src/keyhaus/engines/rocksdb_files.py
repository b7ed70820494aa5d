"""A RocksDB directory as files: read without leaving a trace in it, and copied without opening it.

RocksDB writes its log of events even where it only reads. So what is only to be looked at is looked at through another
directory, with links to the files that are meant.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rocksdict import AccessType, Rdict

from keyhaus.engines.rocksdb_errors import translated
from keyhaus.engines.rocksdb_options import RocksOptions, database_options


@contextlib.contextmanager
def mirror(directory: str) -> Iterator[Path]:
    """A directory elsewhere with the same files, in which RocksDB and its binding may write what they like."""
    paths = Path(directory).resolve().iterdir()
    files = {path.name: path for path in paths if path.is_file() and not path.name.startswith(("LOG", "LOCK"))}
    with mirrored(files) as place:
        yield place


@contextlib.contextmanager
def mirrored(files: dict[str, Path]) -> Iterator[Path]:
    """The same of files by the names that they are to have: links to those with rows, copies of the few others.

    The binding writes its own small file anew wherever it opens a database, even only to read it.
    """
    with tempfile.TemporaryDirectory(prefix="keyhaus-") as name:
        place = Path(name)
        for file, path in files.items():
            if file.endswith(".sst"):
                (place / file).symlink_to(path)
            else:
                shutil.copyfile(path, place / file)
        yield place


@contextlib.contextmanager
def opened(directory: str) -> Iterator[Rdict]:
    """A database that is only read; `directory` is a mirror. Raises Corruption, OSError, StorageError."""
    options = database_options(RocksOptions(block_cache_bytes=8 << 20))
    try:
        database = Rdict(
            directory,
            options,
            column_families={"default": options},
            access_type=AccessType.read_only(error_if_log_file_exist=False),
        )
    except Exception as error:
        raise translated(error, directory) from error
    try:
        yield database
    finally:
        database.close()


def read_row(directory: str, key: bytes) -> bytes | None:
    """The value under one key of a database that no process has open. Raises Corruption, OSError, StorageError."""
    with mirror(directory) as place, opened(str(place)) as database:
        try:
            return database.get([key])[0]
        except Exception as error:
            raise translated(error, directory) from error


def live(directory: str) -> list[str]:
    """The names of the files that make up a database which no process has open. Raises as `read_row` does."""
    with mirror(directory) as place:
        current = (place / "CURRENT").read_text().strip()
        with opened(str(place)) as database:
            tables = sorted(Path(file["name"]).name for file in database.live_files())
    options = sorted(path.name for path in Path(directory).glob("OPTIONS-*[0-9]"))
    others = [name for name in ("rocksdict-config.json",) if (Path(directory) / name).exists()]
    return [*tables, current, *options[-1:], *others, "CURRENT"]


def copy(source: Path, target: Path) -> None:
    """Copies one file, durably but for its name. Raises OSError."""
    with source.open("rb", buffering=0) as original, target.open("xb", buffering=0) as made:
        while data := original.read(1 << 20):
            made.write(data)
        os.fsync(made.fileno())
