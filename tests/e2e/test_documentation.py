"""What the documentation shows, run as it stands there: sessions with redis-cli, Python, the examples."""

from __future__ import annotations

import ast
import dbm
import os
import re
import runpy
import secrets
import shelve
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import redis

import keyhaus
from tests.support.make_fixture import DIRECTORY, unpack
from tests.support.processes import RunningKeyhaus, keyhaus_server, redis_server
from tests.support.programs import require_program

_ROOT = Path(__file__).resolve().parents[2]
_PROMPT = re.compile(r"127\.0\.0\.1:19272(?:\(TX\))?> (.*)")
_ONE_LINE = re.compile(r"\$ redis-cli -p 19272 (.+)")
_TRANSACTION = re.compile(r"tx-[0-9a-z]{26}")
_AGES = re.compile(r'(-ms" => \(integer\)) \d+')
_INDEX = """\
Package: python3-uvicorn
Version: 0.17.6-1
Installed-Size: 212
Description: ASGI server implementation
 with a long story
 on several lines

Package: python3-uvloop
Version: 0.17.0+ds1-2+b2
Description: fast implementation of asyncio event loop on top of libuv

Package: python3-uwsgi
Version: 1
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeyhaus]:
    with keyhaus_server(tmp_path_factory.mktemp("documentation"), listen="auto") as running:
        yield running


@pytest.fixture
def client(server: RunningKeyhaus) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port) as connection:
        connection.flushall()
        yield connection


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (_ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def _alike(lines: Sequence[str]) -> list[str]:
    """Lines of an answer, without what is another one each time: ids of transactions, and their ages."""
    return [_AGES.sub(r"\1 N", _TRANSACTION.sub("ID", line)) for line in lines]


def _run(block: str, names: dict[str, Any]) -> int:
    """Runs Python that stands on a page; how many of the values that stand behind expressions it has compared."""
    lines = block.splitlines()
    compared = 0
    for statement in ast.parse(block).body:
        source = ast.unparse(statement)
        _, _, comment = lines[(statement.end_lineno or 1) - 1].partition("  # ")
        if not isinstance(statement, ast.Expr):
            exec(source, names)
            continue
        value = eval(source, names)
        try:
            expected = ast.literal_eval(comment)
        except (SyntaxError, ValueError):
            continue
        assert value == expected, source
        compared += 1
    return compared


def _redis_cli(port: int, arguments: list[str], words: str | None = None) -> str:
    command = [require_program("redis-cli"), "-p", str(port), "--no-raw", *arguments]
    return subprocess.run(command, input=words, capture_output=True, text=True, timeout=30, check=True).stdout


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial/first-steps.md"])
def test_the_sessions_with_redis_cli_are_real(page: str, server: RunningKeyhaus, client: redis.Redis) -> None:
    typed: list[str] = []
    shown: list[str] = []
    for block in _blocks(page, "console"):
        lines = block.splitlines()
        session = any(map(_PROMPT.match, lines))
        for number, line in enumerate(lines):
            if match := _ONE_LINE.match(line):
                answer = _redis_cli(server.port, match[1].split()).splitlines()
                assert _alike(answer) == _alike(lines[number + 1 : number + 1 + len(answer)])
            elif match := _PROMPT.match(line):
                typed.append(match[1])
            elif session and not line.startswith("$"):
                shown.append(line)
    assert typed, "the page has no session any more"
    assert _alike(_redis_cli(server.port, [], "\n".join(typed) + "\n").splitlines()) == _alike(shown)


def test_the_python_of_the_readme_is_real(server: RunningKeyhaus, client: redis.Redis) -> None:
    names: dict[str, Any] = {}
    for block in _blocks("README.md", "python"):
        exec(block.replace("19272", str(server.port)), names)
    names["r"].close()
    assert client.mget("greeting", "account:a", "account:b") == [b"hello", b"90", b"10"]


def test_the_python_and_the_shell_of_the_tutorial_are_real(server: RunningKeyhaus, client: redis.Redis) -> None:
    client.mset({"account:a": 70, "account:b": 30})
    (block,) = _blocks("docs/tutorial/first-steps.md", "python")
    assert _run(block.replace("19272", str(server.port)), {}) == 4
    page = "".join(_blocks("docs/tutorial/first-steps.md", "console"))
    shown = re.findall(r"^\$ \.venv/bin/keyhaus shell (.*)\n((?:[^$].*\n)+)", page, re.MULTILINE)
    environment = {**os.environ, "KEYHAUS_URL": f"keyhaus://127.0.0.1:{server.port}"}
    for words, answer in shown:
        command = [sys.executable, "-m", "keyhaus", "shell", *shlex.split(words)]
        assert subprocess.check_output(command, env=environment, text=True, timeout=60) == answer
    assert len(shown) == 2


def test_the_python_of_the_page_on_clients_is_real(
    server: RunningKeyhaus, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"client": client, "secrets": secrets, "time": time}
    for block in _blocks("docs/how-to/redis-clients.md", "python"):
        exec(block.replace("19272", str(server.port)), names)
    names["r"].close()
    assert capsys.readouterr().out == "2\n"
    assert client.mget("number:999", "account:a", "account:b", "x") == [b"999", b"95", b"10", b"2"]
    assert names["name"] == "example:lock"
    assert not client.exists("example:lock")


_TRANSACTIONS = "docs/how-to/use-transactions.md"


def _transactions(port: int) -> dict[str, Any]:
    """What the Python of the page on transactions has defined and done."""
    names: dict[str, Any] = {}
    compared = sum(_run(block.replace("19272", str(port)), names) for block in _blocks(_TRANSACTIONS, "python"))
    assert compared == 5
    return names


def test_the_python_of_the_page_on_transactions_is_real(
    server: RunningKeyhaus, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    names = _transactions(server.port)
    assert capsys.readouterr().out == "[['put', 0, 'title:1', 'Dune'], ['put', 0, 'author:1', 'Herbert']]\n"
    assert client.mget("account:a", "account:b", "row:19999") == [b"71", b"30", b"19999"]
    assert names["done"] is True
    with pytest.raises(ValueError, match="too little"):
        names["transfer"]("account:a", "account:b", 72)
    assert names["total"]("account:", "account;") == 101
    assert client.info("transactions")["transactions_open"] == 0
    names["db"].close()


def test_transact_runs_again_what_stood_in_the_way_and_lets_nothing_slip_out(
    server: RunningKeyhaus, client: redis.Redis
) -> None:
    names = _transactions(server.port)
    transact, runs = names["transact"], 0

    def overtaken(inside: redis.Redis) -> int:
        nonlocal runs
        runs += 1
        value = int(str(inside.get("counter") or 0))
        if runs < 3:
            client.set("counter", 10 * runs)
        inside.set("counter", value + 1)
        return value

    assert transact(overtaken, "OPTIMISTIC") == 20
    assert (runs, client.get("counter")) == (3, b"21")

    def cut_off(inside: redis.Redis) -> None:
        inside.set("counter", "inside")
        client.client_kill_filter(_id=str(inside.client_id()))
        inside.set("counter", "outside")

    with pytest.raises(redis.ConnectionError):
        transact(cut_off)
    assert client.get("counter") == b"21"
    names["db"].close()


def test_settle_says_for_good_what_became_of_a_commit(server: RunningKeyhaus, client: redis.Redis) -> None:
    names = _transactions(server.port)
    settle = names["settle"]
    with client.client() as inside:
        committed = inside.execute_command("BEGIN").decode()
        inside.set("settled", "1")
        seqno = inside.execute_command("COMMIT", "WITHSEQNO")
        assert settle(committed) == settle(committed) == seqno
        under_way = inside.execute_command("BEGIN").decode()
        inside.set("settled", "2")
        assert settle(under_way) is None
        with pytest.raises(redis.ResponseError, match="NOTX"):
            inside.execute_command("COMMIT")
    assert settle(committed[:-1] + ("0" if committed[-1] != "0" else "1")) is None, "it was never heard of"
    assert client.get("settled") == b"1"
    names["db"].close()


def test_the_sessions_of_the_page_on_transactions_are_real(server: RunningKeyhaus, client: redis.Redis) -> None:
    session, rollback, *looks = _blocks(_TRANSACTIONS, "console")
    lines = session.removeprefix("$ redis-cli -p 19272\n").splitlines() + rollback.splitlines()
    typed = [match[1] for match in map(_PROMPT.match, lines) if match]
    shown = [line for line in lines if not _PROMPT.match(line)]
    assert _alike(_redis_cli(server.port, [], "\n".join(typed) + "\n").splitlines()) == _alike(shown)
    with client.client() as idle, client.client() as waiting:
        real = idle.execute_command("BEGIN").decode()
        idle.execute_command("LOCK", "account:a")
        waiting.execute_command("BEGIN")
        write = threading.Thread(target=waiting.decr, args=("account:a",))
        write.start()
        _wait_until(lambda: client.info("transactions")["lock_waiters"] == 1)
        told = _TRANSACTION.findall(looks[0])[0]
        for block in looks:
            command, answered = "", list[str]()
            for line in [*block.splitlines(), "$"]:
                if line.startswith("$"):
                    if command:
                        answer = _redis_cli(server.port, command.replace(told, real).split())
                        assert _alike(answer.splitlines()) == _alike(answered)
                    command, answered = line.removeprefix("$ redis-cli -p 19272 "), []
                else:
                    answered.append(line)
        write.join(timeout=10)
        with pytest.raises(redis.ResponseError, match="TRANSACTION KILL"):
            idle.get("account:a")
        for connection in (idle, waiting):
            connection.execute_command("RESET")


def _wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_python_of_the_page_on_the_python_client_is_real(
    server: RunningKeyhaus, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line that says in a comment what it gives gives that."""
    names: dict[str, Any] = {}
    compared = 0
    for block in _blocks("docs/how-to/python-client.md", "python"):
        block = block.replace("AsyncClient()", f'AsyncClient("keyhaus://127.0.0.1:{server.port}")')
        tree = ast.parse(block.replace("19272", str(server.port)))
        for statement in tree.body:
            line = block.splitlines()[(statement.end_lineno or 0) - 1]
            _, mark, told = line.partition("  # ")
            if isinstance(statement, ast.Expr) and mark:
                value = eval(compile(ast.Expression(statement.value), "python-client.md", "eval"), names)
                if told[0].isalpha() and told[:2] != "b'" and told not in ("True", "False", "None"):
                    continue  # words for people
                assert repr(value) == told, line
                compared += 1
            else:
                exec(compile(ast.Module([statement], []), "python-client.md", "exec"), names)
    assert compared >= 30 and capsys.readouterr().out == "b'2'\n"
    assert client.mget("account:a", "account:b", "account:c") == [b"70", b"15", b"15"]


