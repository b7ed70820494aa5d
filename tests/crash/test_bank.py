"""A bank: money moves between accounts while readers count all of it, and the server is killed again and again.

Transfers go through transactions of both writing modes and through WATCH, MULTI and EXEC; readers scan all accounts at
once, by RANGE in a transaction of every mode and by a plain RANGE. The sum never differs. After each kill every
transfer that was acknowledged has happened, and of the others TRANSACTION STATUS tells which have: each transfer writes
a key of its own beside the accounts.

`KEYHAUS_CRASH_CYCLES` is how many kills, `KEYHAUS_SEED` repeats the choices.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.processes import HOST, keyhaus_server
from tests.support.wire import Wire, parsed

CYCLES: Final = int(os.environ.get("KEYHAUS_CRASH_CYCLES", "3"))
ACCOUNTS: Final = 20
OPENING: Final = 100
CLIENTS: Final = 4
TRANSFERS: Final = 60  # acknowledged ones before a kill
FLUSHING: Final = ("--set", "memtable-size=300", "--set", "memtable-bytes=1mb", "--set", "cache-bytes=20kb")
MODES: Final = (b"PESSIMISTIC", b"OPTIMISTIC")
RETRYABLE: Final = (b"CONFLICT", b"DEADLOCK", b"LOCKTIMEOUT", b"TXTIMEOUT", b"SNAPSHOTTOOOLD")


class Refused(Exception):
    """An error of the server's; its code."""


class Teller(threading.Thread):
    """One client.

    Attributes:
        acknowledged: The keys of transfers that were acknowledged.
        open: Ids of transactions whose COMMIT was sent and not answered, with the key of their transfer.
        unknown: Keys of EXECs that were not answered.
    """

    def __init__(self, bank: Bank, port: int, number: int) -> None:
        super().__init__(daemon=True)
        self.bank, self.number = bank, number
        self.random = random.Random(bank.random.getrandbits(64))
        self.wire = Wire(HOST, port)
        self.acknowledged: list[bytes] = []
        self.open: list[tuple[bytes, bytes]] = []
        self.unknown: list[bytes] = []
        self.counts: Counter[str] = Counter()
        self.failure: BaseException | None = None

    def ask(self, *words: bytes) -> Any:
        reply = self.wire.call(*words)
        if reply.startswith(b"-"):
            raise Refused(reply[1:].split()[0].decode())
        return parsed(reply)[0].plain()

    def run(self) -> None:
        try:
            while not self.bank.over.is_set():
                self.one()
        except (EOFError, OSError):
            pass  # the server was killed
        except BaseException as failure:
            self.failure = failure
            self.bank.over.set()
        finally:
            self.wire.close()

    def one(self) -> None:
        choice = self.random.random()
        try:
            if choice < 0.3:
                self.count_all()
            elif choice < 0.45:
                self.exchange()
            else:
                self.transfer(self.random.choice(MODES))
        except Refused as refused:
            if refused.args[0].encode() not in RETRYABLE:
                raise
            self.counts[refused.args[0]] += 1
            with contextlib.suppress(Refused):
                self.ask(b"ROLLBACK")  # where it was no COMMIT that failed, the client has to take note of it

    def count_all(self) -> None:
        """Readers see all the money there is, whatever goes on."""
        mode = self.random.choice((b"READONLY", b"PESSIMISTIC", b"OPTIMISTIC", b""))
        if mode:
            self.ask(b"BEGIN", mode)
        rows = self.ask(b"RANGE", b"account:", b"account;")[1]
        if mode:
            self.ask(b"COMMIT")
        balances = list(map(int, rows[1::2]))
        assert sum(balances) == ACCOUNTS * OPENING, f"a {mode!r} reader counted {sum(balances)}: {balances}"
        self.counts["counted"] += 1

    def _parties(self) -> tuple[bytes, bytes, bytes, int]:
        one, other = self.random.sample(range(ACCOUNTS), 2)
        self.bank.transfers += 1
        key = b"transfer:%d:%d:%d" % (self.bank.cycle, self.number, self.random.getrandbits(60))
        return b"account:%02d" % one, b"account:%02d" % other, key, self.random.randint(1, 10)

    def transfer(self, mode: bytes) -> None:
        one, other, key, amount = self._parties()
        number = self.ask(b"BEGIN", mode)
        if self.random.random() < 0.3 and mode == b"PESSIMISTIC":
            self.ask(b"LOCK", *sorted((one, other)))
        have, had = int(self.ask(b"GET", one)), int(self.ask(b"GET", other))
        if have < amount:
            self.ask(b"ROLLBACK")
            return
        self.ask(b"SET", one, b"%d" % (have - amount))
        self.ask(b"SET", other, b"%d" % (had + amount))
        self.ask(b"SET", key, b"%d" % amount)
        self.open.append((number, key))
        try:
            self.ask(b"COMMIT", number)
        except Refused:
            self.open.pop()
            raise
        self.open.pop()
        self._done(key)

    def exchange(self) -> None:
        """The same with Redis' own means."""
        one, other, key, amount = self._parties()
        self.ask(b"WATCH", one, other)
        have, had = (int(balance) for balance in self.ask(b"MGET", one, other))
        if have < amount:
            self.ask(b"UNWATCH")
            return
        self.ask(b"MULTI")
        for name, value in ((one, have - amount), (other, had + amount), (key, amount)):
            self.ask(b"SET", name, b"%d" % value)
        self.unknown.append(key)
        done = self.ask(b"EXEC")
        self.unknown.pop()
        if done is not None:
            self._done(key)

    def _done(self, key: bytes) -> None:
        self.acknowledged.append(key)
        self.bank.note()


