"""`keyhaus shell` at a terminal: the prompt, completion, hints, history, Ctrl-C, Ctrl-D, and connections that break."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.load import Link
from tests.support.processes import HOST, RunningKeyhaus, free_port, keyhaus_server, redis_server
from tests.support.proxy import Cut, at, proxy
from tests.support.terminal import Terminal, at_terminal

Open = Callable[..., Terminal]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeyhaus]:
    with keyhaus_server(tmp_path_factory.mktemp("shell"), "--engine", "memory") as running:
        yield running


@pytest.fixture
def link(server: RunningKeyhaus) -> Iterator[Link]:
    """Another client of a server that has no data."""
    with Link(server.port) as other:
        other.ask(b"FLUSHALL")
        yield other


@pytest.fixture
def shell(link: Link, server: RunningKeyhaus, tmp_path: Path) -> Iterator[Open]:
    """Opens shells at terminals of their own, and waits for their prompts."""
    with contextlib.ExitStack() as stack:

        def opened(port: int = 0, *options: str, scheme: str = "keyhaus") -> Terminal:
            port = port or server.port
            arguments = ("-m", "keyhaus", "shell", f"{scheme}://{HOST}:{port}", *options)
            terminal = stack.enter_context(at_terminal(arguments, tmp_path, XDG_STATE_HOME=str(tmp_path / "state")))
            terminal.expect(f"{HOST}:{port}>")
            return terminal

        yield opened


def test_the_prompt_says_what_is_open(shell: Open, link: Link) -> None:
    terminal = shell()
    terminal.enter("BEGIN OPTIMISTIC")
    name = terminal.expect(r'"tx-\w{20}(\w{6})"')[1]
    terminal.expect(rf"\(tx optimistic {name}\)>")
    terminal.enter("SET a 1")
    terminal.expect(rf"OK\n.*\(tx optimistic {name}\)>")
    assert link.ask(b"GET", b"a") is None
    link.ask(b"SET", b"a", b"theirs")
    terminal.enter("INCR a")
    terminal.enter("COMMIT")
    terminal.expect(r"\(integer\) 2|OK|CONFLICT")
    terminal.expect(r":\d+>")
    terminal.enter("MULTI")
    terminal.expect(r"\(multi\)>")
    terminal.enter("SELECT 3")
    terminal.expect(r"QUEUED\n.*\(multi\)>")
    terminal.enter("EXEC")
    terminal.expect(r":\d+\[3\]>")
    terminal.enter("RESET")
    terminal.expect(r":\d+>")


def test_a_transaction_that_ends_by_itself_is_seen_at_once(shell: Open, link: Link) -> None:
    terminal = shell()
    terminal.enter("BEGIN")
    name = terminal.expect(r'"(tx-\w{26})"')[1]
    link.ask(b"TRANSACTION", b"KILL", name.encode())
    terminal.enter("GET a")
    terminal.expect(r"\(error\) NOTX")
    terminal.expect(r"\(tx ended\)>")
    terminal.enter("ROLLBACK")
    terminal.expect(r"NOTX[^>]*:\d+>")


def test_a_key_is_completed_and_a_command_explained(shell: Open, link: Link) -> None:
    link.ask(b"MSET", b"fruit of the day", b"apple", b"other", b"x")
    terminal = shell()
    terminal.type("GET fru")
    terminal.expect("GET key")  # the line at the bottom
    terminal.expect("Returns the string that a key holds")
    terminal.expect('"fruit of the day"')  # the menu
    terminal.type("\t")
    terminal.expect('"fruit of the day"')
    terminal.type("\r")
    terminal.expect('\n"apple"\n')
    terminal.type("TRANSACTION ST")
    terminal.expect("STATUS")


def test_completion_locks_nothing_and_waits_for_nobody(shell: Open, link: Link, server: RunningKeyhaus) -> None:
    with proxy(server.port) as between:
        between.judge = lambda words: Cut.HOLD if words[0].upper() == b"RANGE" else Cut.PASS
        terminal = shell(between.port)
        terminal.enter("BEGIN")
        terminal.expect(r"\(tx pessimistic \w+\)>")
        terminal.type("SET a")
        assert between.held.wait(30), "keys are looked up"
        terminal.type(" 1\r")
        terminal.expect(r"OK\n")
        terminal.expect(r"\(tx pessimistic \w+\)>")
        link.ask(b"BEGIN")
        link.ask(b"SET", b"b", b"1")
        ours, others = (row[row.index(b"locks") + 1] for row in link.ask(b"TRANSACTION", b"LIST"))
        assert ours == others, "of the SET alone"
        link.ask(b"ROLLBACK")
        between.release()
        terminal.type("\x04")
        terminal.expect("rolled back")


def test_pages_are_tables_and_stored_escapes_stay_in_the_data(shell: Open, link: Link) -> None:
    link.ask(b"SET", b"a", b"\x1b]0;owned\x07\x1b[2J")
    terminal = shell()
    terminal.enter("range a a")
    terminal.expect(r"│ a +│ \\x1b\]0;owned\\a\\x1b\[2J +│")
    terminal.expect("1 key")
    terminal.enter("GET a")
    terminal.expect(r'"\\x1b\]0;owned\\a\\x1b\[2J"')
    assert "\x1b]0;owned" not in terminal.raw and "\x1b[2J" not in terminal.raw


def test_the_history_is_private_and_knows_no_password(shell: Open, tmp_path: Path) -> None:
    terminal = shell()
    for line in ("AUTH geheim", "HELLO 3 AUTH default geheim", "SET a 1"):
        terminal.enter(line)
        terminal.expect(r"error|OK|proto")
        terminal.expect(r":\d+>")
    terminal.type("\x04")
    assert terminal.wait() == 0
    path = tmp_path / "state" / "keyhaus" / "shell-history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = path.read_text()
    assert "+SET a 1" in kept and "geheim" not in kept
    again = shell()
    again.type("\x1b[A")
    again.expect("SET a 1")


def test_a_history_that_can_not_be_kept_is_said_and_no_reason_to_stop(shell: Open, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    terminal = shell()
    assert "nothing is remembered" in terminal.text
    terminal.enter("PING")
    terminal.expect("PONG")


def test_open_quotes_go_on_in_the_next_line(shell: Open, link: Link) -> None:
    terminal = shell()
    terminal.enter('SET a "one')
    terminal.expect(r"\.\.\.")
    terminal.enter('two"')
    terminal.expect("OK")
    assert link.ask(b"GET", b"a") == b"one\ntwo"


def test_a_pasted_script_runs_line_by_line(shell: Open, link: Link) -> None:
    terminal = shell()
    terminal.type("\x1b[200~SET a 1\n# don't\nINCR a\nGET nothing\nINCR a\x1b[201~\r")
    terminal.expect(r"OK\n\(integer\) 2\n\(nil\)\n\(integer\) 3\n")


def test_ctrl_c_leaves_the_line_and_ctrl_d_the_shell(shell: Open, link: Link) -> None:
    terminal = shell()
    terminal.type("SET a 1")
    terminal.expect("Sets a key")
    terminal.type("\x03")
    terminal.expect(r":\d+>")
    terminal.enter("BEGIN")
    terminal.expect(r"\(tx .*\)>")
    terminal.type("\x04")
    terminal.expect("the pessimistic transaction tx-.* was open and is rolled back")
    assert terminal.wait() == 0
    assert link.ask(b"GET", b"a") is None


def test_ctrl_c_while_a_command_waits_closes_the_connection(shell: Open, link: Link, server: RunningKeyhaus) -> None:
    with proxy(server.port) as between:
        between.judge = at(b"INCR", cut=Cut.HOLD)
        terminal = shell(between.port)
        terminal.enter("INCR n")
        assert between.held.wait(30)
        terminal.type("\x03")
        terminal.expect("the connection was closed")
        terminal.expect("INCR may have been executed, once, or not at all")
        terminal.expect("opened again")
        terminal.expect(r":\d+>")
        terminal.enter("GET n")
        terminal.expect('"1"')
        between.release()
        assert [words[0] for words in between.requests].count(b"INCR") == 1


def test_a_connection_that_breaks_says_what_is_rolled_back(shell: Open, link: Link, server: RunningKeyhaus) -> None:
    with proxy(server.port) as between:
        between.judge = at(b"GET", cut=Cut.AFTER)
        terminal = shell(between.port)
        terminal.enter("SELECT 2")
        terminal.expect(r"\[2\]>")
        terminal.enter("BEGIN")
        terminal.expect(r"\(tx .*\)>")
        terminal.type("\x1b[200~SET a 1\nGET a\nSET outside 1\nCOMMIT\x1b[201~\r")
        terminal.expect("the connection was lost: the server closed the connection")
        terminal.expect("the pessimistic transaction tx-.* was open and is rolled back")
        terminal.expect("2 more lines were not run")
        terminal.expect("not connected>")
        terminal.enter("SET inside 1")
        terminal.expect(r"OK\n")
        terminal.expect(r"\[2\]>")
    link.ask(b"SELECT", b"2")
    assert link.ask(b"MGET", b"a", b"outside", b"inside") == [None, None, b"1"]


def test_a_server_that_is_gone_can_come_back(shell: Open, tmp_path: Path) -> None:
    port = str(free_port())
    with keyhaus_server(tmp_path, "--engine", "memory", "--listen", f"resp://{HOST}:{port}") as first:
        terminal = shell(int(port))
        first.kill()
        terminal.enter("PING")
        terminal.expect(f"nobody answers at {HOST}:{port}")
        terminal.expect(f"keyhaus serve --port {port}")
    with keyhaus_server(tmp_path, "--engine", "memory", "--listen", f"resp://{HOST}:{port}"):
        terminal.enter("PING")
        terminal.expect("PONG")


def test_a_transaction_is_not_gone_on_with_elsewhere(shell: Open, link: Link) -> None:
    terminal = shell()
    terminal.enter("BEGIN")
    terminal.expect(r"\(tx .*\)>")
    clients = link.ask(b"CLIENT", b"LIST").decode().splitlines()
    (own,) = [
        line.split()[0].partition("=")[2] for line in clients if "name=keyhaus-shell" in line and "cmd=begin" in line
    ]
    link.ask(b"CLIENT", b"KILL", b"ID", own.encode())
    terminal.enter("SET a 1")
    terminal.expect("the server has closed the connection")
    terminal.expect("is rolled back")
    terminal.expect("nothing was sent")
    terminal.expect("not connected>")
    terminal.enter("GET a")
    terminal.expect(r"\(nil\)")


def test_without_a_server_it_does_not_begin(tmp_path: Path) -> None:
    port = free_port()
    with at_terminal(("-m", "keyhaus", "shell", f"{HOST}:{port}"), tmp_path) as terminal:
        terminal.expect(f"keyhaus serve --port {port}")
        assert terminal.wait() == 1


def test_help_and_leaving_by_word(shell: Open) -> None:
    terminal = shell()
    terminal.enter("help")
    terminal.expect("range a z, in small letters and with two words, includes z")
    terminal.expect(r":\d+>")
    terminal.enter("help cas")
    terminal.expect("CAS key expected new")
    terminal.expect(r":\d+>")
    terminal.enter("exit")
    assert terminal.wait() == 0


def test_a_redis_server_that_wants_a_password(shell: Open, tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "geheim") as port:
        terminal = shell(port, scheme="redis")
        assert "AUTH [user] password" in terminal.text
        terminal.enter("GET a")
        terminal.expect("NOAUTH")
        terminal.expect(r":\d+>")
        terminal.enter("AUTH geheim")
        terminal.expect(r"OK\n")
        terminal.expect(r":\d+>")
        terminal.enter("SET fruit*1 apple")
        terminal.expect(r"OK\n")
        terminal.expect(r":\d+>")
        terminal.type("GET fruit*")
        terminal.expect(r"fruit\*1")
        terminal.type("\t\r")
        terminal.expect('\n"apple"')
        terminal.enter("CLIENT KILL TYPE normal SKIPME no")
        terminal.expect(r">")
        terminal.enter("GET fruit*1")
        terminal.expect('"apple"')  # as the same user, on another connection


def test_json_at_the_prompt(shell: Open) -> None:
    terminal = shell(0, "--json")
    terminal.enter('SET a "\\xff"')
    terminal.expect(r'"OK"\n')
    terminal.enter("GET a")
    terminal.expect(r'\{"base64": "/w=="\}')
