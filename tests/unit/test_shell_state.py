"""What the shell's prompt says, told from requests and replies alone; and what a lost connection means."""

from __future__ import annotations

from typing import Any

import pytest

from keyhaus.cli.shell.replies import failure
from keyhaus.cli.shell.state import State

ID = b"tx-01m8psfk74pzv0nsf8abyw17s4"
OTHER = b"tx-01m8psfk7akvv6tvb0p5p55nzn"


def _after(*said: tuple[str, Any]) -> State:
    state = State()
    for line, reply in said:
        state.saw(line.encode().split(), failure(reply[1:].encode()) if str(reply).startswith("-") else reply)
    return state


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("BEGIN", "(tx pessimistic yw17s4)"),
        ("begin optimistic", "(tx optimistic yw17s4)"),
        ("BEGIN READONLY TIMEOUT 5", "(tx readonly yw17s4)"),
        ("BEGIN DURABILITY none", "(tx pessimistic yw17s4)"),
    ],
)
def test_begin_shows_the_mode_and_the_end_of_the_id(line: str, label: str) -> None:
    assert _after((line, ID)).label() == label


@pytest.mark.parametrize(
    "end",
    [
        *(("COMMIT", "OK"), ("commit withseqno", 7), ("ROLLBACK", "OK"), ("RESET", "RESET")),
        *((f"COMMIT {ID.decode()}", "OK"), (f"ROLLBACK {ID.decode()}", "OK")),
        *(("COMMIT", "-CONFLICT a was changed"), ("COMMIT", "-NOTX gone"), ("COMMIT", "-POISONED x")),
    ],
)
def test_an_end_takes_it_back(end: tuple[str, Any]) -> None:
    state = _after(("BEGIN", ID), end)
    assert (state.label(), state.open) == ("", {})


@pytest.mark.parametrize(
    "said",
    [
        *(
            ("COMMIT", "-DISKFULL no room"),
            ("SET a 1", "-READONLY no"),
            ("INCR a", "-ERR no integer"),
            ("PING", "PONG"),
        ),
        *(("SELECT 3", "-ERR not inside"), ("COMMIT a b c", "-ERR syntax error"), (f"COMMIT {OTHER.decode()}", "OK")),
        *(("TRANSACTION STATUS x", "-NOTX another user's"), ("BEGIN", "-LIMIT max-transactions exceeded")),
    ],
)
def test_what_leaves_it_open_leaves_the_prompt(said: tuple[str, Any]) -> None:
    assert _after(("BEGIN", ID), said).label() == "(tx pessimistic yw17s4)"


@pytest.mark.parametrize("code", ["DEADLOCK", "LOCKTIMEOUT", "TXTOOLARGE", "SNAPSHOTTOOOLD", "POISONED", "NOTX"])
def test_one_that_ended_by_itself_is_shown_until_somebody_takes_note(code: str) -> None:
    ended = ("BEGIN", ID), ("GET a", f"-{code} over")
    assert _after(*ended).label() == "(tx ended)"
    assert _after(*ended, ("PING", "PONG")).label() == "(tx ended)"
    assert _after(*ended, ("COMMIT", "-NOTX over")).label() == ""
    assert _after(*ended, (f"ROLLBACK {ID.decode()}", "-NOTX over")).label() == ""
    assert _after(*ended, ("BEGIN", OTHER)).label() == "(tx pessimistic p55nzn)"
    assert _after(("GET a", f"-{code} over")).label() == "", "outside of one it is an error like any other"


def test_a_second_begin_makes_the_new_one_current_and_then_none_is() -> None:
    both = ("BEGIN", ID), ("BEGIN OPTIMISTIC", OTHER)
    assert _after(*both).label() == "(tx optimistic p55nzn)"
    left = _after(*both, ("COMMIT", "OK"))
    assert (left.label(), left.open) == ("", {ID.decode(): "pessimistic"})
    assert _after(*both, (f"TX {ID.decode()} GET a", "-DEADLOCK x")).open == {OTHER.decode(): "optimistic"}
    assert _after(*both, (f"TX {OTHER.decode()} GET a", "-DEADLOCK x")).label() == "(tx ended)"


def test_a_transaction_that_one_kills_oneself_is_over() -> None:
    assert _after(("BEGIN", ID), (f"TRANSACTION KILL {ID.decode()}", b"rolledback")).label() == "(tx ended)"
    both = ("BEGIN", ID), ("BEGIN OPTIMISTIC", OTHER)
    assert _after(*both, (f"TRANSACTION KILL {ID.decode()}", b"rolledback")).open == {OTHER.decode(): "optimistic"}


def test_multi_is_shown_and_a_queued_select_counts_once_it_has_run() -> None:
    queued = ("MULTI", "OK"), ("SELECT 3", "QUEUED")
    assert (_after(*queued).label(), _after(*queued).database) == ("(multi)", 0)
    assert (_after(*queued, ("EXEC", ["OK"])).label(), _after(*queued, ("EXEC", ["OK"])).database) == ("", 3)
    for end in (("EXEC", None), ("EXEC", "-EXECABORT no"), ("DISCARD", "OK")):
        assert (_after(*queued, end).label(), _after(*queued, end).database) == ("", 0)
    assert _after(*queued, ("EXEC x", "-ERR wrong number of arguments")).label() == "(multi)"
    assert _after(("SELECT 5", "OK"), ("SELECT 99", "-ERR out of range")).database == 5


def _lost(line: str, *said: tuple[str, Any]) -> str:
    state = _after(*said)
    told = "; ".join(state.lost(line.encode().split() or None))
    assert (state.label(), state.open, state.multi, state.watching) == ("", {}, False, False)
    return told


def test_a_lost_connection_says_what_becomes_of_what_was_open() -> None:
    begun = ("BEGIN OPTIMISTIC", ID)
    assert _lost("GET a", begun) == f"the optimistic transaction {ID.decode()} was open and is rolled back"
    assert _lost("", begun) == f"the optimistic transaction {ID.decode()} was open and is rolled back"
    assert _lost("SET a 1", begun).endswith("rolled back"), "it was inside"
    only = f"whether {ID.decode()} is committed the server can say: TRANSACTION STATUS {ID.decode()}"
    assert _lost("COMMIT", begun) == _lost(f"COMMIT {ID.decode()} WITHSEQNO", begun) == only
    assert _lost("ROLLBACK", begun).endswith("rolled back")
    both = _lost(f"COMMIT {ID.decode()}", begun, ("BEGIN", OTHER))
    assert only in both and f"pessimistic transaction {OTHER.decode()} was open and is rolled back" in both
    assert _lost("INCR a") == "INCR may have been executed, once, or not at all"
    assert _lost("GET a") == _lost("PING") == _lost("BEGIN") == _lost("RANGE a b") == ""
    assert _lost("INCR a", ("MULTI", "OK")) == "what was queued since MULTI is discarded"
    assert _lost("EXEC", ("MULTI", "OK")) == "EXEC may have run, all of it, or not at all"
    assert _lost("GET a", ("WATCH a", "OK")) == "what was watched is watched no more"


def test_the_database_is_selected_again_after_a_loss() -> None:
    state = _after(("SELECT 4", "OK"))
    state.lost(None)
    assert state.database == 4
