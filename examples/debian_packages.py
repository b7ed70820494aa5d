"""Loads Debian's package index into keyhaus through redis-py, then looks packages up by prefix with RANGE.

    make serve                                            # in one shell
    .venv/bin/python examples/debian_packages.py          # in another

The index comes from `apt-cache dumpavail`, or from a file in the same format (--file). Each package is one key,
`package:NAME:VERSION`; its value is JSON with the fields of the record. Keys are ordered by their bytes, so that all
packages whose names begin alike stand side by side, and a prefix is a range: from the prefix up to, and without, the
first key that no longer begins with it.

Needs redis and rich: both are there in the environment that `make test` makes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

BATCH = 500  # records that are sent before their replies are read
PAGE = 1000  # keys asked for with one RANGE


def index_text(file: Path | None) -> str:
    """The package index. Exits with a message where there is none."""
    if file is not None:
        try:
            return file.read_text(errors="replace")
        except OSError as error:
            sys.exit(f"{file} can't be read: {error.strerror}")
    if shutil.which("apt-cache") is None:
        sys.exit("apt-cache is not installed (this is no Debian?): give a package index with --file")
    run = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, errors="replace", check=False)
    if run.returncode:
        sys.exit(f"apt-cache dumpavail failed: {run.stderr.strip()}")
    if "Package:" not in run.stdout:
        sys.exit("apt-cache knows no packages: run apt-get update first, or give a package index with --file")
    return run.stdout


def records(text: str) -> Iterator[dict[str, str]]:
    """The records of a package index; a line that begins with a blank continues the field before it."""
    for paragraph in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if "Package" in fields:
            yield fields


def load(client: redis.Redis, text: str, console: Console) -> int:
    """Puts every record; how many there were."""
    total = sum(1 for _ in records(text))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, client.pipeline(transaction=False) as pipeline:
        task = progress.add_task("Loading", total=total)
        for number, fields in enumerate(records(text), 1):
            pipeline.set(f"package:{fields['Package']}:{fields.get('Version', '')}", json.dumps(fields))
            if number % BATCH == 0 or number == total:
                pipeline.execute()
                progress.update(task, completed=number)
    return total


def under(client: redis.Redis, prefix: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Every key that begins with a prefix, and its record, in the order of the keys."""
    first = prefix.encode()
    # The end is exclusive: the prefix with its last byte one higher is the first key behind all that begin with it.
    end = first[:-1] + bytes([first[-1] + 1])
    start: bytes | None = first
    while start is not None:
        page: Any = client.execute_command("RANGE", start, end, "LIMIT", PAGE)
        start, rows = page
        for key, value in zip(rows[::2], rows[1::2], strict=True):
            yield key.decode(), json.loads(value)


def show(client: redis.Redis, name: str, console: Console) -> None:
    began = time.perf_counter()
    found = list(under(client, f"package:{name}"))
    took_ms = (time.perf_counter() - began) * 1000
    table = Table(title=f"{name}*: {len(found)} packages in {took_ms:.1f} ms")
    for column in ("package", "version", "kB"):
        table.add_column(column, no_wrap=True, justify="right" if column == "kB" else "left")
    table.add_column("description")
    for _, fields in found:
        table.add_row(
            fields["Package"],
            fields.get("Version", ""),
            fields.get("Installed-Size", ""),
            (fields.get("Description") or fields.get("Description-en") or "").partition("\n")[0],
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="where keyhaus runs (%(default)s)")
    parser.add_argument("--port", type=int, default=19272, help="(%(default)s)")
    parser.add_argument("--file", type=Path, help="a package index to load instead of apt-cache's")
    parser.add_argument("--prefix", default="python3-uv", help="what the names shown begin with (%(default)s)")
    parser.add_argument("--no-load", action="store_true", help="only look up: the packages are there already")
    options = parser.parse_args()
    console = Console()
    client = redis.Redis(host=options.host, port=options.port)
    try:
        client.ping()
        if not options.no_load:
            text = index_text(options.file)
            began = time.perf_counter()
            count = load(client, text, console)
            took = time.perf_counter() - began
            console.print(f"{count:,} packages in {took:.1f} s: {count / took:,.0f} a second")
        show(client, options.prefix, console)
    except redis.ConnectionError as error:
        sys.exit(f"No server at {options.host}:{options.port} ({error}). Start one with: make serve")
    except redis.ResponseError as error:
        sys.exit(f"The server refused: {error}")


if __name__ == "__main__":
    main()
