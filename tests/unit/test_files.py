"""Rows in files come back as they were, from pieces of any size; what is none is named with its place."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.core.objects import BYTES, OBJECT, TEXT, pack
from keyhaus.protocol.files import document, lines, table
from keyhaus.protocol.files.row import BrokenFile, Read, Row
from tests.unit.test_objects import VALUES

_AWKWARD = st.sampled_from(
    [
        b"",
        b"keyhaus.rows",
        b'{"base64":"aGk="}',
        b'{"base64"',
        b"\xff\0",
        b"\xff" * 16 + b"\x14",
        b'a"b\r\n,c',
        b"\r",
        b"\\u0041",
        "é\u2028".encode(),
    ]
)
_KEYS = _AWKWARD | st.binary(max_size=20) | st.text(max_size=10).map(str.encode)
# What nobody but a frame's client writes: numbers wider than they need be, a text as an object, a key twice.
_ODD = st.sampled_from([b"\xcd\x00\x01", b"\xca\x3f\xc0\x00\x00", b"\xa1a", b"\xc4\x01a", b"\x82\xa1a\x01\xa1a\x02"])
_LIKE_FORMS = st.sampled_from(
    [{"base64": "aGk="}, {"base64": 1}, {"msgpack": "kA=="}, {"msgpack": "?"}, [{"base64": "aGk="}]]
)
_OBJECTS = (VALUES | _LIKE_FORMS).map(pack).filter(lambda packed: packed[0] == OBJECT).map(lambda packed: packed[1])
_VALUED = (
    st.tuples(st.just(TEXT), _KEYS)
    | st.tuples(st.just(BYTES), _KEYS)
    | st.tuples(st.just(OBJECT), _OBJECTS | _ODD)
    | st.just((OBJECT, pack(10**2400)[1]))
    | st.just((OBJECT, pack(float("nan"))[1]))
)
ROWS = st.lists(
    st.builds(
        lambda database, key, valued, expires: Row(database, key, *valued, expires),
        st.sampled_from([0, 0, 0, 5]),
        _KEYS,
        _VALUED,
        st.sampled_from([0, 0, 1, (1 << 63) - 1]),
    ),
    max_size=6,
    unique_by=lambda row: row[:2],
)


def pieces(data: bytes, size: int) -> Callable[[int], bytes]:
    file = io.BytesIO(data)
    return lambda count: file.read(min(count, size))


def as_lines(rows: list[Row]) -> bytes:
    return b"".join(map(lines.encode, rows))


def as_document(rows: list[Row]) -> bytes:
    writer = document.DocumentWriter(io.BytesIO())
    return b"".join([*[writer.add(row) for row in rows], *writer.end()])


def as_table(rows: list[Row]) -> bytes:
    writer = table.TableWriter()
    return b"".join([writer.head(), *[writer.add(row) for row in rows]])


def lines_of(data: bytes) -> Callable[[int], bytes]:
    return io.BytesIO(data).readline


def found(read: Iterator[Read]) -> list[Row]:
    rows: list[Row] = []
    for one in read:
        assert one.row is not None, one.problem
        rows.append(one.row)
    return rows


def problems(read: Iterator[Read]) -> list[str]:
    return [one.problem for one in read if one.row is None]


@given(ROWS)
def test_lines_come_back(rows: list[Row]) -> None:
    written = as_lines(rows)
    back = found(lines.read(io.BytesIO(written).readline))
    assert back == rows and as_lines(back) == written


@given(ROWS, st.sampled_from([1, 2, 7, 1 << 20]))
def test_a_document_comes_back_from_pieces_of_any_size(rows: list[Row], size: int) -> None:
    written = as_document(rows)
    back = found(document.read(pieces(written, size)))
    assert sorted(back) == sorted(rows)
    members = [row for row in back if row.database == 0 and not row.expires]
    assert as_document(back) == written, "set aside or not, the order stays"
    assert len(members) <= len(rows)


@given(ROWS)
def test_a_table_comes_back(rows: list[Row]) -> None:
    written = as_table(rows)
    back = found(table.read(lines_of(written)))
    assert back == rows and as_table(back) == written


def test_a_plain_document_is_any_json_librarys() -> None:
    rows = [Row(0, b"a", TEXT, "é".encode()), Row(0, b"b", OBJECT, pack({"x": [1, 2.5, None]})[1])]
    assert json.loads(as_document(rows)) == {"a": "é", "b": {"x": [1, 2.5, None]}}
    assert as_document([]) == b"{}\n"
    theirs = json.dumps({"k": "v", "n": 5, "deep": {"a": ["b"]}, "é": "\U0001f600"}, indent=2).encode()
    assert found(document.read(pieces(theirs, 1))) == [
        Row(0, b"k", TEXT, b"v"),
        Row(0, b"n", *pack(5)),
        Row(0, b"deep", *pack({"a": ["b"]})),
        Row(0, "é".encode(), TEXT, "\U0001f600".encode()),
    ]
    assert found(document.read(pieces(b"\xef\xbb\xbf {} \n", 1))) == []


def test_what_no_member_can_express_stands_aside() -> None:
    rows = [
        Row(0, b"b", TEXT, b"x", 1_767_225_600_000),
        Row(0, b"\xff", BYTES, b"x"),
        Row(0, b"t", TEXT, b"\xff"),
        Row(0, b"keyhaus.rows", TEXT, b"x"),
        Row(3, b"a", TEXT, b"x"),
    ]
    shown = json.loads(as_document([Row(0, b"a", BYTES, b"x"), *rows]))
    assert shown == {
        "a": {"base64": "eA=="},
        "keyhaus.rows": [
            {"database": 0, "key": "b", "kind": "TEXT", "value": "x", "expires": 1_767_225_600_000},
            {"database": 0, "key": {"base64": "/w=="}, "kind": "BYTES", "value": {"base64": "eA=="}},
            {"database": 0, "key": "t", "kind": "TEXT", "value": {"base64": "/w=="}},
            {"database": 0, "key": "keyhaus.rows", "kind": "TEXT", "value": "x"},
            {"database": 3, "key": "a", "kind": "TEXT", "value": "x"},
        ],
    }


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ({"a": [1, "é", None, True, 2.5]}, {"a": [1, "é", None, True, 2.5]}),
        ([b"\xff"], [{"base64": "/w=="}]),
        (10**30, 10**30),
        ((1,), None),
        ({1}, None),
        ({1: 2}, None),
        (float("nan"), None),
        ({"base64": "aGk="}, None),
    ],
)
def test_an_object_is_json_where_that_says_all_of_it(value: Any, form: Any) -> None:
    kind, data = pack(value)
    shown = json.loads(lines.encode(Row(0, b"k", kind, data)))["value"]
    assert shown == ({"msgpack": base64.b64encode(data).decode()} if form is None else form)


@given(ROWS)
def test_a_table_is_any_csv_librarys(rows: list[Row]) -> None:
    records = list(csv.reader(io.StringIO(as_table(rows).decode(), newline="")))
    assert records[0] == ["key", "value", "kind", "expires", "database"]
    assert [len(record) for record in records] == [5] * (len(rows) + 1)


def test_fields_of_a_line_may_be_left_out() -> None:
    data = b'\xef\xbb\xbf{"key": "a", "value": "x"}\r\n\n  {"value": {"base64": "/w=="}, "key": "b", "expires": null}'
    assert found(lines.read(io.BytesIO(data).readline)) == [Row(0, b"a", TEXT, b"x"), Row(0, b"b", BYTES, b"\xff")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"key": "a" "value": 1}', "line 2, column 13: this is no JSON: expected ',' or '}'"),
        ('  {"key": "é", "value": tru}', "line 2, column 29: this is no JSON: invalid character"),
        ('{"key": "a"', "line 2, column 1: this is no JSON: it ends too early"),
        ("[1]", "line 2, column 1: a row is an object"),
        ('{"key": "a"}', "line 2, column 1: the row has no value"),
        ('{"key": 1, "value": "x"}', "line 2, column 1: a key is a text"),
        ('{"key": "a", "value": "x", "ttl": 5}', "line 2, column 1: a row has no field 'ttl'"),
        ('{"key": "a", "value": "x", "kind": "LIST"}', "a kind is TEXT, BYTES or OBJECT, not 'LIST'"),
        ('{"key": "a", "value": "x", "kind": "BYTES"}', 'a value of kind BYTES is {"base64": …}'),
        ('{"key": "a", "value": [1], "kind": "TEXT"}', "a value of kind TEXT is a text"),
        ('{"key": "a", "value": "x", "kind": "OBJECT"}', "a value of kind OBJECT is"),
        ('{"key": "a", "value": {"base64": "?"}}', "has to hold base64"),
        ('{"key": "a", "value": {"msgpack": "wQ=="}}', "this is no value in MessagePack"),
        ('{"key": "a", "value": "x", "expires": 0}', "expires is in milliseconds since 1970, not 0"),
        ('{"key": "a", "value": "x", "expires": 1.5}', "expires is in milliseconds since 1970, not 1.5"),
        ('{"key": "a", "value": "x", "database": -1}', "a database is a number from 0, not -1"),
        ('{"key": "a", "value": "x", "database": true}', "a database is a number from 0, not True"),
        ('{"key": "a", "value": NaN}', "line 2, column 23: this is no JSON"),
        ('{"key": "a", "value": "\\ud800"}', "this is no JSON"),
        ('{"key": "a", "value": 1e999}', "this is no JSON: Number out of range"),
        ('{"key": "%s", "value": 1}' % ("k" * 65_537), "max-key-bytes exceeded"),
        ('{"key": "a", "value": %s}' % ("[" * 65 + "]" * 65), "value-depth exceeded"),
        ('{"key": "a", "value": %s}' % ("[" * 100_000), "nested too deeply"),
        ('{"key": "a", "value": %s}' % ('{"a":' * 600 + "1" + "}" * 600), "nested too deeply"),
    ],
)
def test_a_line_that_is_no_row_is_named(line: str, problem: str) -> None:
    data = f'{{"key": "before", "value": 1}}\n{line}\n{{"key": "behind", "value": 1}}\n'.encode()
    read = list(lines.read(io.BytesIO(data).readline))
    assert [one.row is None for one in read] == [False, True, False]
    assert problem in read[1].problem and read[1].problem.startswith("line 2, column "), read[1].problem


def test_a_line_that_is_no_utf8_is_named() -> None:
    (read,) = lines.read(io.BytesIO(b'{"key": "\xff", "value": 1}').readline)
    assert read.row is None and read.problem.startswith("line 1, column ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1, column 1: expected an object, {key: value, …}, found the end of the file"),
        ("[]", "line 1, column 1: expected an object, {key: value, …}, found '['"),
        ("{", "line 1, column 2: expected a key"),
        ('{"a": "x",}', "line 1, column 11: expected a key"),
        ('{"a": "x"\n "b": "y"}', "line 2, column 2: expected a comma, or the end of the object, found '\"'"),
        ('{"a"; "x"}', "line 1, column 5: expected a colon behind the key, found ';'"),
        ('{"a": }', "line 1, column 7: expected a value, found '}'"),
        ('{"a": ', "line 1, column 7: expected a value, found the end of the file"),
        ('{"é": "x', "line 1, column 7: what begins here has no end"),
        ('{"a": [1, {"b": "]"}', "line 1, column 7: what begins here has no end"),
        ('{"a": "x"', "line 1, column 10: expected a comma, or the end of the object, found the end of the file"),
        ('{"a": "x"}\n{}', "line 2, column 1: the document has ended, and something follows"),
        ('{"keyhaus.rows": 5}', "line 1, column 18: expected an array of rows under 'keyhaus.rows', found '5'"),
        ('{"a": "\\', "line 1, column 7: what begins here has no end"),
    ],
)
def test_a_document_that_breaks_says_where(text: str, problem: str) -> None:
    for size in (1, 1 << 20):
        with pytest.raises(BrokenFile) as failed:
            list(document.read(pieces(text.encode(), size)))
        assert failed.value.message.startswith(problem), failed.value.message


def test_members_that_are_none_are_named_and_the_others_read() -> None:
    text = (
        '{"a": tru, "b": {"base64": "?"},\n "\\ud800": 1, '
        '"keyhaus.rows": [{"key": "d"}, [}, {"key": "e", "value": 1}], "c": 1}'
    )
    read = list(document.read(pieces(text.encode(), 3)))
    assert [one.row.key for one in read if one.row] == [b"e", b"c"]
    told = [one.problem for one in read if not one.row]
    assert [problem.partition(": ")[0] for problem in told] == [
        "line 1, column 7",
        "line 1, column 17",
        "line 2, column 2",
        "line 2, column 32",
        "line 2, column 47",
    ]


def test_parts_are_bounded() -> None:
    with pytest.raises(BrokenFile, match="line 1, column 7: what begins here has more than 1 MiB"):
        list(document.read(pieces(b'{"a": "' + b"x" * (3 << 20) + b'"}', 1 << 20), most=1 << 20))
    long = b'{"key": "a", "value": "' + b"x" * (1 << 20) + b'"}\n'
    with pytest.raises(BrokenFile, match="line 2, column 1: it has more than 1 MiB"):
        list(lines.read(io.BytesIO(b'{"key": "a", "value": 1}\n' + long).readline, most=1 << 20))
    wide = b"key,value\r\na," + b"x" * (1 << 20) + b"\r\n"
    with pytest.raises(BrokenFile, match="line 2, column 1: it has more than 1 MiB"):
        list(table.read(lines_of(wide), most=1 << 20))
    unclosed = b'key,value\r\na,"' + b"x\r\n" * (1 << 19)
    assert "field larger than field limit" in problems(table.read(lines_of(unclosed), most=1 << 20))[0]


def test_a_document_is_read_in_linear_time() -> None:
    """Each byte is looked at once, however it comes: a part of a million pieces would never end otherwise."""
    text = b'{"a": [' + b'"\\"x", ' * 50_000 + b'"y"]}'
    reads = 0
    file = io.BytesIO(text)

    def read(count: int) -> bytes:
        nonlocal reads
        reads += 1
        return file.read(8)

    (row,) = found(document.read(read))
    assert reads > 40_000 and len(msgspec.msgpack.decode(row.value)) == 50_001


def test_somebody_elses_table_is_taken_as_it_is() -> None:
    data = b'id;x,name,kind\r\n1,"a ""b""\r\nc",LIST\r\n\r\n2,"{""base64"": ""aGk=""}",\r\n'
    assert found(table.read(lines_of(data), "id;x", "name")) == [
        Row(0, b"1", TEXT, b'a "b"\r\nc'),
        Row(0, b"2", TEXT, b'{"base64": "aGk="}'),
    ]
    plain = b'\xef\xbb\xbfvalue,key\n"{""base64"":1}",k\n'
    assert found(table.read(lines_of(plain))) == [Row(0, b"k", TEXT, b'{"base64":1}')]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1: there is no header"),
        ("id,name\n", "'id' is none of them: say which columns hold the keys and the values, with --key-column"),
        ("key,kind\n", "there is no column 'value' among key, kind"),
        ("key,value,key\n", "there is more than one column 'key' among"),
    ],
)
def test_a_table_without_its_columns_is_refused(text: str, problem: str) -> None:
    with pytest.raises(BrokenFile) as failed:
        list(table.read(lines_of(text.encode())))
    assert problem in failed.value.message


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (b"a,b", "line 3: it has 2 cells, and the header 5"),
        (b'"a"b,x,,,', "line 3: this is no CSV"),
        (b"a,x,LIST,,", "line 3, column 'kind': a kind is TEXT, BYTES or OBJECT"),
        (b"a,?,BYTES,,", "line 3, column 'value': "),
        (b"a,[,OBJECT,,", "line 3, column 'value': this is no JSON"),
        (b"a,x,,soon,", "line 3, column 'expires': expires is in milliseconds since 1970, not 'soon'"),
        (b"a,x,,,-1", "line 3, column 'database': a database is a number from 0, not -1"),
        (b'"{""base64"":5}",x,,,', "line 3, column 'key': a key is a text"),
        (b"\xff,x,,,", "line 3, column 'key': it is no UTF-8"),
        (b"a,\xff,,,", "line 3, column 'value': it is no UTF-8"),
    ],
)
def test_a_record_that_is_no_row_is_named(record: bytes, problem: str) -> None:
    data = b"key,value,kind,expires,database\r\nbefore,x,,,\r\n" + record + b"\r\nbehind,x,TEXT,,0\r\n"
    read = list(table.read(lines_of(data)))
    assert [one.row is None for one in read] == [False, True, False], read
    assert read[1].problem.startswith(problem) or problem in read[1].problem, read[1].problem
