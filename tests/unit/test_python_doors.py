"""What the Python doors have in common without any of them open: signatures, and what is made of arguments."""

from __future__ import annotations

import inspect
import math
import re
from datetime import timedelta
from typing import Any

import pytest

import keyhaus
from keyhaus.core.access import words
from keyhaus.core.access.words import Seconds, Word
from keyhaus.embedded.transactions import Transaction as EmbeddedTransaction

DOORS = (keyhaus.Client, keyhaus.AsyncClient, keyhaus.Database)
TRANSACTIONS = (keyhaus.Transaction, keyhaus.AsyncTransaction, EmbeddedTransaction)


def _alike(annotation: object) -> str:
    """An annotation without what is another word on the asynchronous side, or another name of a type variable."""
    text = re.sub(r"\bAsync(?=[A-Z])", "", str(annotation))
    return re.sub(r"\b_Result\b", "T", re.sub(r"\bAwaitable\[(\w+)\]", r"\1", text))


def _methods(kind: type) -> dict[str, list[tuple[Any, ...]]]:
    """The public methods of a class: each parameter's name, kind, default and type, and the type of the result."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for name, method in inspect.getmembers(kind, callable):
        if name.startswith("_") and name not in ("__enter__", "__aenter__"):
            continue
        signature = inspect.signature(method)
        told: list[tuple[Any, ...]] = [
            (parameter.name, parameter.kind, parameter.default, _alike(parameter.annotation))
            for parameter in signature.parameters.values()
        ]
        found[name.replace("__a", "__")] = [*told, (_alike(signature.return_annotation),)]
    return found


@pytest.mark.parametrize("kinds", [DOORS, TRANSACTIONS], ids=["doors", "transactions"])
def test_all_doors_have_the_same_methods(kinds: tuple[type, ...]) -> None:
    first, *others = ({**_methods(kind)} for kind in kinds)
    for kind, other in zip(kinds[1:], others, strict=True):
        missing = {"as_mapping"} if kind is keyhaus.AsyncClient else set()  # no mapping can be waited for
        assert first.keys() - other.keys() == missing and other.keys() <= first.keys(), kind
        for name in other.keys() - {"__enter__"}:
            assert other[name] == first[name], (kind, name)


def test_transactions_have_what_reads_and_writes_data_and_how_they_end() -> None:
    door, transaction = _methods(keyhaus.Client), _methods(keyhaus.Transaction)
    assert transaction.keys() - door.keys() == {"lock", "commit", "rollback"}
    own = {"as_mapping", "changes", "close", "kill", "position", "run", "sync", "transaction"}
    assert door.keys() - transaction.keys() == own
    for name in (door.keys() & transaction.keys()) - {"__enter__"}:
        assert door[name] == transaction[name], name


@pytest.mark.parametrize("kind", [*DOORS, *TRANSACTIONS], ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_each_public_method_says_what_it_does(kind: type) -> None:
    for name, method in inspect.getmembers(kind, callable):
        if not name.startswith("_"):
            assert inspect.getdoc(method), name


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (b"\xff", b"\xff"),
        ("é", b"\xc3\xa9"),
        (-12, b"-12"),
        (0.1, b"0.1"),
        (bytearray(b"x"), b"x"),
        (memoryview(b"y"), b"y"),
    ],
)
def test_a_word_has_bytes(word: Word, told: bytes) -> None:
    assert words.encode(word) == told


@pytest.mark.parametrize("word", [True, None, ["x"], 1j, object()])
def test_what_has_no_bytes_of_its_own_is_refused(word: Any) -> None:
    with pytest.raises(TypeError, match=f"not {type(word).__name__}"):
        words.encode(word)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(1, 1000), (0.07, 70), (0.0001, 1), (1.0001, 1001), (timedelta(minutes=2), 120_000), (0, 0), (-0.5, -500)],
)
def test_a_time_is_in_milliseconds_rounded_up(seconds: Seconds, told: int) -> None:
    assert words.milliseconds(seconds) == told
    assert words.expiry(seconds) == [b"PX", b"%d" % told]


@pytest.mark.parametrize("seconds", [True, "1", None, b"1"])
def test_a_time_is_a_number_or_a_timedelta(seconds: Any) -> None:
    with pytest.raises(TypeError, match="a time is a number of seconds or a timedelta"):
        words.milliseconds(seconds)


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan])
def test_a_time_is_finite(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        words.milliseconds(seconds)


def test_two_times_to_live_are_one_too_many() -> None:
    with pytest.raises(TypeError, match="not as both"):
        words.expiry(1, 1000)
    assert words.expiry(None) == [] and words.expiry(None, 5) == [b"PX", b"5"]


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        (b"", b""),
        (b"a", b"b"),
        (b"a\xff", b"b"),
        (b"a\xff\xff", b"b"),
        (b"\xff", b""),
        (b"\xff\xff", b""),
        (b"\0", b"\x01"),
    ],
)
def test_a_prefix_ends_before_the_next_one(prefix: bytes, end: bytes) -> None:
    assert words.prefix_end(prefix) == end
    assert words.bounds(b"", b"", prefix) == (prefix, end)


def test_a_range_has_bounds_or_a_prefix() -> None:
    assert words.bounds("a", 5, None) == (b"a", b"5")
    for start, end in (("a", b""), (b"", "b")):
        with pytest.raises(TypeError, match="not both"):
            words.bounds(start, end, "p")


def test_begin_has_its_options() -> None:
    assert words.begin_words("readonly", None, None) == [b"BEGIN", b"readonly"]
    full = [b"BEGIN", b"optimistic", b"DURABILITY", b"none", b"TIMEOUT", b"5"]
    assert words.begin_words("optimistic", "none", 5) == full
    with pytest.raises(keyhaus.UserError, match="mode is pessimistic"):
        words.begin_words("hopeful", None, None)  # type: ignore[arg-type]
