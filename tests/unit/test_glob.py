"""Patterns mean what they mean in Redis, and cost no more than pattern times text."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.commands import glob
from keyhaus.commands.glob import compiled
from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded

# Each was asked of a redis-server 7.0.15: pattern, texts that match, texts that do not.
VECTORS: list[tuple[bytes, list[bytes], list[bytes]]] = [
    (b"h?llo", [b"hello", b"hallo", b"h?llo"], [b"hllo", b"heello", b""]),
    (b"h*llo", [b"hllo", b"heeeello"], [b"hell", b"ahllo"]),
    (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo", b"hllo"]),
    (b"h[^e]llo", [b"hallo", b"h^llo"], [b"hello"]),
    (b"h[a-b]llo", [b"hallo", b"hbllo"], [b"hcllo", b"h-llo"]),
    (b"h[b-a]llo", [b"hallo", b"hbllo"], [b"hcllo"]),
    (b"*", [b"a", b"\xff\x00"], [b""]),
    (b"**", [b"a"], [b""]),
    (b"", [b""], [b"a"]),
    (b"a*", [b"a", b"ab"], [b"", b"ba"]),
    (b"*a", [b"a", b"ba", b"aa"], [b"ab"]),
    (b"*a*", [b"a", b"bab"], [b"b", b""]),
    (b"a*b*c", [b"abc", b"a-b-c", b"abbcc"], [b"ac", b"acb"]),
    (b"*ab*ab*", [b"abab", b"ab-ab"], [b"aba", b"ab"]),
    (b"ab*ba", [b"abba", b"ab-ba"], [b"aba"]),
    (b"\\*", [b"*"], [b"a", b"\\*"]),
    (b"\\", [b"\\"], [b""]),
    (b"a\\", [b"a\\"], [b"a"]),
    (b"\\a", [b"a"], [b"\\a"]),
    (b"[", [], [b"[", b""]),
    (b"[^", [b"a", b"["], [b"", b"ab"]),
    (b"[]", [], [b"]", b"[]", b""]),
    (b"[^]", [b"]", b"a"], [b"", b"^]"]),
    (b"[ab", [b"a", b"b"], [b"[ab", b"ab"]),
    (b"[ab*", [b"a", b"*"], [b"ax"]),
    (b"[a-]", [b"]", b"^", b"a"], [b"-", b"b"]),
    (b"[a-]]", [b"_", b"a", b"]"], [b"a]", b"-"]),
    (b"[-a]", [b"-", b"a"], [b"b"]),
    (b"[a\\-c]", [b"a", b"-", b"c"], [b"b", b"\\"]),
    (b"[\\]]", [b"]"], [b"\\"]),
    (b"[\\", [b"\\"], [b"["]),
    (b"[a^]", [b"a", b"^"], [b"b"]),
    (b"[[]", [b"["], [b"]"]),
    (b"[!a]", [b"!", b"a"], [b"b"]),
    (b"[\x80-\xff]", [b"\x80", b"\xff"], [b"a", b"\x00"]),
    (b"[a-\xff]", [b"\x00", b"a", b"\xff", b"A"], [b"b", b"\xfe", b"\x80"]),
    (b"?", [b"\n", b"\xff"], [b"", b"\r\n"]),
    (b"a]", [b"a]"], [b"a"]),
]


@pytest.mark.parametrize(("pattern", "matching", "others"), VECTORS)
def test_a_pattern_matches_what_redis_matches(pattern: bytes, matching: list[bytes], others: list[bytes]) -> None:
    matches = compiled(pattern)
    assert [text for text in matching if not matches(text)] == []
    assert [text for text in others if matches(text)] == []


def test_letters_match_in_either_case_where_that_is_asked_for() -> None:
    assert compiled(b"mAx[a-c]*", nocase=True)(b"MaxB-x")
    assert not compiled(b"max")(b"MAX")
    assert not compiled(b"[Z-a]", nocase=True)(b"z")
    assert not compiled(b"[@-_]", nocase=True)(b"A")


_LETTERS = st.sampled_from([b"a", b"b", b"ab", b"-"])
_TEXTS = st.lists(_LETTERS, max_size=8).map(b"".join)


@given(st.lists(_LETTERS | st.just(b"*") | st.just(b"?"), max_size=8), _TEXTS)
def test_stars_and_question_marks_agree_with_trying_everything(pattern: list[bytes], text: bytes) -> None:
    def matches(pattern: bytes, text: bytes) -> bool:
        if not pattern:
            return not text
        if pattern[:1] == b"*":
            return any(matches(pattern[1:], text[at:]) for at in range(len(text) + 1))
        return bool(text) and pattern[:1] in (b"?", text[:1]) and matches(pattern[1:], text[1:])

    whole = b"".join(pattern)
    assert compiled(whole)(text) == (matches(whole, text) and (bool(text) or not whole))


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_any_pattern_is_answered(pattern: bytes, text: bytes) -> None:
    assert compiled(pattern)(text) in (True, False)


@given(st.binary(min_size=1, max_size=12))
def test_an_escaped_text_matches_itself(text: bytes) -> None:
    pattern = b"".join(b"\\" + bytes([byte]) for byte in text)
    assert compiled(pattern)(text)
    assert compiled(b"*" + pattern)(b"x" + text)


@pytest.mark.parametrize("piece", [b"a*", b"*a?", b"[ab]*", b"?*"])
def test_a_hostile_pattern_takes_no_exponential_time(piece: bytes) -> None:
    matches = compiled(piece * 200 + b"x")
    began = time.perf_counter()
    assert not matches(b"a" * 2000)
    assert time.perf_counter() - began < 5.0


def test_a_pattern_is_no_longer_than_a_key() -> None:
    with pytest.raises(LimitExceeded, match="max-pattern-bytes"):
        compiled(b"a" * (limits.KEY_BYTES_MAX + 1))


# Each with what it is as a regular expression.
_ATOMS = {
    b"a": b"a",
    b"b": b"b",
    b"?": b".",
    b"[ab]": b"[ab]",
    b"[^a]": b"[^a]",
    b"[]": b"(?!)",
    b"[^]": b".",
    b"[b-y]": b"[b-y]",
    b"[\xf0-b]": b"[\xf0-\xff\x00-b]",
    b"[^ac-x\xff]": b"[^ac-x\xff]",
}
_RUNS = st.lists(st.sampled_from(list(_ATOMS)), min_size=1, max_size=12)
_LONG = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"ab", b"c\x00", b"\xff", b"az"]), st.integers(1, 300)), max_size=6
).map(lambda parts: b"".join(piece * times for piece, times in parts))


@given(st.lists(_RUNS, min_size=1, max_size=2), _LONG, st.booleans())
def test_runs_in_a_long_text_are_found_where_a_regular_expression_finds_them(
    runs: list[list[bytes]], text: bytes, ends: bool
) -> None:
    pattern = b"*" + b"*".join(map(b"".join, runs)) + (b"" if ends else b"*")
    # A run is looked for once and for all, as an atomic group is.
    groups = [b"(?>.*?%s)" % b"".join(_ATOMS[atom] for atom in run) for run in runs]
    if ends:
        groups[-1] = b".*" + groups[-1][6:-1]
    slow = re.compile(b"".join(groups) + (b"" if ends else b".*"), re.DOTALL)
    assert compiled(pattern)(text) == bool(text and slow.fullmatch(text))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (b"*" + b"?" * 8000 + b"b*", b"a" * 20_000),
        (b"*" + b"[ab]" * 8000 + b"b*", b"a" * 20_000),
        (b"a?*" * 5000 + b"[bc]*", b"a" * 20_000),
        (b"*" + b"".join(b"[^%c]" % byte for byte in range(1, 90)) + b"[bc]*", b"a" * 20_000),
    ],
)
def test_a_run_is_tried_at_few_places(pattern: bytes, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = taken = 0
    at, first = glob._Run.at, glob._Run._first

    def counted_at(run: glob._Run, text: bytes, place: int) -> bool:
        nonlocal tried
        tried += 1
        return at(run, text, place)

    def counted_first(run: glob._Run, text: bytes, places: int) -> int:
        nonlocal taken
        taken += len(text)
        return first(run, text, places)

    monkeypatch.setattr(glob._Run, "at", counted_at)
    monkeypatch.setattr(glob._Run, "_first", counted_first)
    assert not compiled(pattern)(text)
    assert tried <= 2 + 8 * pattern.count(b"*")
    assert taken <= 3 * len(text)


def test_a_class_that_comes_again_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = glob._class

    def counted(text: bytes, nocase: bool) -> bytes:
        made.append(text)
        return make(text, nocase)

    monkeypatch.setattr(glob, "_class", counted)
    compiled(b"[a-z]*[^a-]]*[" * 1000)
    assert len(made) == len(set(made)) <= 4
