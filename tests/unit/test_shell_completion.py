"""Completion, hints and help of the shell, from the table of this server, and from tables that make no sense."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from keyhaus.cli.shell import local
from keyhaus.cli.shell.catalogue import Argument, Catalogue, read
from keyhaus.cli.shell.completion import ShellCompleter
from keyhaus.cli.shell.keys import pattern
from keyhaus.cli.shell.replies import failure
from keyhaus.cli.shell.syntax import expected
from keyhaus.commands.glob import compiled
from keyhaus.commands.spec import TABLE
from tests.support.surroundings import Surrounded

_KEYS = [b"fruit:apple", b"fruit:banana", b"two words", b"\x1b[31m", b"a", b"A"]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read(Surrounded().run("COMMAND", "DOCS"))


def _completed(catalogue: Catalogue, text: str) -> list[str]:
    """What a line may become, by each completion."""
    asked: list[bytes] = []

    def find(prefix: bytes) -> list[bytes]:
        asked.append(prefix)
        return [key for key in _KEYS if key.startswith(prefix)]

    found = ShellCompleter(lambda: catalogue, find).get_completions(Document(text), CompleteEvent())
    lines = [text[: len(text) + completion.start_position] + completion.text for completion in found]
    assert len(asked) <= 1
    return lines


def test_the_names_of_commands_are_completed(catalogue: Catalogue) -> None:
    assert _completed(catalogue, "trans") == ["TRANSACTION"]
    assert {"GET", "GETDEL", "GETEX", "GETRANGE", "GETSET"} == set(_completed(catalogue, "ge"))
    assert _completed(catalogue, "ran") == ["RANDOMKEY", "RANGE", "range"], "which means something else"
    assert _completed(catalogue, "qui") == ["QUIT"]
    assert _completed(catalogue, "hel") == ["HELLO", "help"]
    assert len(_completed(catalogue, "")) > len(TABLE)


def test_subcommands_are_completed(catalogue: Catalogue) -> None:
    assert _completed(catalogue, "transaction st") == ["transaction STATUS"]
    names = ("GET", "HELP", "RESETSTAT", "REWRITE", "SET")
    assert sorted(_completed(catalogue, "CONFIG ")) == [f"CONFIG {name}" for name in names]


@pytest.mark.parametrize(
    ("typed", "expected_words"),
    [
        ("BEGIN ", {"PESSIMISTIC", "OPTIMISTIC", "READONLY", "DURABILITY", "TIMEOUT"}),
        ("BEGIN o", {"OPTIMISTIC"}),
        ("BEGIN OPTIMISTIC ", {"DURABILITY", "TIMEOUT"}),
        ("SET k v ", {"NX", "XX", "IFEQ", "GET", "EX", "PX", "EXAT", "PXAT", "KEEPTTL"}),
        ("SET k v EX 10 ", {"NX", "XX", "IFEQ", "GET"}),
        ("SET k v EX ", set()),
        ("RANGE a z L", {"LIMIT"}),
        ("RANGE a z LIMIT 5 ", {"REV", "KEYS", "MATCH"}),
        ("SCAN 0 ", {"MATCH", "COUNT", "TYPE"}),
        ("COMMIT ", {"WITHSEQNO"}),
        ("COMMIT tx-1 W", {"WITHSEQNO"}),
        ("PING ", set()),
        ("NONSENSE ", set()),
    ],
)
def test_options_are_completed_where_they_may_stand(catalogue: Catalogue, typed: str, expected_words: set[str]) -> None:
    head = typed.rpartition(" ")[0]
    assert set(_completed(catalogue, typed)) == {f"{head} {word}" for word in expected_words}


@pytest.mark.parametrize(
    ("typed", "lines"),
    [
        ("GET fr", ["GET fruit:apple", "GET fruit:banana"]),
        ("GET two", ['GET "two words"']),
        ('GET "two w', ['GET "two words"']),
        ("GET \\x", []),
        ('DEL x "\\x1b', ['DEL x "\\x1b[31m"']),
        ("MSET a 1 fruit:a", ["MSET a 1 fruit:apple"]),
        ("MSET a fruit:a", []),
        ("RANGE fruit:b", ["RANGE fruit:banana"]),
        ("RANGE a fruit:b", ["RANGE a fruit:banana"]),
        ("TX tx-1 GET fruit:b", ["TX tx-1 GET fruit:banana"]),
        ("put fruit:b", ["put fruit:banana"]),
        ("range fruit:b", ["range fruit:banana"]),
        ("SET q 1\nGET fruit:b", ["SET q 1\nGET fruit:banana"]),
        ("GET a", ["GET a"]),
    ],
)
def test_keys_are_completed_and_quoted(catalogue: Catalogue, typed: str, lines: list[str]) -> None:
    assert _completed(catalogue, typed) == lines


def test_help_completes_commands(catalogue: Catalogue) -> None:
    assert _completed(catalogue, "help trans") == ["help TRANSACTION"]


def _one_way(syntax: str) -> str:
    """A syntax without what may be written in two ways."""
    return re.sub(r"\[(\S+) \[\1 \.\.\.\]\]", r"[\1 ...]", re.sub(r"[<>]", "", syntax))


def test_the_usage_of_a_command_is_what_its_syntax_says(catalogue: Catalogue) -> None:
    for name, spec in TABLE.items():
        if spec.syntax and name not in ("COMMIT", "LCS", "HELLO"):
            usage = catalogue.entries[name].usage
            assert _one_way(usage) == _one_way(f"{name} {spec.syntax}"), name


def test_the_same_place_twice_is_walked_once() -> None:
    keys = (Argument("key", "key", multiple=True), Argument("timeout", "integer"))
    found = expected(keys, [b"k"] * 2000)
    assert found.key and found.names == {"key", "timeout"}
    once = (Argument("keys", "key", token="KEYS", optional=True, multiple=True),)
    assert expected(once, [b"KEYS", b"a"]).key


@pytest.mark.parametrize("prefix", [b"", b"a*b", b"[x]?", b"back\\slash", b"^-", bytes(range(256))])
def test_a_prefix_is_no_pattern(prefix: bytes) -> None:
    matches = compiled(pattern(prefix), nocase=False)
    assert matches(prefix + b"tail") and (matches(prefix) or not prefix)
    assert not prefix or not matches(b"other" + prefix)


_ODD = st.recursive(
    st.one_of(st.none(), st.integers(), st.binary(), st.text(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner),
        st.dictionaries(st.sampled_from([b"arguments", b"subcommands", b"flags", b"name", b"type", b"x|y"]), inner),
    ),
    max_leaves=20,
)


@given(_ODD)
def test_a_table_of_any_form_is_read_or_left_out(told: Any) -> None:
    for reply in (told, {b"get": told}, [b"get", told], {b"get": {b"arguments": told, b"subcommands": told}}):
        known = read(reply)
        assert all(entry.usage.isprintable() for entry in known.entries.values())
        _completed(known, "get ")
    assert read(failure(b"NOAUTH no")).entries == {}


def test_help_says_what_there_is(catalogue: Catalogue) -> None:
    overview = local.overview(catalogue)
    assert all(f" {name}" in overview for name in TABLE)
    assert "range a z, in small letters and with two words, includes z" in overview
    assert "since: 1.0.0" in local.about([b"get"], catalogue)
    assert "CONFIG GET pattern" in local.about([b"config"], catalogue)
    assert local.about([b"config", b"get"], catalogue).startswith("CONFIG GET pattern [pattern ...]")
    assert "excludes its end" in local.about([b"RANGE"], catalogue)
    assert "SET" in local.about([b"put"], catalogue) and "leaves" in local.about([b"exit"], catalogue)
    with pytest.raises(local.NoSuchCommand, match="no command 'nonsense'"):
        local.about([b"nonsense"], catalogue)