def test_the_python_of_the_page_on_embedding_is_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = _blocks("docs/how-to/embedded.md", "python")
    for block in blocks:
        exec(block, names)
    shown = [line.split("  # ")[1] for line in "".join(blocks).splitlines() if "print(" in line]
    assert capsys.readouterr().out.splitlines() == shown


_MOVING = "docs/how-to/from-shelve-and-diskcache.md"


def test_the_mapping_of_the_page_on_moving_is_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    block = _blocks(_MOVING, "python")[0]
    exec(block, {})
    shown = [line.split("  # ")[1] for line in block.splitlines() if "print(" in line]
    assert capsys.readouterr().out.splitlines() == shown


def _migrated(directory: Path, kind: str, source: str, target: str) -> str:
    """What the script that the page shows prints."""
    (script,) = re.findall(
        r'^```python title="migrate.py"\n(.*?)^```$', (_ROOT / _MOVING).read_text(), re.MULTILINE | re.DOTALL
    )
    (directory / "migrate.py").write_text(script)
    command = [sys.executable, "migrate.py", kind, source, target]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert not run.stderr, run.stderr
    return run.stdout


def test_a_shelf_is_taken_along(tmp_path: Path, server: RunningKeyhaus, client: redis.Redis) -> None:
    shelved: dict[str, Any] = {"user:1": {"name": "Ada", "born": (1815, 12, 10)}, "user:2": ["Grace", {"navy"}]}
    with shelve.open(str(tmp_path / "users")) as shelf:
        shelf.update(shelved)
    told = _migrated(tmp_path, "shelve", "users", "data")
    assert told == _blocks(_MOVING, "console")[0].splitlines()[1] + "\n"
    with keyhaus.open(tmp_path / "data").as_mapping() as mapping:
        assert dict(mapping) == shelved
    for _ in range(2):
        _migrated(tmp_path, "shelve", "users", f"keyhaus://127.0.0.1:{server.port}")
    assert client.dbsize() == 2 and client.get("user:2") == b'["Grace",["navy"]]'


