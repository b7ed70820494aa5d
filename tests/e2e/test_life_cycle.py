"""A server's life: how it starts, what it refuses to start with, what it says, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import pytest

from keyhaus import __version__
from keyhaus.core.disk import OsDisk
from keyhaus.journal import manifest as manifests
from tests.e2e.conftest import Serve
from tests.support.load import Link
from tests.support.processes import HOST, SOURCE, RunningKeyhaus, free_port
from tests.support.wire import encoded

SECONDS: Final = 30
SMALL: Final = ("--journal-segment-bytes", "256kb")
ENVIRONMENT: Final = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", "")))),
    "COLUMNS": "200",
}


def run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A `keyhaus` command that ends by itself."""
    command = (sys.executable, "-m", "keyhaus", *words)
    return subprocess.run(
        command, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def refusal(directory: Path, *options: str) -> str:
    """The line with which `keyhaus serve` ends at once; before it there is nothing but the log."""
    ended = run(directory, "serve", *options)
    assert ended.returncode == 1, ended
    assert ended.stdout == "", "it said that it was ready"
    *logged, line = ended.stderr.splitlines()
    assert line.startswith("keyhaus: ")
    assert all(re.match(r"\S+Z info keyhaus\.\w+: ", entry) for entry in logged), logged
    return line


def conversation(port: int, data: bytes) -> bytes:
    """All that a server says to some bytes, until it hangs up."""
    said = b""
    with socket.create_connection((HOST, port), SECONDS) as connection:
        connection.sendall(data)
        while part := connection.recv(65536):
            said += part
    return said


# The end.


class Counting(threading.Thread):
    """Pipelines INCR as fast as the server answers, until that hangs up; counts the replies."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.replies = b""
        self.began = threading.Event()
        self.connection = socket.create_connection((HOST, port), SECONDS)
        self._sender = threading.Thread(target=self._send, daemon=True)

    def _send(self) -> None:
        request = encoded([b"INCR", b"n"]) * 50
        try:
            while True:
                self.connection.sendall(request)
        except OSError:
            return

    def run(self) -> None:
        self._sender.start()
        try:
            while part := self.connection.recv(65536):
                self.replies += part
                self.began.set()
        except ConnectionError:
            pass  # a reset: the server closed while our requests were still on their way
        self.connection.close()
        self._sender.join(SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("durability", ["always", "everysec"])
def test_a_stop_is_clean(number: signal.Signals, durability: str, serve: Serve, tmp_path: Path) -> None:
    server = serve(*SMALL, "--durability", durability)
    counting = Counting(server.port)
    counting.start()
    assert counting.began.wait(SECONDS)
    server.process.send_signal(number)
    assert server.process.wait(SECONDS) == 0
    counting.join(SECONDS)
    replies = counting.replies.split(b"\r\n")[:-1]
    assert replies == [b":%d" % (at + 1) for at in range(len(replies))]
    manifest = manifests.read(OsDisk(tmp_path / "data"))
    assert manifest is not None
    assert manifest.ended is not None, "there is no end mark"
    server = serve(*SMALL)
    with Link(server.port) as link:
        assert int(link.ask(b"GET", b"n")) >= len(replies) > 0
    assert " rewritten=0 " in server.wait_for_line("recovered")


def test_a_stop_answers_all_that_was_executed(serve: Serve) -> None:
    """Whoever does not send on is told of everything that was done before the connection is closed."""
    server = serve(*SMALL)
    with Link(server.port) as link:
        link.send(*([b"INCR", b"n"] for _ in range(20_000)))
        assert link.reply() == 1
        server.process.send_signal(signal.SIGTERM)
        count = 1
        with contextlib.suppress(ConnectionError):  # the server has hung up
            while True:
                assert link.reply() == count + 1
                count += 1
    assert server.process.wait(SECONDS) == 0
    with Link(serve(*SMALL).port) as link:
        assert link.ask(b"GET", b"n") == b"%d" % count


def test_a_stop_waits_for_nobody(serve: Serve) -> None:
    """Not for clients that are idle, in the middle of a request or a transaction, or waiting."""
    server = serve(*SMALL)
    links = [Link(server.port) for _ in range(4)]
    links[1].send([b"PING"])
    links[1].raw(b"*2\r\n$3\r\nGET\r\n$10\r\nabc")
    links[2].send([b"MULTI"], [b"SET", b"never", b"v"])
    links[3].send([b"SET", b"k", b"v"], [b"WAIT", b"1", b"0"])
    assert links[1].reply() == b"PONG"
    assert [links[2].reply(), links[2].reply()] == [b"OK", b"QUEUED"]
    assert links[3].reply() == b"OK"
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(5) == 0
    for link in links:
        with pytest.raises(ConnectionError):
            link.reply()
        link.close()
    with Link(serve(*SMALL).port) as link:
        assert link.ask(b"MGET", b"k", b"never") == [b"v", None]


def test_what_was_written_is_there_after_a_kill(serve: Serve) -> None:
    server = serve(*SMALL)
    with Link(server.port) as link:
        assert link.ask(b"SET", b"greeting", b"hello") == b"OK"
    server.kill()
    with Link(serve(*SMALL).port) as link:
        assert link.ask(b"GET", b"greeting") == b"hello"


def test_memory_keeps_nothing(serve: Serve, tmp_path: Path) -> None:
    server = serve("--engine", "memory")
    with Link(server.port) as link:
        assert link.ask(b"SET", b"greeting", b"hello") == b"OK"
    assert server.stop() == 0
    assert not (tmp_path / "data").exists()
    with Link(serve("--engine", "memory").port) as link:
        assert link.ask(b"GET", b"greeting") is None


# What it refuses to start with.


def test_a_second_server_on_the_same_directory_is_refused(serve: Serve, tmp_path: Path) -> None:
    server = serve(*SMALL)
    line = refusal(tmp_path, "--listen", f"resp://{HOST}:0")
    assert f"process {server.pid}:" in line
    with Link(server.port) as link:
        assert link.ask(b"SET", b"k", b"v") == b"OK"
    line = refusal(tmp_path, "--listen", f"resp://{HOST}:0")
    assert f"process {server.pid}:" in line, "the refused start changed the lock"
    (tmp_path / "data" / "LOCK").unlink()
    assert "is in use by process" in refusal(tmp_path, "--listen", f"resp://{HOST}:0"), "a removed file let it in"
    server.kill()
    serve(*SMALL)  # a dead server's lock holds nobody up


def test_a_taken_port_is_refused(serve: Serve, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        line = refusal(tmp_path, *SMALL, "--listen", f"resp://{HOST}:{port}")
        assert f"resp://{HOST}:{port}" in line
        assert "taken" in line
        assert f"auto://{HOST}:{port}" in refusal(tmp_path, *SMALL, "--port", str(port))
        # The first port is closed again, and the journal too.
        assert "taken" in refusal(tmp_path, *SMALL, "--listen", f"resp://{HOST}:0", "--listen", f"resp://{HOST}:{port}")
    server = serve(*SMALL)
    assert " rewritten=0 " in server.wait_for_line("recovered")


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "x" * 300])
def test_a_host_that_is_not_ours_is_refused(host: str, tmp_path: Path) -> None:
    assert f"resp://{host}:0 can't be opened: " in refusal(tmp_path, *SMALL, "--listen", f"resp://{host}:0")


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for name in ("file", "file/below"):
        assert f"data directory {name} can't be used" in refusal(tmp_path, "--data-dir", name)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("mine")
    assert "data is no database, and not empty (thesis.tex): choose another directory" in refusal(tmp_path, *SMALL)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["thesis.tex"]


def test_a_fresh_file_system_is_no_directory_of_something_else(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "data" / "lost+found").mkdir(parents=True)
    serve(*SMALL)


def test_a_data_directory_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    assert "data directory /proc/keyhaus can't be used" in refusal(tmp_path, "--data-dir", "/proc/keyhaus")


def test_a_data_directory_that_is_not_writable_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        # Not even root may write there.
        assert "data directory /proc/self can't be used" in refusal(tmp_path, "--data-dir", "/proc/self")
        return
    (tmp_path / "data").mkdir(mode=0o500)
    assert "data directory data can't be used" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--listen", "nonsense"), "no address"),
        (("--listen", "resp://127.0.0.1"), "no address"),
        (("--listen", "resp://127.0.0.1:x"), "no address"),
        (("--listen", "resp://127.0.0.1:70000"), "no address"),
        (("--listen", "gopher://127.0.0.1:0"), "dialects"),
        (("--listen", ""), "no address"),
        (("--port", "70000"), "65535"),
        (("--durability", "perhaps"), "perhaps"),
        (("--engine", "warp"), "warp"),
        (("--journal-segment-bytes", "lots"), "memory value"),
        (("--journal-segment-bytes", "1kb"), "between"),
        (("--set", "timeout"), "NAME=VALUE"),
        (("--set", "colour=red"), "colour"),
        (("--set", "timeout=-1"), "between"),
        (("--nothing",), "--nothing"),
    ],
)
def test_options_that_make_no_sense_are_explained(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    ended = run(tmp_path, "serve", *options)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert not (tmp_path / "data").exists(), "it began to work"


# What it says.


def test_the_version(tmp_path: Path) -> None:
    ended = run(tmp_path, "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"keyhaus {__version__}\n", "")


def test_the_help_is_worth_reading(tmp_path: Path) -> None:
    ended = run(tmp_path, "serve", "--help")
    assert ended.returncode == 0
    for word in ("--listen", "--data-dir", "--durability", "--log-format", "Examples", "127.0.0.1:19272", "64mb"):
        assert word in ended.stdout, word
    assert "serve" in run(tmp_path, "--help").stdout


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_ready_line_and_the_log_have_the_form_that_was_asked_for(form: str, tmp_path: Path) -> None:
    listen = ("--listen", f"resp://{HOST}:0", "--listen", f"auto://{HOST}:0")
    command = (sys.executable, "-m", "keyhaus", "serve", *SMALL, *listen, "--log-format", form)
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        ready = server.stdout.readline()
        addresses = json.loads(ready)["addresses"] if form == "json" else ready.split()[1:]
        assert form == "json" or ready.startswith("ready ")
        ports = [
            int(address.removeprefix(f"{dialect}://{HOST}:"))
            for dialect, address in zip(("resp", "auto"), addresses, strict=True)
        ]
        assert 0 not in ports
        assert len(set(ports)) == 2
        for port in ports:
            with Link(port) as link:
                assert link.ask(b"PING") == b"PONG"
        assert b"Protocol error" in conversation(ports[0], b"*1\r\n\nPING\r\n")  # one that is logged, line feed and all
        second = run(tmp_path, "serve", *listen, "--log-format", form)
        server.send_signal(signal.SIGTERM)
        rest, logged = server.communicate(timeout=SECONDS)
        assert rest == ""
    assert server.returncode == 0
    lines = logged.splitlines()
    assert len(lines) >= 4
    if form == "json":
        events = [json.loads(line) for line in lines]
        assert all({"time", "level", "logger", "message"} <= set(event) for event in events)
        told = [event["message"] for event in events if event["logger"] in ("keyhaus.store", "keyhaus.server")]
        assert told.index("recovered") < told.index("stopping")
        assert [json.loads(line)["level"] for line in second.stderr.splitlines()][-1] == "error"
    else:
        for line in lines:
            assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (info|warning) keyhaus\.\w+: ", line), line


# Who may connect.


def test_more_clients_than_allowed_are_told_so(serve: Serve) -> None:
    server = serve(*SMALL, "--maxclients", "3")
    links = [Link(server.port) for _ in range(3)]
    for link in links:
        assert link.ask(b"PING") == b"PONG"
    assert conversation(server.port, b"") == b"-ERR max number of clients reached\r\n"
    links.pop().close()
    while not connected(server, 2, links[0]):
        pass
    with Link(server.port) as link:
        assert link.ask(b"PING") == b"PONG"
    for link in links:
        link.close()


def connected(server: RunningKeyhaus, count: int, link: Link) -> bool:
    return b"connected_clients:%d\r\n" % count in link.ask(b"INFO", b"clients")


def test_an_idle_client_is_disconnected_and_a_busy_one_is_not(serve: Serve) -> None:
    server = serve(*SMALL, "--set", "timeout=1")
    with Link(server.port) as busy, Link(server.port) as idle, Link(server.port) as waiting:
        assert idle.ask(b"PING") == b"PONG"
        waiting.send([b"WAIT", b"1", b"0"])
        gone = threading.Event()

        def wait() -> None:
            with pytest.raises(ConnectionError):
                idle.reply()
            gone.set()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not gone.is_set():
            assert busy.ask(b"PING") == b"PONG"
            assert time.monotonic() < deadline, "the idle client is still connected"
        thread.join()
        assert connected(server, 2, busy), "the one that waits for something is not idle"


def test_default_ports(serve: Serve, tmp_path: Path) -> None:
    port = free_port()
    command = (sys.executable, "-m", "keyhaus", "serve", *SMALL, "--port", str(port))
    server = RunningKeyhaus(command, tmp_path, {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"]})
    try:
        assert server.ports == {"auto": port}
        with Link(port) as link:
            assert link.ask(b"PING") == b"PONG"
    finally:
        assert server.stop() == 0
