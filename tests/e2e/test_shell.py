"""`keyhaus shell` with -c and from scripts, against a real server: output, exit statuses, what is said at the end."""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from keyhaus.cli.shell.start import start
from keyhaus.client.text import Client
from tests.e2e.conftest import Serve
from tests.support.load import Link
from tests.support.processes import HOST, SOURCE, RunningKeyhaus, free_port, keyhaus_server, redis_server
from tests.support.proxy import Cut, at, proxy

_SECONDS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeyhaus]:
    with keyhaus_server(tmp_path_factory.mktemp("shell"), "--engine", "memory") as running:
        yield running


@pytest.fixture
def port(server: RunningKeyhaus) -> int:
    """Of a server that has no data."""
    with Link(server.port) as link:
        link.ask(b"FLUSHALL")
    return server.port


class Run(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def _url(port: int | str) -> str:
    return f"keyhaus://{HOST}:{port}" if isinstance(port, int) else port


def _shell(port: int | str, *arguments: str, script: bytes | None = None) -> Run:
    """Runs a shell within this process, since a second one takes a second to start."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep-going", action="store_true")
    given = parser.parse_args(arguments)
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(script or b"")))
        status = start(_url(port), given.c, given.json, given.keep_going)
    return Run(status, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]


def _process(port: int | str, *arguments: str, script: bytes = b"") -> Run:
    """Runs a shell as a person does."""
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    run = subprocess.run(
        [sys.executable, "-m", "keyhaus", "shell", _url(port), *arguments],
        input=script,
        capture_output=True,
        timeout=_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    return Run(run.returncode, run.stdout.decode(), run.stderr.decode())


def test_commands_of_one_shot_run_one_after_the_other(port: int) -> None:
    run = _process(port, "-c", 'SET greeting "hello world"', "-c", "GET greeting", "-c", "GET nothing", "-c", "INCR n")
    assert (run.returncode, run.stdout, run.stderr) == (0, 'OK\n"hello world"\n(nil)\n(integer) 1\n', "")
    page = _shell(port, "-c", "RANGE '' ''")
    assert page.stdout == '1) (nil)\n2) 1) "greeting"\n   2) "hello world"\n   3) "n"\n   4) "1"\n'


def test_an_error_is_the_exit_status_and_ends_it(port: int) -> None:
    words = ("-c", "SET a x", "-c", "INCR a", "-c", "SET a y")
    run = _process(port, *words)
    assert (run.returncode, run.stdout) == (1, "OK\n(error) ERR value is not an integer or out of range\n")
    assert run.stderr == "keyhaus: -c 2: INCR was answered with an error; nothing behind it was run\n"
    on = _shell(port, *words, "--keep-going")
    assert (on.returncode, on.stdout.splitlines()[-1]) == (1, "OK")
    within = _shell(port, "-c", "MULTI", "-c", "INCR a", "-c", "EXEC")
    assert within.returncode == 1 and "EXEC was answered with an error" in within.stderr


def test_a_script_is_read_where_nobody_types(port: int) -> None:
    script = (
        b'# don\'t mind\n\nSET a "two\nlines"\nGET a\nput name John Doe\nbatch k1 v1 k2 v2\nrange k1 k2\ndelete a\n'
    )
    run = _shell(port, script=script)
    rows = '1) (nil)\n2) 1) "k1"\n   2) "v1"\n   3) "k2"\n   4) "v2"\n'
    assert (run.returncode, run.stdout, run.stderr) == (0, f'OK\n"two\\nlines"\nOK\nOK\n{rows}(integer) 1\n', "")
    assert _shell(port, "-c", "GET name").stdout == '"John Doe"\n'
    queued = _shell(port, script=b"MULTI\nput a 1\nEXEC\n")
    assert queued.stdout == "OK\nQUEUED\n1) OK\n", "nothing else was queued"


def test_a_script_ends_at_its_first_error_and_says_where(port: int) -> None:
    run = _shell(port, script=b"SET a 1\n\nGET 'a'b\nSET a 2\n")
    assert (run.returncode, run.stdout) == (1, "OK\n")
    assert run.stderr.startswith("keyhaus: line 3: the quotes are not balanced") and "nothing behind it" in run.stderr
    assert _shell(port, "-c", "GET a").stdout == '"1"\n'
    on = _shell(port, "--keep-going", script=b"put\nSET a 3\nquit\nSET a 4\n")
    assert (on.returncode, on.stdout, on.stderr) == (1, "OK\n", "keyhaus: line 1: expected put key value\n")
    assert _shell(port, "-c", "GET a").stdout == '"3"\n'


def test_a_script_that_forgets_its_commit_says_so(port: int) -> None:
    run = _shell(port, script=b"BEGIN\nSET a 1\n")
    assert run.returncode == 1 and "pessimistic transaction tx-" in run.stderr and "is rolled back" in run.stderr
    assert _shell(port, script=b"BEGIN\nSET a 1\nCOMMIT\n").returncode == 0
    assert _shell(port, "-c", "GET a").stdout == '"1"\n'


def test_json_is_one_document_a_reply(port: int) -> None:
    script = b'SET k "\\xff"\nSET u "\\x1b[31m"\nGET k\nGET u\nRANGE "" "" KEYS\nCONFIG GET maxclients\nINCR k\nput\n'
    run = _process(port, "--json", "--keep-going", script=script)
    assert [json.loads(line) for line in run.stdout.splitlines()] == [
        *("OK", "OK", {"base64": "/w=="}, "\x1b[31m", [None, ["k", "u"]], {"maxclients": "10000"}),
        {"error": "ERR", "message": "value is not an integer or out of range"},
        {"error": "SYNTAX", "message": "expected put key value"},
    ]
    assert run.returncode == 1 and run.stdout.replace("\n", "").isprintable()
    assert run.stderr.count("\n") == 2


def test_nothing_that_controls_a_terminal_comes_out(port: int) -> None:
    with Link(port) as link:
        evil = b"\x1b]0;owned\x07\x1b[2J\xc2\x9b31m\xe2\x80\xae\r"
        link.ask(b"SET", evil, evil)
    for line in ("RANGE '' ''", "SCAN 0", "KEYS *", "RANDOMKEY"):
        for form in ((), ("--json",)):
            shown = _shell(port, *form, "-c", line).stdout
            assert "owned" in shown and shown.replace("\n", "").isprintable()


def test_without_a_server_it_says_how_to_start_one() -> None:
    port = free_port()
    run = _shell(port, "-c", "PING")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        f"keyhaus: nobody answers at {HOST}:{port}: Connection refused\n"
        f"keyhaus: start a server there with: keyhaus serve --port {port}\n"
    )


def test_what_is_no_url_is_refused_without_its_password() -> None:
    run = _process("redis://:geheim@host/x", "-c", "PING")
    assert run.returncode == 2 and "geheim" not in run.stderr and "expected keyhaus://HOST:PORT/DATABASE" in run.stderr


def test_what_answers_something_else_is_told_from_a_server(serve: Serve) -> None:
    run = _shell(serve("--engine", "memory", listen="text").port, "-c", "PING")
    assert run.returncode == 1 and "does not speak Redis' protocol" in run.stderr


@pytest.mark.parametrize("options", [(), ("--keep-going",)])
def test_behind_a_lost_connection_nothing_more_is_run(port: int, options: tuple[str, ...]) -> None:
    with proxy(port) as between:
        between.judge = at(b"INCR", cut=Cut.AFTER)
        run = _shell(between.port, *options, script=b"BEGIN\nINCR n\nSET outside 1\nCOMMIT\n")
        assert run.returncode == 1
        assert "the connection was lost: the server closed the connection" in run.stderr
        assert "the pessimistic transaction tx-" in run.stderr and "is rolled back" in run.stderr
        between.judge = at(b"INCR", cut=Cut.AFTER)
        run = _shell(between.port, *options, "-c", "INCR n", "-c", "SET outside 1")
        assert "INCR may have been executed, once, or not at all" in run.stderr
        assert [words[0] for words in between.requests].count(b"INCR") == 2, "it was sent once each time"
    assert _shell(port, "-c", "GET outside", "-c", "GET n").stdout == '(nil)\n"1"\n'


def test_a_commit_whose_answer_is_lost_says_whom_to_ask(port: int) -> None:
    with proxy(port) as between:
        between.judge = at(b"COMMIT", cut=Cut.AFTER)
        run = _shell(between.port, script=b"BEGIN\nINCR n\nCOMMIT\n")
    (asking,) = [line for line in run.stderr.splitlines() if "TRANSACTION STATUS" in line]
    told = _shell(port, "--json", "-c", asking.partition("server can say: ")[2]).stdout
    assert json.loads(told)[0] == "committed"


def test_a_database_of_the_url_is_used(port: int) -> None:
    assert _shell(f"{HOST}:{port}/3", "-c", "SET a 3").stdout == "OK\n"
    assert _shell(f"redis://{HOST}:{port}/3", "-c", "GET a").stdout == '"3"\n'
    assert _shell(port, "-c", "GET a").stdout == "(nil)\n"
    refused = _shell(f"{HOST}:{port}/99", "-c", "GET a")
    assert refused.returncode == 1 and "DB index is out of range" in refused.stderr


def test_a_command_without_an_answer_is_refused(port: int) -> None:
    run = _shell(port, "-c", "CLIENT REPLY OFF")
    assert run.returncode == 1 and "it waits for every reply" in run.stderr


def test_a_reader_that_goes_away_is_no_traceback(port: int) -> None:
    with Link(port) as link:
        link.ask(b"MSET", *[word for number in range(20_000) for word in (b"key-%d" % number, b"v")])
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    process = subprocess.Popen(
        [sys.executable, "-m", "keyhaus", "shell", f"{HOST}:{port}", "-c", "KEYS *"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(_SECONDS) == 1


def test_a_silent_peer_is_given_up(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as listener:
        held: list[socket.socket] = []
        thread = threading.Thread(target=lambda: held.append(listener.accept()[0]))
        thread.start()
        run = _shell(int(listener.getsockname()[1]), "-c", "PING")
        thread.join(_SECONDS)
        held[0].close()
    assert run.returncode == 1 and "no reply came in time" in run.stderr


def test_a_redis_server_is_spoken_to_as_well(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "geheim") as port:
        run = _shell(f"redis://:geheim@{HOST}:{port}/1", "-c", "put a 1", "-c", "GET a", "-c", "CONFIG GET maxclients")
        assert (run.returncode, run.stdout) == (0, 'OK\n"1"\n1# "maxclients" => "10000"\n')
        wrong = _shell(f"redis://:falsch@{HOST}:{port}", "-c", "GET a")
        assert wrong.returncode == 1 and "WRONGPASS" not in wrong.stdout and "invalid username" in wrong.stderr
        late = _shell(f"redis://{HOST}:{port}/1", "-c", "AUTH geheim", "-c", "GET a", "-c", "CONFIG GET maxclients")
        assert (late.returncode, late.stdout) == (0, 'OK\n"1"\n1# "maxclients" => "10000"\n')
        nobody = _shell(f"redis://{HOST}:{port}", "-c", "GET a")
        assert nobody.returncode == 1 and "NOAUTH" in nobody.stdout


_PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "use-the-shell.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_sessions_of_the_page_are_real(port: int, tmp_path: Path) -> None:
    blocks = _blocks("console")
    assert len(blocks) >= 4
    for block in blocks:
        command, _, answer = block.removeprefix("$ ").partition("\n")
        run = subprocess.run(
            ["bash", "-c", f'keyhaus() {{ "{sys.executable}" -m keyhaus "$@"; }}\n{command}'],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_SECONDS,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(SOURCE), "KEYHAUS_URL": f"{HOST}:{port}"},
        )
        assert run.stdout == answer, command


def test_the_python_of_the_page_is_real(serve: Serve) -> None:
    port = serve("--engine", "memory", listen="text").port
    (block,) = _blocks("python")
    *imports, within = ast.parse(block).body
    assert isinstance(within, ast.With) and ast.unparse(within.items[0]) == "Client() as client"
    names: dict[str, object] = {}
    for statement in imports:
        exec(ast.unparse(statement), names)
    with Client(port=port) as client:
        for statement in within.body:
            told = block.splitlines()[statement.lineno - 1].partition("  # ")[2]
            assert repr(eval(ast.unparse(statement), {"client": client})) == told
    assert names["Client"] is Client
