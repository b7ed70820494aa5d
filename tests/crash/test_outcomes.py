"""T9: what became of a transaction is known after a restart, whatever was flushed, and what is forgotten stays so."""

from __future__ import annotations

import pytest

from keyhaus.core import limits
from keyhaus.store.lock_requests import Client
from tests.support.based import BasedStore

KEPT_MS = limits.OUTCOME_KEPT_MS + limits.TRANSACTION_AGE_MS


def commit(based: BasedStore, key: bytes) -> tuple[bytes, int]:
    """A transaction that writes a key: its id and its commit's seqno, synced."""
    transaction = based.store.transactions.begin("pessimistic", 0, Client())
    transaction.put(key, b"value")
    assert transaction.commit() is None
    seqno = based.store.transactions.committed(transaction)
    based.synced()
    return transaction.number, seqno


@pytest.fixture
def based(seed: int) -> BasedStore:
    return BasedStore(seed)


@pytest.mark.parametrize("flushes", [0, 1, 2])
@pytest.mark.parametrize("ends", ["kill", "power_cut", "stop"])
def test_a_commit_is_known_after_a_restart(based: BasedStore, flushes: int, ends: str) -> None:
    first, second = commit(based, b"a"), None
    for _ in range(flushes):
        based.flush()
        second = commit(based, b"b")
    getattr(based, ends)()
    if ends == "stop":
        based.start()
    assert based.store.transactions.status(first[0]) == first[1]
    if second is not None:
        assert based.store.transactions.status(second[0]) == second[1]


def test_what_was_open_or_rolled_back_is_unknown_after_a_restart(based: BasedStore) -> None:
    transactions = based.store.transactions
    left, given_up = (transactions.begin("pessimistic", 0, Client()) for _ in range(2))
    for transaction in (left, given_up):
        transaction.put(b"k%d" % transaction.ordinal, b"value")
    transactions.end(given_up)
    assert transactions.status(left.number) == "open"
    assert transactions.status(given_up.number) == "rolledback"
    based.power_cut()
    assert based.store.transactions.status(left.number) == "unknown"
    assert based.store.transactions.status(given_up.number) == "unknown"
    assert based.rows() == {}


def test_an_outcome_that_a_power_cut_took_back_is_unknown(based: BasedStore) -> None:
    transaction = based.store.transactions.begin("pessimistic", 0, Client())
    transaction.put(b"k", b"value")
    assert transaction.commit() is None
    based.store.transactions.committed(transaction)
    based.power_cut()  # nothing was written yet
    assert based.store.transactions.status(transaction.number) == "unknown"
    assert based.rows() == {}


@pytest.mark.parametrize("flushed", [False, True])
def test_what_is_forgotten_is_expired_and_stays_so(based: BasedStore, flushed: bool) -> None:
    old = commit(based, b"a")
    if flushed:
        based.flush()
    based.clock.ms += KEPT_MS + 1
    new = commit(based, b"b")
    transactions = based.store.transactions
    assert transactions.status(old[0]) == "expired"
    assert transactions.status(new[0]) == new[1]
    based.flush()
    assert not [row for row in based.base_rows() if row.startswith(b"\x03" + old[0])]
    based.power_cut()
    assert based.store.transactions.status(old[0]) == "expired"
    assert based.store.transactions.status(new[0]) == new[1]


def test_no_more_than_the_bound_are_kept(based: BasedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyhaus.store.outcomes.OUTCOMES_MAX", 5)
    ended = []
    for number in range(8):
        based.clock.ms += 1
        ended.append(commit(based, b"k%d" % number))
        if number == 3:
            based.flush()
    told = [based.store.transactions.status(number) for number, _ in ended]
    assert told == ["expired"] * 3 + [seqno for _, seqno in ended[3:]]
    based.flush()
    based.power_cut()
    assert [based.store.transactions.status(number) for number, _ in ended] == told
