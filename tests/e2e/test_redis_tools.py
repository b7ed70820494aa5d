"""redis-cli and redis-benchmark work unmodified."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from tests.support.processes import HOST, RunningKeyhaus, keyhaus_server
from tests.support.programs import require_program
from tests.support.wire import encoded

Cli: TypeAlias = Callable[..., bytes]
SECONDS = 60


@pytest.fixture(scope="module", params=["rocksdb-auto", "memory-resp"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeyhaus]:
    """On the port that recognises dialects, and on one of RESP alone."""
    engine, _, dialect = request.param.partition("-")
    directory = tmp_path_factory.mktemp("keyhaus")
    options = ("--engine", engine, "--data-dir", str(directory / "data"), "--log-level", "warning")
    with keyhaus_server(directory, *options, listen=dialect) as running:
        yield running


@pytest.fixture
def cli(server: RunningKeyhaus) -> Cli:
    """Runs redis-cli; what it printed. The database is empty at first."""
    program = require_program("redis-cli")

    def run(*arguments: str, given: bytes = b"", status: int = 0) -> bytes:
        command = (program, "-h", HOST, "-p", str(server.port), *arguments)
        done = subprocess.run(command, input=given, capture_output=True, timeout=SECONDS, check=False)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done.stdout + done.stderr

    assert run("flushall") == b"OK\n"
    return run


def test_commands(cli: Cli) -> None:
    assert cli("set", "greeting", "hello") == b"OK\n"
    assert cli("get", "greeting") == b"hello\n"
    assert cli("-n", "3", "dbsize") == b"0\n"
    assert cli("-r", "3", "incr", "n") == b"1\n2\n3\n"
    assert cli("-x", "set", "stdin", given=b"a\0b\r\n") == b"OK\n"
    assert cli("get", "stdin") == b"a\0b\r\n\n"
    assert cli("--csv", "mget", "n", "none") == b'"3",NULL\n'
    assert b"unknown command 'nothing'" in cli("-e", "nothing", status=1)


def test_commands_from_a_file(cli: Cli) -> None:
    lines = b"set 'a b' \"1\\x32\"\nget 'a b'\nmulti\nincr 'a b'\nget none\nexec\nget\n"
    said = cli("--no-raw", given=lines).splitlines()
    assert said[:5] == [b"OK", b'"12"', b"OK", b"QUEUED", b"QUEUED"]
    assert said[5:7] == [b"1) (integer) 13", b"2) (nil)"]
    assert said[7] == b"(error) ERR wrong number of arguments for 'get' command"


def test_resp3(cli: Cli) -> None:
    assert cli("-3", "set", "k", "v") == b"OK\n"
    assert cli("-3", "--no-raw", "get", "none") == b"(nil)\n"
    assert json.loads(cli("-3", "--json", "config", "get", "maxclients")) == {"maxclients": "10000"}
    assert b"resp=3" in cli("-3", "client", "info")
    assert b"\nredis_version:" in cli("-3", "info").replace(b"\r", b"")


def test_scan(cli: Cli) -> None:
    assert cli("--scan") == b""
    cli("mset", *(word for number in range(1200) for word in (f"key:{number}", "value")))
    assert sorted(cli("--scan").split()) == sorted(b"key:%d" % number for number in range(1200))
    assert sorted(cli("-3", "--scan", "--pattern", "key:11?").split()) == [b"key:11%d" % digit for digit in range(10)]


def test_mass_insert(cli: Cli) -> None:
    """As Redis' documentation tells it; the last reply is found by an ECHO that stands behind an empty line."""
    requests = b"".join(encoded([b"SET", b"key:%d" % number, b"x" * (number % 300)]) for number in range(5000))
    assert cli("--pipe", given=requests).endswith(b"errors: 0, replies: 5000\n")
    assert cli("dbsize") == b"5000\n" and cli("strlen", "key:4999") == b"199\n"
    odd = encoded([b"SET", b"a", b"\r\n"]) + encoded([b"NOTHING"]) + encoded([b"SET", b"b", b""])
    assert cli("--pipe", given=odd, status=1).splitlines()[2] == b"errors: 1, replies: 3"
    assert cli("mget", "a", "b") == b"\r\n\n\n"


def test_looking_for_large_keys(cli: Cli) -> None:
    cli("mset", "small", "1", "large", "x" * 5000)
    assert b"Biggest string found '\"large\"' has 5000 bytes" in cli("--bigkeys")
    assert b"Biggest string found '\"large\"' has " in cli("--memkeys")


def test_help_is_made_of_what_the_server_tells(cli: Cli) -> None:
    assert b"RANGE" in cli("help", "range") and b"ASCII" not in cli("help", "range")


@pytest.mark.parametrize("options", [(), ("-P", "16"), ("-P", "64", "-r", "1000", "-d", "500"), ("-3",)], ids=" ".join)
def test_the_benchmark_runs(server: RunningKeyhaus, options: tuple[str, ...]) -> None:
    # Its `ping` also sends inline commands, which are spoken on a port of RESP alone.
    tests = "ping,set,get,incr,mset" if "resp" in server.ports else "ping_mbulk,set,get,incr,mset"
    command = (require_program("redis-benchmark"), "-h", HOST, "-p", str(server.port), "-t", tests, "-n", "3000", "-q")
    done = subprocess.run((*command, *options), capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0 and done.stderr == b"", done
    finished = re.findall(rb"([A-Z_]+)(?: \(10 keys\))?: [\d.]+ requests per second", done.stdout)
    expected = [b"PING_INLINE", b"PING_MBULK", b"SET", b"GET", b"INCR", b"MSET"]
    assert finished == expected["resp" not in server.ports :]