class Bank:
    """A directory with a server that is killed again and again."""

    def __init__(self, directory: Path, generator: random.Random, *options: str) -> None:
        self.directory, self.random = directory, generator
        self.options = ("--data-dir", str(directory / "data"), "--log-level", "error", *options)
        self.over = threading.Event()
        self.cycle = self.transfers = self._left = 0
        self._lock = threading.Lock()
        self.acknowledged: list[bytes] = []
        self.resolved: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def note(self) -> None:
        with self._lock:
            self._left -= 1
            if not self._left:
                self.over.set()

    def run(self, cycles: int) -> None:
        tellers: list[Teller] = []
        for cycle in range(cycles + 1):
            self.cycle = cycle
            with keyhaus_server(self.directory, *self.options) as server:
                with Wire(HOST, server.port) as wire:
                    if not cycle:
                        accounts = [b"account:%02d" % number for number in range(ACCOUNTS)]
                        wire.call(b"MSET", *(word for name in accounts for word in (name, b"%d" % OPENING)))
                    self.check(wire, tellers)
                if cycle == cycles:
                    return
                self._left = self.random.randint(1, 2 * TRANSFERS)
                self.over.clear()
                tellers = [Teller(self, server.port, number) for number in range(CLIENTS)]
                for teller in tellers:
                    teller.start()
                assert self.over.wait(120), "the transfers do not come on"
                server.kill()
                for teller in tellers:
                    teller.join(30)
                    assert not teller.is_alive()
                    if teller.failure is not None:
                        raise teller.failure
                    self.acknowledged += teller.acknowledged
                    self.counts.update(teller.counts)

    def check(self, wire: Wire, tellers: list[Teller]) -> None:
        """After a kill: no money is lost, nor any acknowledged transfer; and what is told of the others is true."""
        rows = parsed(wire.call(b"RANGE", b"account:", b"account;"))[0].plain()[1]
        assert sum(map(int, rows[1::2])) == ACCOUNTS * OPENING
        for key in self.acknowledged:
            assert parsed(wire.call(b"EXISTS", key))[0].plain() == 1, f"the transfer {key!r} was acknowledged"
        for teller in tellers:
            for number, key in teller.open:
                there = parsed(wire.call(b"EXISTS", key))[0].plain()
                state = parsed(wire.call(b"TRANSACTION", b"KILL", number))[0].plain()
                told = "committed" if isinstance(state, list) else state.decode()
                assert (told == "committed") == bool(there), f"{number!r} is {state!r}, and its transfer is {there}"
                assert told in ("committed", "unknown"), told
                self.resolved[told] += 1


@pytest.mark.parametrize("options", [(), FLUSHING], ids=["journal", "across flushes"])
def test_the_sum_never_differs(
    options: tuple[str, ...], tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = Bank(tmp_path, random.Random(seed), *options)
    bank.run(CYCLES)
    with capsys.disabled():
        print(
            f"\nbank: {CYCLES} kills, {len(bank.acknowledged)} transfers acknowledged, {bank.transfers} tried, "
            f"unanswered COMMITs: {dict(bank.resolved)}, {dict(bank.counts)} (seed {seed})"
        )
    assert bank.counts["counted"] > 0
