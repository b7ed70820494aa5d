"""`keyhaus menu`: options chosen by number, from a pipe and at a terminal; its server ends with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keyhaus.client.text import Client
from tests.e2e.conftest import Serve
from tests.support.embedded import until
from tests.support.processes import HOST, SOURCE, children, ended, free_port
from tests.support.terminal import Terminal, at_terminal

_SECONDS = 60
_ARGUMENTS = ("-m", "keyhaus", "menu", "--port", "0")


def _piped(directory: Path, typed: str, *options: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    return subprocess.run(
        [sys.executable, *_ARGUMENTS, *options],
        input=typed,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_the_example_of_the_seed_from_a_pipe(tmp_path: Path) -> None:
    run = _piped(tmp_path, "1\n2\n\n\nPUT key1 value1\nGET key1\nGET \x1b[31m\nexit\n3\n")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("\nMain Menu:\n1. Start Server\n2. Connect Client\n3. Exit\nSelect an option: ")
    assert re.search(rf"^Select an option: ready text://{HOST}:\d+$", run.stdout, re.MULTILINE)
    replies = [json.loads(line.removeprefix("> ")) for line in run.stdout.splitlines() if line.startswith("> {")]
    assert replies[:2] == [{"status": "Ok", "result": {"key": "key1", "value": "value1"}}] * 2
    assert replies[2]["status"] == "Error" and "\x1b" not in run.stdout
    assert run.stdout.endswith("The server was stopped.\n")
    again = _piped(tmp_path, "1\n2\n\n\nGET key1\n")
    assert '"value": "value1"' in again.stdout, "what was stored stays"
    assert again.returncode == 0 and again.stdout.endswith("The server was stopped.\n"), "the end of input is an exit"


def test_what_is_no_option_and_no_port_is_said(tmp_path: Path) -> None:
    run = _piped(tmp_path, f"4\n2\n\n99999\n2\n{HOST}\n{free_port()}\n3\n")
    assert "There is no option '4': expected 1, 2 or 3." in run.stdout
    assert "'99999' is no port" in run.stdout
    assert f"nobody answers at {HOST}:" in run.stdout
    assert run.returncode == 0


def test_a_server_that_can_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    run = _piped(tmp_path, "1\n3\n")
    assert "The server did not start (exit status 1)." in run.stdout and "keyhaus: " in run.stderr


def test_a_client_of_another_server(serve: Serve, tmp_path: Path) -> None:
    port = serve("--engine", "memory", listen="auto").port
    run = _piped(tmp_path, f"2\nlocalhost\n{port}\nINCR n\n\n3\n")
    assert '> {"status": "Ok", "result": 1}' in run.stdout and run.returncode == 0


def _started(terminal: Terminal) -> int:
    """Starts a server from the menu; its port."""
    terminal.expect("Select an option:")
    terminal.enter("1")
    port = int(terminal.expect(rf"ready text://{HOST}:(\d+)")[1])
    terminal.expect("Select an option:")
    return port


def test_at_a_terminal(tmp_path: Path) -> None:
    with at_terminal(_ARGUMENTS, tmp_path) as terminal:
        port = _started(terminal)
        terminal.enter("1")
        terminal.expect(f"runs already, at {HOST}:{port}")
        terminal.expect("Select an option:")
        terminal.enter("2")
        terminal.expect(r"Host \[127.0.0.1\]:")
        terminal.enter("")
        terminal.expect(rf"Port \[{port}\]:")
        terminal.enter("")
        terminal.expect("Connected to")
        terminal.enter("PUT key1 two words")
        terminal.expect(r'\{"status": "Ok", "result": \{"key": "key1", "value": "two words"\}\}')
        terminal.type("\x03")  # leaves the client, and is not the server's
        terminal.expect("Select an option:")
        with Client(HOST, port) as client:
            assert client.send_command("GET key1")["result"]["value"] == "two words"
        terminal.enter("3")
        terminal.expect("The server was stopped.")
        assert terminal.wait() == 0
    with pytest.raises(ConnectionError):
        Client(HOST, port).connect()


def test_a_server_that_dies_is_seen_and_can_be_started_again(tmp_path: Path) -> None:
    with at_terminal(_ARGUMENTS, tmp_path) as terminal:
        _started(terminal)
        (server,) = children(terminal.process.pid)
        terminal.enter("2")
        terminal.enter("")
        terminal.enter("")
        terminal.expect("Connected to")
        os.kill(server, signal.SIGKILL)
        terminal.enter("GET a")
        terminal.expect("the server closed the connection|the connection was lost")
        until(lambda: ended(server))
        assert _started(terminal) > 0
        terminal.type("\x04")
        terminal.expect("The server was stopped.")
        assert terminal.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_its_server_does_not_stay_behind(tmp_path: Path, number: signal.Signals) -> None:
    with at_terminal(_ARGUMENTS, tmp_path) as terminal:
        port = _started(terminal)
        terminal.process.send_signal(number)
        assert terminal.wait() == 128 + number
    with pytest.raises(ConnectionError):
        Client(HOST, port).connect()
