"""Replies in the shell: read from the wire, written as redis-cli writes them, as tables, and as JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from keyhaus.cli.shell.documents import document
from keyhaus.cli.shell.replies import DEPTH_MAX, Reader, failure
from keyhaus.cli.shell.runner import has_error
from keyhaus.cli.shell.view import CELL_LETTERS_MAX, TABLE_ROWS_MAX, View, lines, make_console
from keyhaus.core import limits
from keyhaus.core.errors import Error, LimitExceeded, ProtocolError
from keyhaus.core.reply import BigNumber, Push, SetReply, Verbatim
from keyhaus.protocol.resp import RespCodec

_EVIL = b"\x1b]0;owned\x07\xc2\x9b2J\xe2\x80\xae\r\x7f"


def _read(data: bytes) -> Any:
    return Reader(io.BytesIO(data)).reply()


def _plain(reply: Any) -> str:
    return "\n".join("".join(text for text, _ in line) for line in lines(reply))


def _on_terminal(words: list[bytes], reply: Any, width: int = 100) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=True, color_system=None, width=width, markup=False, emoji=False, highlight=False
    )
    View(console).show(words, reply)
    return stream.getvalue()


# reading


@pytest.mark.parametrize(
    ("wire", "kind", "value"),
    [
        (b"+OK\r\n", str, "OK"),
        (b":-7\r\n", int, -7),
        (b"$2\r\n\r\n\r\n", bytes, b"\r\n"),
        (b"$-1\r\n", type(None), None),
        (b"*-1\r\n", type(None), None),
        (b"_\r\n", type(None), None),
        (b"#t\r\n", bool, True),
        (b",1.5\r\n", float, 1.5),
        (b",inf\r\n", float, float("inf")),
        (b"(123456789012345678901234567890\r\n", BigNumber, 123456789012345678901234567890),
        (b"=5\r\ntxt:x\r\n", Verbatim, b"x"),
        (b"*2\r\n:1\r\n*0\r\n", list, [1, []]),
        (b"~1\r\n+a\r\n", SetReply, ["a"]),
        (b">1\r\n+a\r\n", Push, ["a"]),
        (b"%1\r\n$1\r\na\r\n:1\r\n", dict, {b"a": 1}),
        (b"|1\r\n+a\r\n:1\r\n+OK\r\n", str, "OK"),
    ],
)
def test_each_type_is_read(wire: bytes, kind: type, value: Any) -> None:
    reply = _read(wire)
    assert type(reply) is kind and reply == value
    for end in range(len(wire)):
        with pytest.raises(EOFError):
            _read(wire[:end])


def test_an_error_has_the_code_of_its_line() -> None:
    for wire in (b"-NOTX it has ended\r\n", b"!17\r\nNOTX it has ended\r\n"):
        error = _read(wire)
        assert isinstance(error, Error) and (error.code, error.message) == ("NOTX", "it has ended")
    odd = failure(b"no code at all")
    assert (odd.code, odd.message) == ("ERR", "no code at all")


@pytest.mark.parametrize(
    "wire",
    [
        *(b"HTTP/1.1 400 Bad Request\r\n", b"\r\n", b":x\r\n", b":1_0\r\n", b"$1\r\nabc\r\n", b",x\r\n", b"(x\r\n"),
        *(b"%1\r\n*0\r\n+a\r\n", b"$\xd9\xa1\r\n", b'{"status": 1}\n', b"*1\r\n" * (DEPTH_MAX + 2) + b":1\r\n"),
    ],
)
def test_what_is_no_reply_is_refused(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        _read(wire)


def test_a_reply_is_bounded_before_it_is_read() -> None:
    for wire in (b"$%d\r\n", b"*%d\r\n", b"%%%d\r\n", b"*2\r\n$3\r\nabc\r\n$%d\r\n"):
        with pytest.raises(LimitExceeded, match="max-reply-bytes"):
            _read(wire % limits.REPLY_BYTES_MAX)


_REPLIES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.binary(),
        st.floats(allow_nan=False),
        st.sampled_from(["OK", "QUEUED"]),
        st.binary().map(Verbatim),
    ),
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(SetReply), st.dictionaries(st.binary(), inner)),
    max_leaves=12,
)


@given(_REPLIES)
def test_what_a_server_encodes_is_read_as_it_was(reply: Any) -> None:
    codec = RespCodec()
    codec.version = 3
    assert _read(codec.encode(reply)) == reply


# as redis-cli writes them


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("OK", "OK"),
        (b"text", '"text"'),
        (b"", '""'),
        (None, "(nil)"),
        (1, "(integer) 1"),
        (1.5, "(double) 1.5"),
        (True, "(true)"),
        (BigNumber(1 << 80), f"(big number) {1 << 80}"),
        (failure(b"ERR no"), "(error) ERR no"),
        (Verbatim(b"two\r\nlines\n"), "two\nlines"),
        ([], "(empty array)"),
        ({}, "(empty hash)"),
        (SetReply(), "(empty set)"),
        ([b"a", [1, [b"b", None]]], '1) "a"\n2) 1) (integer) 1\n   2) 1) "b"\n      2) (nil)'),
        ({b"a": 1, b"b": [2, 3]}, '1# "a" => (integer) 1\n2# "b" => 1) (integer) 2\n          2) (integer) 3'),
        (SetReply([1]), "1~ (integer) 1"),
        ([1] * 10, "\n".join(f"{number:2}) (integer) 1" for number in range(1, 11))),
    ],
)
def test_replies_look_as_in_redis_cli(reply: Any, expected: str) -> None:
    assert _plain(reply) == expected


@given(_REPLIES)
def test_every_reply_has_a_form_without_control_characters(reply: Any) -> None:
    assert _plain(reply).replace("\n", "").isprintable()
    assert document(reply).isprintable()
    assert _on_terminal([b"GET"], reply).replace("\n", "").isprintable()


@pytest.mark.parametrize("words", [[b"GET", b"k"], [b"RANGE", b"", b""], [b"SCAN", b"0"], [b"INFO"]])
@pytest.mark.parametrize(
    "reply",
    [
        _EVIL,
        Verbatim(_EVIL),
        _EVIL.decode("utf-8"),
        failure(b"ERR " + _EVIL),
        [_EVIL, [_EVIL, _EVIL]],
        [None, [_EVIL, _EVIL]],
        {_EVIL: _EVIL},
        [{_EVIL: [_EVIL, 1]}],
        {b"nested": {_EVIL: _EVIL}},
        Push([_EVIL]),
    ],
)
def test_no_escape_sequence_of_stored_data_reaches_a_terminal(words: list[bytes], reply: Any) -> None:
    assert _on_terminal(words, reply).replace("\n", "").isprintable()
    assert document(reply).isprintable()
    stream = io.StringIO()
    View(make_console(stream)).show(words, reply)
    assert stream.getvalue().replace("\n", "").isprintable()


# tables


def test_a_page_of_range_is_a_table_that_says_how_to_go_on() -> None:
    drawn = _on_terminal([b"RANGE", b"", b"", b"LIMIT", b"2"], [b"c d", [b"a", b"1", b"b", b" x "]])
    rows = [line.strip("│╭╰╮╯ ").split("│") for line in drawn.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [["key", "value"], ["a", "1"], ["b", '" x "']]
    assert 'RANGE "c d" "" LIMIT 2' in drawn and "2 keys" in drawn
    backwards = _on_terminal([b"RANGE", b"a", b"z", b"REV", b"KEYS"], [b"m", [b"y"]])
    assert "1 key, more: RANGE a m REV KEYS" in backwards and "value" not in backwards
    assert "more" not in _on_terminal([b"RANGE", b"", b""], [None, []])


def test_a_page_of_scan_is_a_table_of_keys() -> None:
    drawn = _on_terminal([b"SCAN", b"0", b"MATCH", b"*"], [b"17", [b"a", b"b"]])
    assert "│ a" in drawn and 'more: SCAN 17 MATCH "*"' not in drawn and "more: SCAN 17 MATCH *" in drawn
    assert "more" not in _on_terminal([b"SCAN", b"0"], [b"0", [b"a"]])


def test_maps_are_tables_and_so_are_maps_that_are_alike() -> None:
    assert "│ maxclients │ 10000 │" in _on_terminal([b"CONFIG", b"GET", b"x"], {b"maxclients": b"10000"})
    drawn = _on_terminal(
        [b"TRANSACTION", b"LIST"], [{b"id": b"a", b"waits": [b"b", b"c"]}, {b"id": b"d", b"waits": []}]
    )
    assert "│ id │ waits │" in drawn and "│ a  │ b, c  │" in drawn


def test_what_does_not_fit_a_table_is_a_list() -> None:
    nested = {b"a": {b"b": 1}}
    assert _on_terminal([b"X"], nested) == '1# "a" => 1# "b" => (integer) 1\n'
    long = [None, [b"k"] * (TABLE_ROWS_MAX + 2)]
    assert _on_terminal([b"RANGE", b"", b""], long).startswith("1) (nil)\n2)    1) ")
    assert _on_terminal([b"RANGE", b"", b""], [1, 2, 3]).startswith("1) (integer) 1")


def test_a_long_value_is_cut_in_a_table_and_says_how_long_it_is() -> None:
    drawn = _on_terminal([b"RANGE", b"", b""], [None, [b"k", b"x" * 5000]])
    assert "(5,000 bytes)" in drawn.replace("\n", "") and drawn.count("x") == CELL_LETTERS_MAX
    assert _on_terminal([b"GET", b"k"], b"x" * 5000).count("x") == 5000


def test_where_there_is_no_terminal_there_is_no_table_and_no_colour() -> None:
    stream = io.StringIO()
    View(make_console(stream)).show([b"RANGE", b"", b""], [None, [b"a", b"1"]])
    assert stream.getvalue() == '1) (nil)\n2) 1) "a"\n   2) "1"\n'


def test_markup_of_the_console_is_no_markup_here() -> None:
    drawn = _on_terminal([b"RANGE", b"", b""], [None, [b"[red]a[/red]", b":smile:"]])
    assert "[red]a[/red]" in drawn and ":smile:" in drawn


# JSON


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("OK", "OK"),
        ("grün".encode(), "grün"),
        (b"\xff", {"base64": "/w=="}),
        (None, None),
        (True, True),
        (float("inf"), None),
        ([1, [b"a", {b"b": b"\x1b"}]], [1, ["a", {"b": "\x1b"}]]),
        ({b"\xff": 1}, {"\\xff": 1}),
        (failure(b"NOTX gone"), {"error": "NOTX", "message": "gone"}),
        ([failure(b"ERR no")], [{"error": "ERR", "message": "no"}]),
        ("\udcff", "\\xff"),
    ],
)
def test_each_reply_is_one_document(reply: Any, expected: Any) -> None:
    text = document(reply)
    assert json.loads(text) == expected and "\n" not in text


def test_errors_are_found_within_lists() -> None:
    assert has_error(failure(b"ERR no")) and has_error(["OK", [failure(b"ERR no")]])
    assert not has_error(["OK", b"ERR no", {b"error": 1}])