def test_a_dbm_file_is_taken_along(tmp_path: Path) -> None:
    with dbm.open(str(tmp_path / "file"), "c") as file:
        for number in range(2_500):
            file[f"k{number:04}"] = b"\xff%d" % number
    assert _migrated(tmp_path, "dbm", "file", "data") == "2500 keys copied\n"
    with keyhaus.open(tmp_path / "data").as_mapping() as mapping:
        assert len(mapping) == 2_500 and mapping["k2499"] == b"\xff2499"


def test_a_diskcache_is_taken_along(tmp_path: Path) -> None:
    with import_module("diskcache").Cache(str(tmp_path / "cache")) as cache:
        cache["a"] = {"n": (1, None)}
        cache.set("b", "short", expire=100)
        cache.set("c", "gone", expire=-1)
    assert _migrated(tmp_path, "diskcache", "cache", "data") == "2 keys copied\n"
    with keyhaus.open(tmp_path / "data") as database:
        assert database.get_objects(["a", "b", "c"]) == [{"n": (1, None)}, "short", None]
        assert 0 < database.ttl("b") <= 100 and database.ttl("a") is None


def test_the_page_on_info_has_each_field_and_no_other(tmp_path: Path) -> None:
    page = (_ROOT / "docs" / "reference" / "info.md").read_text()
    own, _, others = page.partition("## The other sections")
    written = {name for row in re.findall(r"^\| (`.+?) \|", own, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert written == _fields_of_a_flushed_server(tmp_path, ("keyhaus", "transactions"))
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", others, re.MULTILINE))
    fixed = ("server", "clients", "memory", "persistence", "stats", "replication", "cpu", "modules", "cluster")
    assert {*rows} == {*fixed, "keyspace", "commandstats", "errorstats"}
    named = {name for section in fixed for name in re.findall(r"`(\w+)`", rows[section])} - {"err", "journal_bytes"}
    assert named == _fields_of_a_flushed_server(tmp_path, fixed)


def _fields_of_a_flushed_server(directory: Path, sections: Sequence[str]) -> set[str]:
    options = ("--data-dir", str(directory / "info"), "--memtable-size", "1")
    with keyhaus_server(directory, *options) as running, redis.Redis(port=running.port) as connection:
        connection.set("a", "row")
        _wait_until(lambda: bool(connection.info("keyhaus").get("flushes")))
        return set(connection.info(*sections))


def test_the_python_that_reads_a_base_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack(DIRECTORY / "stopped.tar.gz", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    shown: list[tuple[bytes, bytes]] = []
    (block,) = _blocks("docs/reference/base.md", "python")
    exec(block, {"print": lambda key, value: shown.append((key, value))})
    assert (b"user:0010", b"second 10") in shown  # from the second run
    assert (b"far", b"away") in shown  # with an expiry
    assert b"user:0031" not in dict(shown)


def _example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_ROOT / "examples" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_lock_keeps_a_sum_right(server: RunningKeyhaus, client: redis.Redis) -> None:
    run = _example("lock.py", "--port", str(server.port))
    assert (run.returncode, run.stdout) == (0, "4 threads added 25 each: 100\n"), run.stderr


def test_a_lock_that_ran_out_is_not_taken_from_its_next_holder(client: redis.Redis) -> None:
    release = runpy.run_path(str(_ROOT / "examples" / "lock.py"))["release"]
    client.set("lock", "theirs")
    assert release(client, "lock", "mine") is False
    assert client.get("lock") == b"theirs"
    assert release(client, "lock", "theirs") is True
    assert client.get("lock") is None


def test_packages_are_found_by_prefix(server: RunningKeyhaus, client: redis.Redis, tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.write_text(_INDEX)
    run = _example("debian_packages.py", "--port", str(server.port), "--file", str(index))
    assert run.returncode == 0, run.stderr
    assert "3 packages in" in run.stdout
    assert "python3-uv*: 2 packages in" in run.stdout
    assert "python3-uwsgi" not in run.stdout
    assert client.dbsize() == 3


def test_an_example_without_a_server_says_how_to_start_one(tmp_path: Path) -> None:
    with keyhaus_server(tmp_path, "--engine", "memory") as running:
        port = str(running.port)
    for name in ("lock.py", "debian_packages.py"):
        run = _example(name, "--port", port)
        assert run.returncode == 1
        assert f"No server at 127.0.0.1:{port}" in run.stderr
        assert "make serve" in run.stderr


def test_the_python_of_the_page_on_older_systems_is_real(server: RunningKeyhaus, client: redis.Redis) -> None:
    blocks = _blocks("docs/how-to/from-the-older-systems.md", "python")
    for block in blocks:
        _run(block.replace("19272", str(server.port)), {})
    assert len(blocks) == 3
    assert client.get("key1") == b"value1"
    assert client.get("user:1002") == b"Bob"
    assert client.get("user") == b'{"name":"Alice","tags":["a","b"]}'


def test_strings_are_copied_from_redis(server: RunningKeyhaus, client: redis.Redis, tmp_path: Path) -> None:
    with redis_server(tmp_path) as port, redis.Redis(port=port) as source:
        source.set("a", "plain")
        source.set("b", "x" * 5000, px=10_000_000)
        source.set("c", 12345)
        source.rpush("list", "a", "b")
        client.set("a", "older")
        for _ in range(2):
            run = _example("copy_from_redis.py", f"redis://127.0.0.1:{port}/0", f"redis://127.0.0.1:{server.port}/0")
            assert run.stdout == "3 strings copied, 1 keys of other types left out\n", run.stderr
        assert client.mget("a", "b", "c") == source.mget("a", "b", "c")
        assert client.pexpiretime("b") == source.pexpiretime("b")
        assert client.pexpiretime("a") == -1
        assert client.dbsize() == 3
