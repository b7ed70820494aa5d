"""Ids of transactions, and what is remembered of how they ended (T9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.core.ids import ID_BYTES, begun_ms, make_id, read_id, shown_id
from keyhaus.store import outcomes as module
from keyhaus.store.outcomes import Outcomes

NUMBERS = st.binary(min_size=16, max_size=16)
TIMES = st.integers(0, (1 << 48) - 1)
SECRETS = st.binary(min_size=10, max_size=10)
LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


def number(begun: int, which: int = 0) -> bytes:
    return make_id(begun, which.to_bytes(10, "big"))


# ids


@given(TIMES, SECRETS)
def test_an_id_says_when_it_was_made(begun: int, secret: bytes) -> None:
    made = make_id(begun, secret)
    assert len(made) == ID_BYTES
    assert begun_ms(made) == begun
    assert made.endswith(secret)


@given(NUMBERS)
def test_what_is_shown_is_read_back(made: bytes) -> None:
    shown = shown_id(made)
    assert shown.startswith("tx-")
    assert len(shown) == 3 + 26
    assert set(shown[3:]) <= set(LETTERS)
    assert read_id(shown.encode()) == made


@given(NUMBERS, NUMBERS)
def test_the_text_is_ordered_as_the_times_are(one: bytes, other: bytes) -> None:
    assert (shown_id(one) < shown_id(other)) == (one < other)
    if begun_ms(one) < begun_ms(other):
        assert shown_id(one) < shown_id(other)


@given(st.text(LETTERS, min_size=26, max_size=26))
def test_every_text_of_the_form_is_one_number_or_none(letters: str) -> None:
    word = f"tx-{letters}"
    found = read_id(word.encode())
    if letters[0] <= "7":
        assert found is not None
        assert shown_id(found) == word
    else:
        assert found is None  # more than 128 bits


@given(st.binary(max_size=40))
def test_what_has_another_form_is_no_id(word: bytes) -> None:
    found = read_id(word)
    assert found is None or shown_id(found).encode() == word


SHORT, LONG = "tx-" + 25 * "0", "tx-" + 27 * "0"


@pytest.mark.parametrize(
    "word",
    ["", "tx-", SHORT, LONG, "TX-" + 26 * "0", "tx_" + 26 * "0", "tx-" + 26 * "A", 29 * "0"]
    + [SHORT + letter for letter in "ilou- ä"],
)
def test_these_are_no_ids(word: str) -> None:
    assert read_id(word.encode("latin-1")) is None


# ends


def test_ends_are_told() -> None:
    ends = Outcomes()
    committed, read, rolled_back = number(5, 1), number(5, 2), number(5, 3)
    ends.committed(committed, 17)
    ends.ended(read, 12)
    ends.ended(rolled_back)
    assert ends.of(committed) == 17
    assert ends.of(read) == 12
    assert ends.of(rolled_back) == "rolledback"
    assert ends.of(number(5, 4)) == "unknown"
    assert len(ends) == 3


def test_one_that_read_an_empty_store_was_committed_all_the_same() -> None:
    ends = Outcomes()
    ends.ended(number(5), 0)
    assert ends.of(number(5)) == 0


def test_what_began_long_ago_is_forgotten_and_expired() -> None:
    ends = Outcomes()
    for begun in (100, 200, 300):
        ends.committed(number(begun), begun)
    ends.forget(200)
    assert [ends.of(number(begun)) for begun in (100, 200, 300)] == ["expired", 200, 300]
    assert ends.of(number(50)) == "expired"  # not younger than one that was forgotten
    assert ends.of(number(100, 9)) == "expired"
    assert ends.of(number(101)) == "unknown"
    assert ends.forgotten_ms == 100


def test_an_older_one_that_ended_later_keeps_nobody_from_being_told() -> None:
    ends = Outcomes()
    ends.committed(number(300), 1)
    ends.committed(number(100), 2)
    ends.forget(200)
    assert ends.of(number(300)) == 1
    assert ends.of(number(100)) == 2  # behind one that is kept
    ends.forget(301)
    assert ends.of(number(300)) == ends.of(number(100)) == "expired"
    assert ends.forgotten_ms == 300


def test_there_are_so_many_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTCOMES_MAX", 3)
    ends = Outcomes()
    for begun in range(1, 6):
        if begun % 2:
            ends.committed(number(begun), begun)
        else:
            ends.ended(number(begun))
    assert len(ends) == 3
    assert [ends.of(number(begun)) for begun in range(1, 6)] == ["expired", "expired", 3, "rolledback", 5]


# beside the runs


def test_a_run_takes_commits_once() -> None:
    ends = Outcomes()
    ends.committed(number(1), 11)
    ends.ended(number(2))
    ends.committed(number(3), 13)
    assert ends.take() == [(number(1), 11), (number(3), 13)]
    assert ends.take() == []
    ends.committed(number(4), 14)
    assert ends.take() == [(number(4), 14)]


def test_a_run_deletes_what_the_base_has_and_is_forgotten() -> None:
    ends = Outcomes()
    ends.committed(number(1), 11)
    ends.committed(number(2), 12)
    ends.take()
    ends.committed(number(3), 13)
    ends.forget(2)
    assert ends.take() == [(number(1), None), (number(3), 13)]
    assert ends.take() == []


def test_what_is_forgotten_before_any_run_is_in_none() -> None:
    ends = Outcomes()
    ends.committed(number(1), 11)
    ends.ended(number(1, 1))
    ends.forget(2)
    assert ends.take() == []
    assert ends.forgotten_ms == 1


def test_what_the_base_has_is_known_again() -> None:
    ends = Outcomes()
    ends.load([(number(8), 22), (number(9), 21)], 7)
    assert ends.of(number(8)) == 22
    assert ends.of(number(7)) == "expired"
    assert ends.of(number(10)) == "unknown"
    assert ends.take() == []
    ends.committed(number(9), 21)  # the journal's end, which the base covers too, or nearly
    ends.forget(10)
    assert sorted(ends.take()) == [(number(8), None), (number(9), None)]
    assert ends.of(number(9)) == "expired"


@given(st.data())
def test_two_lives_tell_the_same_of_commits(data: st.DataObject) -> None:
    """Whatever is committed, forgotten and flushed in between: a restart from the rows knows what was known."""
    ends, begun, seqno = Outcomes(), 1, 0
    rows: dict[bytes, int] = {}
    for step in data.draw(st.lists(st.sampled_from(["commit", "roll back", "run", "forget"]), max_size=30)):
        begun += data.draw(st.integers(0, 3))
        seqno += 1
        if step == "commit":
            ends.committed(number(begun, seqno), seqno)
        elif step == "roll back":
            ends.ended(number(begun, seqno))
        elif step == "forget":
            ends.forget(begun - 3)
        else:
            for made, end in ends.take():
                if end is None:
                    del rows[made]
                else:
                    rows[made] = end
    for made, end in ends.take():
        if end is None:
            del rows[made]
        else:
            rows[made] = end
    again = Outcomes()
    again.load(list(rows.items()), ends.forgotten_ms)
    for which in range(seqno + 1):
        for time in range(begun + 1):
            asked = number(time, which)
            before = ends.of(asked)
            assert again.of(asked) == ("unknown" if before == "rolledback" else before) or (
                before == "rolledback" and again.of(asked) == "expired"
            )
