"""`keyhaus export` and `keyhaus import`, as people run them: between servers, directories, files and pipes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import Result
from typer.testing import CliRunner

from keyhaus.cli.main import app
from keyhaus.core.keys import PLAIN_END, pack_key
from keyhaus.core.objects import pack
from tests.e2e.conftest import Serve
from tests.support.processes import HOST, SOURCE, RunningKeyhaus
from tests.support.programs import require_program

ROOT = Path(__file__).parents[2]
LATER = 9_999_999_999_999
VALUES: tuple[Any, ...] = (
    "text é",
    b"\xff\0bytes",
    {"json": [1, "two", None, 2.5, b"\xff"]},
    {("a", 1): {1, 2}, None: float("nan")},
    10**40,
)
FORMS = ("rows.ndjson", "rows.json", "rows.csv")


def piped(*words: str, directory: Path, given: bytes = b"", status: int = 0) -> tuple[bytes, str]:
    """Runs `keyhaus …` with bytes on its standard input; what it prints there, and on standard error."""
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    run = subprocess.run(
        (sys.executable, "-m", "keyhaus", *words),
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        input=given,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == status, run.stderr
    return run.stdout, run.stderr.decode()


def command(*words: str, directory: Path) -> Result:
    """Runs `keyhaus …` in this process, which is so much faster."""
    with contextlib.chdir(directory):
        return CliRunner().invoke(app, words)


def told(*words: str, directory: Path) -> Any:
    """What `keyhaus … --json` prints; it must succeed."""
    run = command(*words, "--json", directory=directory)
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)


def failed(*words: str, directory: Path) -> str:
    """What a command says that fails, in one line."""
    run = command(*words, directory=directory)
    assert run.exit_code == 1, run.output
    (line,) = run.stderr.splitlines()
    return line.removeprefix("keyhaus: ")


@pytest.fixture
def server(serve: Serve) -> RunningKeyhaus:
    return serve("--engine", "memory")


@pytest.fixture
def client(server: RunningKeyhaus) -> Iterator[redis.Redis]:
    with redis.Redis(HOST, server.port) as connection:
        yield connection


@pytest.fixture
def url(server: RunningKeyhaus) -> tuple[str, str]:
    return "--url", f"redis://{HOST}:{server.port}"


def fill(client: redis.Redis) -> list[Any]:
    """Puts every kind into several databases; all that there is."""
    for number, value in enumerate(VALUES):
        client.execute_command("TYPED", "LOAD", 0, "FAIL", f"k{number}", *pack(value), -1)
        client.execute_command("TYPED", "LOAD", 3, "FAIL", b"\xff%d" % number, *pack(value), LATER)
    client.set("session:1", b"\xff", pxat=LATER)
    client.set("plain", b"\xfe")
    client.execute_command("TYPED", "LOAD", 3, "FAIL", pack_key((1, "a")), "TEXT", "typed", LATER)
    return state(client)


def state(client: redis.Redis) -> list[Any]:
    return [
        client.execute_command("TYPED", "RANGE", start, "", "DB", number, "EXPIRES")
        for number in range(16)
        for start in ("", PLAIN_END)
    ]


@pytest.mark.parametrize("name", FORMS)
def test_rows_go_from_a_server_through_a_file_into_a_directory_and_back(
    serve: Serve, client: redis.Redis, url: tuple[str, str], tmp_path: Path, name: str
) -> None:
    there = fill(client)
    exported = told("export", *url, "--output", name, directory=tmp_path)
    assert (exported["rows"], exported["bytes"]) == (13, (tmp_path / name).stat().st_size)
    imported = told("import", name, "--data-dir", "new", directory=tmp_path)
    assert (imported["rows"], imported["skipped"], imported["refused"], imported["dry_run"]) == (13, 0, 0, False)
    told("export", "--data-dir", "new", "--output", f"again.{name}", directory=tmp_path)
    assert (tmp_path / f"again.{name}").read_bytes() == (tmp_path / name).read_bytes()
    with redis.Redis(HOST, serve("--data-dir", "new").port) as other:
        assert state(other) == there
    client.flushall()
    assert command("import", name, *url, directory=tmp_path).stdout.startswith("13 rows imported, ")
    assert state(client) == there
    assert not list(tmp_path.glob(".*.partial"))


def test_one_moment_is_exported_of_all_databases(client: redis.Redis, url: tuple[str, str], tmp_path: Path) -> None:
    client.mset({f"filler:{number:05}": "x" * 50 for number in range(5000)})
    client.set("z", 0)
    client.copy("z", "z", 1)
    stop = threading.Event()

    def write() -> None:
        number = 0
        with redis.Redis(HOST, client.connection_pool.connection_kwargs["port"]) as writer:
            while not stop.is_set():
                number += 1
                with writer.pipeline(transaction=True) as both:
                    both.set("z", number).copy("z", "z", 1, replace=True).execute()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        written = [command("export", *url, directory=tmp_path).stdout for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    found = [[row["value"] for row in map(json.loads, lines.splitlines()) if row["key"] == "z"] for lines in written]
    assert [len(values) for values in found] == [2, 2, 2]
    assert all(one == other for one, other in found), found
    assert len({one for one, _ in found}) > 1, "nobody wrote meanwhile"


def test_an_export_that_takes_longer_than_a_snapshot_may_leaves_no_half_file(serve: Serve, tmp_path: Path) -> None:
    running = serve("--engine", "memory", "--snapshot-max-ms", "1")
    with redis.Redis(HOST, running.port) as client:
        client.mset({f"key:{number}": "x" for number in range(5000)})
    (tmp_path / "rows.json").write_text("{}")
    words = ("export", "--url", f"redis://{HOST}:{running.port}", "--output", "rows.json")
    said = failed(*words, directory=tmp_path)
    assert said.startswith("the export has ended after ")
    assert "Raise its settings snapshot-max-ms, snapshot-max-bytes and transaction-max-ms" in said
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
    assert (tmp_path / "rows.json").read_text() == "{}", "the file that was there is as it was"


def test_some_databases_and_keys_only(client: redis.Redis, url: tuple[str, str], tmp_path: Path) -> None:
    fill(client)

    def keys(*words: str) -> list[Any]:
        lines = command("export", *url, *words, directory=tmp_path).stdout.splitlines()
        return [(row["database"], row["key"]) for row in map(json.loads, lines)]

    assert len(keys("--database", "3")) == 6
    assert keys("--prefix", "s") == [(0, "session:1")]
    assert keys("--match", "k[12]") == [(0, "k1"), (0, "k2")]
    assert keys("--match", "*1", "--database", "0", "--prefix", "k") == [(0, "k1")]
    assert "DB index is out of range" in failed("export", *url, "--database", "99", directory=tmp_path)
    told("export", *url, "-o", "all.csv", directory=tmp_path)
    client.flushall()
    told("import", "all.csv", *url, "--database", "5", "--match", "*2", directory=tmp_path)
    assert [len(rows) // 4 for _, rows in state(client)] == [0] * 10 + [2] + [0] * 21


def test_pipes(client: redis.Redis, url: tuple[str, str], tmp_path: Path) -> None:
    fill(client)
    data, said = piped("export", *url, "--format", "json", "--json", directory=tmp_path)
    assert json.loads(said)["rows"] == 13
    client.flushall()
    piped("import", "-", "--format", "json", *url, given=data, directory=tmp_path)
    assert piped("export", *url, "--format", "json", directory=tmp_path)[0] == data
    client.flushall()
    piped("import", "-", "--format", "csv", *url, given=b"key,value\r\na,x\r\n", directory=tmp_path)
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", "pipe"], cwd=tmp_path, stdout=subprocess.PIPE)
    told("export", *url, "--output", "pipe", directory=tmp_path)
    assert reader.communicate(timeout=20)[0] == b'{"database":0,"key":"a","kind":"TEXT","value":"x"}\n'
    assert (tmp_path / "pipe").is_fifo(), "a pipe is written to, not replaced"


def test_a_link_to_the_file_stays_one(client: redis.Redis, url: tuple[str, str], tmp_path: Path) -> None:
    client.set("a", "x")
    (tmp_path / "real").mkdir()
    (tmp_path / "rows.json").symlink_to("real/rows.json")
    told("export", *url, "-o", "rows.json", directory=tmp_path)
    assert (tmp_path / "rows.json").is_symlink()
    assert json.loads((tmp_path / "real" / "rows.json").read_text()) == {"a": "x"}


def test_conflicts(client: redis.Redis, url: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"a": "new", "b": "new"}')
    client.set("b", "old")
    said = failed("import", "in.json", *url, "--on-conflict", "fail", directory=tmp_path)
    assert said == "line 1: the key 'b' is there already; nothing of its batch was put; 0 rows before it were imported"
    assert client.mget("a", "b") == [None, b"old"]
    report = told("import", "in.json", *url, "--on-conflict", "skip", directory=tmp_path)
    assert (report["rows"], report["skipped"]) == (1, 1)
    assert client.mget("a", "b") == [b"new", b"old"]
    told("import", "in.json", *url, directory=tmp_path)
    assert client.mget("a", "b") == [b"new", b"new"]


def test_a_broken_line_is_named_with_what_stands_before_it(
    client: redis.Redis, url: tuple[str, str], tmp_path: Path
) -> None:
    good = [f'{{"key": "k{number}", "value": 1}}\n' for number in range(2500)]
    (tmp_path / "in.ndjson").write_text("".join([*good[:1500], '{"key": "bad", "value": }\n', *good[1500:]]))
    said = failed("import", "in.ndjson", *url, directory=tmp_path)
    assert said == "line 1501, column 25: this is no JSON: invalid character; 1,500 rows before it were imported"
    assert client.dbsize() == 1500
    dry = failed("import", "in.ndjson", "--dry-run", directory=tmp_path)
    assert dry.endswith("; 1,500 rows before it could be imported")
    run = command("import", "in.ndjson", *url, "--keep-going", "--json", directory=tmp_path)
    assert run.exit_code == 1 and run.stderr.startswith("keyhaus: line 1501, column 25: ")
    assert {**json.loads(run.stdout), "seconds": 0, "bytes": 0} == {
        "rows": 2500,
        "skipped": 0,
        "refused": 1,
        "bytes": 0,
        "seconds": 0,
        "dry_run": False,
    }
    assert client.dbsize() == 2500
    client.flushall()
    (tmp_path / "in.json").write_text('{"a": 1,\n "b": [}, "c": 1 "d": 1}')
    run = command("import", "in.json", *url, "--keep-going", directory=tmp_path)
    assert run.stdout.startswith("2 rows imported") and run.stdout.endswith(", 2 refused\n")
    assert "line 2, column 18: expected a comma" in run.stderr and "the rest of the file can't be read" in run.stderr


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id,name\r\n1,"a\r\nb"\r\n')
    columns = ("--key-column", "id", "--value-column", "name")
    assert told("import", "in.csv", *columns, "--dry-run", directory=tmp_path)["rows"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    assert "say which columns hold the keys" in failed("import", "in.csv", "--dry-run", directory=tmp_path)


def test_what_the_server_refuses_is_named(serve: Serve, tmp_path: Path) -> None:
    running = serve("--engine", "memory", "--max-transaction-bytes", "1024")
    url = ("--url", f"redis://{HOST}:{running.port}")
    (tmp_path / "in.json").write_text(json.dumps({"a": "x", "large": "x" * 2000, "b": "x"}, indent=1))
    said = failed("import", "in.json", *url, directory=tmp_path)
    assert said.startswith("line 3: key 'large': the write has ") and said.endswith("; 1 rows before it were imported")
    run = command("import", "in.json", *url, "--keep-going", directory=tmp_path)
    assert (run.exit_code, run.stdout) == (1, "2 rows imported, 4 bytes, 1 refused\n")


@pytest.mark.parametrize("of_a_server", [True, False])
def test_a_refused_row_is_passed_over_wherever_rows_go(
    client: redis.Redis, url: tuple[str, str], tmp_path: Path, of_a_server: bool
) -> None:
    where = url if of_a_server else ("--data-dir", "data")
    rows = [{"key": "a", "value": "1"}, {"database": 99, "key": "b", "value": "2"}, {"key": "c", "value": "3"}]
    (tmp_path / "in.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problem = "line 2: key 'b': DB index is out of range"
    said = failed("import", "in.ndjson", *where, directory=tmp_path)
    assert said == f"{problem}; 1 rows before it were imported"
    run = command("import", "in.ndjson", *where, "--keep-going", directory=tmp_path)
    assert (run.exit_code, run.stdout) == (1, "2 rows imported, 4 bytes, 1 refused\n")
    assert run.stderr == f"keyhaus: {problem}\n"


def test_where_there_is_nothing_to_read(client: redis.Redis, serve: Serve, tmp_path: Path) -> None:
    assert failed("export", directory=tmp_path).startswith("there is no database in data: name its directory")
    assert not (tmp_path / "data").exists()
    serve("--data-dir", "used")
    for words in (("export",), ("import", "in.json")):
        (tmp_path / "in.json").write_text("{}")
        said = failed(*words, "--data-dir", "used", directory=tmp_path)
        assert said == "a server has used open: say where it answers, with --url"
    assert (
        failed("import", "none.json", "--data-dir", "new", directory=tmp_path) == "none.json: No such file or directory"
    )
    (tmp_path / "in.json").write_text("{}")
    run = command("import", "in.json", "--key-column", "a", directory=tmp_path)
    assert run.exit_code == 2 and "they are about CSV" in run.stderr


def test_a_terminal_sees_progress_and_a_file_does_not(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_text("".join(f'{{"key": "k{n}", "value": "x"}}\n' for n in range(60_000)))
    quiet = command("import", "in.ndjson", "--dry-run", directory=tmp_path)
    assert quiet.stderr == "" and quiet.stdout.startswith("60,000 rows could be imported")
    ours, theirs = pty.openpty()
    words = (sys.executable, "-m", "keyhaus", "import", "in.ndjson", "--dry-run")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "COLUMNS": "200", "TERM": "xterm"}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.wait(60) == 0
    assert b"checking" in shown and b"rows/s" in shown, shown


def test_the_sessions_of_the_page_are_real(server: RunningKeyhaus, tmp_path: Path) -> None:
    require_program("redis-cli")
    page = (ROOT / "docs" / "how-to" / "import-and-export.md").read_text()
    sessions = "".join(re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "keyhaus").write_text(f'#!/bin/sh\nexec {sys.executable} -m keyhaus "$@"\n')
    (tmp_path / "bin" / "keyhaus").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(SOURCE)}
    compared = 0
    for session in re.split(r"^\$ ", sessions, flags=re.MULTILINE)[1:]:
        words, _, shown = session.partition("\n")
        if words.startswith("keyhaus serve"):
            continue
        run = subprocess.run(
            ["bash", "-c", words.replace("19272", str(server.port))],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.stdout == shown, words
        compared += 1
    assert compared >= 14
