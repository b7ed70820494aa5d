"""Words of the shell: quoting both ways, what stands before the cursor, scripts, aliases, what is not remembered."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.cli.shell.aliases import translated
from keyhaus.cli.shell.history import ENTRY_BYTES_MAX, FILE_BYTES_MAX, ShellHistory, default_path, has_secret
from keyhaus.cli.shell.quoting import commands, escaped, fragment, paragraphs, quote_after, quoted, shown, split
from keyhaus.cli.target import Target, parse_target
from keyhaus.core.errors import Syntax


@given(st.binary())
def test_what_is_shown_can_be_typed_again(word: bytes) -> None:
    for text in (quoted(word), shown(word)):
        assert split(text.encode()) == [word]
    assert split(f"SET {quoted(word)} x".encode()) == [b"SET", word, b"x"]


@given(st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_only_printable_characters_are_shown(data: bytes) -> None:
    for text in (escaped(data), quoted(data), shown(data), paragraphs(data).replace("\n", "")):
        assert text.isprintable()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x1b]0;owned\x07", "\\x1b]0;owned\\a"),
        (b"\xc2\x9b31m", "\\xc2\\x9b31m"),  # CSI as one character
        ("\u202egnp".encode(), "\\xe2\\x80\\xaegnp"),
        ("grün 日本".encode(), "grün 日本"),
        (b"\xff\x00\\", "\\xff\\x00\\\\"),
        ('say "hi"', 'say "hi"'),
    ],
)
def test_escapes_of_terminals_are_escaped(data: bytes | str, expected: str) -> None:
    assert escaped(data) == expected


@pytest.mark.parametrize(
    ("text", "words", "raw", "word"),
    [
        ("", [], "", ""),
        ("GE", [], "GE", "GE"),
        ("GET ", ["GET"], "", ""),
        ('GET "my k', ["GET"], '"my k', "my k"),
        ('SET "a b" \'it', ["SET", "a b"], "'it", "it"),
        ('GET "a\\', ["GET"], '"a\\', "a"),
        ('GET "a\\x4', ["GET"], '"a\\x4', "ax4"),
        ("SET a 1\nGET b", ["GET"], "b", "b"),
        ('SET a "1\n2" N', ["SET", "a", "1\n2"], "N", "N"),
        ("GET ä", ["GET"], "ä", "ä"),
    ],
)
def test_what_stands_before_the_cursor(text: str, words: list[str], raw: str, word: str) -> None:
    part = fragment(text.encode())
    assert part is not None
    assert ([w.decode() for w in part.words], part.raw.decode(), part.word.decode()) == (words, raw, word)


def test_quotes_that_make_no_sense_are_completed_by_nothing() -> None:
    assert fragment(b'GET "a"b c') is None
    with pytest.raises(Syntax, match="not balanced, or something follows a closing quote"):
        split(b'GET "a"b')


def test_quotes_are_open_until_they_are_closed() -> None:
    assert quote_after(b'SET a "x') == b'"'
    assert quote_after(b'y"', b'"') == b""
    assert quote_after(b'y\\"', b'"') == b'"'
    assert quote_after(b"it's") == b"'"
    assert quote_after(b"\\'", b"'") == b"'"


def test_a_script_is_cut_into_commands() -> None:
    script = b"# don't\n\nSET a 1\r\n  SET b \"two\n# in it\nlines\"  \nGET 'open\nto the end"
    assert list(commands(script.splitlines(keepends=True))) == [
        (3, b"SET a 1"),
        (4, b'SET b "two\n# in it\nlines"'),
        (7, b"GET 'open\nto the end"),
    ]


def _translated(line: str, *known: str) -> list[str]:
    data = line.encode()
    return [word.decode() for word in translated(split(data), data, lambda name: name in known)]


def test_the_seeds_commands_are_understood() -> None:
    assert _translated("put k v") == ["SET", "k", "v"]
    assert _translated("put name  John  Doe ") == ["SET", "name", "John  Doe"]
    assert _translated('put "a b" "c d"') == ["SET", "a b", "c d"]
    assert _translated("batch k1 v1 k2 v2") == ["MSET", "k1", "v1", "k2", "v2"]
    assert _translated("delete k") == ["DEL", "k"]
    assert _translated("get k") == ["get", "k"]
    assert _translated("PUT k v") == ["SET", "k", "v"]


def test_a_command_of_the_table_comes_before_an_alias() -> None:
    assert _translated("put k v", "PUT") == ["put", "k", "v"]


def test_range_in_small_letters_includes_its_end() -> None:
    assert _translated("range a z", "RANGE") == ["RANGE", "a", "z\0"]
    assert _translated("range a ''", "RANGE") == ["RANGE", "a", ""]
    assert _translated("RANGE a z", "RANGE") == ["RANGE", "a", "z"]
    assert _translated("range a z LIMIT 3", "RANGE") == ["range", "a", "z", "LIMIT", "3"]


@pytest.mark.parametrize("line", ["put", "put k", "batch", "batch k", "batch k v k2", "delete", 'put k "a b" c'])
def test_an_alias_with_the_wrong_words_says_what_was_expected(line: str) -> None:
    with pytest.raises(Syntax, match="expected"):
        _translated(line)


@pytest.mark.parametrize(
    "text",
    [
        *("AUTH secret", "auth user secret", '"AUTH" secret', "HELLO 3 AUTH user secret", "SET a 1\nAUTH secret"),
        *("CONFIG SET requirepass x", "config set maxclients 5 masterauth x", "ACL SETUSER bob >x", 'AUTH "x"y'),
        *("AUTH 'open", "MIGRATE h 1 k 0 1 AUTH2 u p", "  AUTH x"),
    ],
)
def test_what_has_a_password_is_not_remembered(text: str, tmp_path: Path) -> None:
    assert has_secret(text.encode())
    history = ShellHistory(tmp_path / "history")
    history.append_string(text)
    assert (tmp_path / "history").read_bytes() == b""


@pytest.mark.parametrize("text", ["GET auth", "help auth", "HELLO 3", "CONFIG GET requirepass", "SET password-reset 1"])
def test_what_only_speaks_of_passwords_is_remembered(text: str, tmp_path: Path) -> None:
    ShellHistory(tmp_path / "history").append_string(text)
    assert list(ShellHistory(tmp_path / "history").load_history_strings()) == [text]


def test_the_history_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "keyhaus" / "shell-history"
    mask = os.umask(0)
    try:
        ShellHistory(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    ShellHistory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_not_followed_to_a_file_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("theirs")
    (tmp_path / "history").symlink_to(tmp_path / "other")
    with pytest.raises(OSError):
        ShellHistory(tmp_path / "history")


def test_the_history_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = ShellHistory(path)
    history.append_string("x" * (ENTRY_BYTES_MAX + 1))
    assert path.read_bytes() == b""
    line = "SET a " + "x" * 60_000
    for number in range(FILE_BYTES_MAX // len(line) + 2):
        history.append_string(f"{line} {number}")
    assert path.stat().st_size > FILE_BYTES_MAX
    kept = list(ShellHistory(path).load_history_strings())
    assert path.stat().st_size <= FILE_BYTES_MAX // 2 + 2
    assert kept[0] == f"{line} {number}" and all(entry.startswith(line) for entry in kept)


def test_the_history_lies_where_the_desktop_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "keyhaus" / "shell-history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_path() == tmp_path / ".local" / "state" / "keyhaus" / "shell-history"


def test_the_forms_of_a_url() -> None:
    assert parse_target("keyhaus://h:1/2") == Target("h", 1, 2)
    assert parse_target("localhost") == Target("localhost", 19272)
    assert parse_target("localhost:7/3") == Target("localhost", 7, 3)
    assert parse_target("redis://h") == Target("h", 6379)
    assert parse_target("redis://us%40er:pa%2Fss@h:1/2") == Target("h", 1, 2, "us@er", "pa/ss")
    assert parse_target("redis://:pass@h") == Target("h", 6379, 0, "", "pass")
    for url in (
        "redis://:geheim@h/x",
        "redis://:geheim@h/1?a=b",
        "redis://:geheim@/1",
        "redis://:geheim/x@h",
        "rediss://:geheim@h",
    ):
        with pytest.raises(ValueError) as refused:
            parse_target(url)
        assert "geheim" not in str(refused.value)
    with pytest.raises(ValueError):
        parse_target("http://h")
