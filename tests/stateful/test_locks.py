"""The lock table against a plain model: sets of cells, a list of those who wait, and a graph that is searched whole.

A cell is a key or the room behind it up to the next one, of the few keys that are bounds of ranges too; so a lock on a
key is one cell, a range is several, and the mapping entry is a cell of its own. After each step, whatever it was:

    no two owners hold a cell that they can't share
    whoever waits has somebody in the way, and nobody was let in before an earlier one whom he is in the way of
    nobody waits for himself, round whatever corners: by holders (then somebody died) or by places (somebody overtook)

Whoever died was the youngest of a circle of holders, and nobody died without one; whoever overtook was on a circle.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keyhaus.core.errors import Deadlock, LockTimeout, UnknownTransaction
from keyhaus.core.wait import Wait
from keyhaus.store.lock_requests import Client, Owner, Request
from keyhaus.store.locks import CYCLE_SHOWN, Locks

KEYS: Final = (b"", b"a", b"a\0", b"b")  # few, so that requests meet
CLIENTS: Final = 6
ENDS: Final = ("ends", "ends", "is told why", "lets go", "goes")
HISTORIES: Final = int(os.environ.get("KEYHAUS_HISTORIES", "600")) // 20
STEPS: Final = 200
Cell = tuple[int, int]  # the database; the place of the key, -1 for the mapping entry

_CLIENTS = st.integers(0, CLIENTS - 1)
_DATABASES = st.sampled_from([0, 0, 0, 0, 0, 1])
_PLACES = st.integers(-1, len(KEYS) - 1)
_BOUNDS = st.tuples(st.integers(0, len(KEYS) - 1), st.integers(1, len(KEYS))).filter(
    lambda bounds: bounds[0] < bounds[1]
)


class Held:
    """What an owner holds: cells by keys, and by ranges."""

    def __init__(self) -> None:
        self.keys: dict[Cell, bool] = {}
        self.ranges: dict[bool, set[Cell]] = {False: set(), True: set()}

    def __bool__(self) -> bool:
        return bool(self.keys or self.ranges[False] or self.ranges[True])

    def covers(self, wanted: Wanted) -> bool:
        """Whether it asks for nothing new."""
        if wanted.key:
            (cell,) = wanted.cells
            if cell in self.keys and self.keys[cell] >= wanted.exclusive:
                return True
        return any(wanted.cells <= self.ranges[exclusive] for exclusive in {wanted.exclusive, True})

    def add(self, wanted: Wanted) -> None:
        if wanted.key:
            (cell,) = wanted.cells
            self.keys[cell] = wanted.exclusive
        else:
            self.ranges[wanted.exclusive] |= wanted.cells

    def clashes(self, wanted: Wanted) -> bool:
        for cell in wanted.cells:
            if cell in self.ranges[True] or self.keys.get(cell):
                return True
            if wanted.exclusive and (cell in self.ranges[False] or cell in self.keys):
                return True
        return False


class Wanted:
    """A lock that is asked for, and who waits for it."""

    def __init__(self, owner: Owner, cells: set[Cell], exclusive: bool, *, key: bool) -> None:
        self.owner, self.cells, self.exclusive, self.key = owner, cells, exclusive, key
        self.wait: Wait | None = None
        self.request: Request | None = None
        self.overtook = False

    def clashes(self, other: Wanted) -> bool:
        return (
            self.owner is not other.owner
            and (self.exclusive or other.exclusive)
            and not self.cells.isdisjoint(other.cells)
        )


class Model:
    """Who holds what, and who waits in what order."""

    def __init__(self) -> None:
        self.held: dict[Owner, Held] = {}
        self.waiting: list[Wanted] = []

    def holders(self, wanted: Wanted) -> list[Owner]:
        return [owner for owner, held in self.held.items() if owner is not wanted.owner and held.clashes(wanted)]

    def ahead(self, wanted: Wanted) -> list[Wanted]:
        if wanted.overtook:
            return []
        before = self.waiting[: self.waiting.index(wanted)] if wanted in self.waiting else self.waiting
        return [other for other in before if other.clashes(wanted)]

    def of(self, client: Client) -> Wanted | None:
        return next((wanted for wanted in self.waiting if wanted.owner.client is client), None)

    def circles(self, client: Client, *, places: bool) -> Iterator[list[Owner]]:
        """All circles of waits through a client: the owners on each; with the waits for a place, or without."""

        def walk(at: Client, members: list[Owner], seen: set[Client]) -> Iterator[list[Owner]]:
            wanted = self.of(at)
            if wanted is None:
                return
            edges = self.holders(wanted)
            if places:
                edges += [other.owner for other in self.ahead(wanted)]
            for owner in edges:
                if owner.client is client:
                    yield [*members, wanted.owner, owner]
                elif owner.client not in seen:
                    yield from walk(owner.client, [*members, wanted.owner, owner], {*seen, owner.client})

        yield from walk(client, [], {client})


class LockModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.locks = Locks()
        self.model = Model()
        self.clients = [Client() for _ in range(CLIENTS)]
        self.owners: dict[Client, list[Owner]] = {client: [] for client in self.clients}
        self.victims: list[Owner] = []
        self.number = 0

    @initialize(timeout_ms=st.sampled_from([0, 1000]))
    def choose(self, timeout_ms: int) -> None:
        self.locks.timeout_ms = timeout_ms

    # who asks

    def _owner(self, which: int, choice: int, *, plain: bool = False) -> Owner:
        """One of a client's owners, or a new one."""
        client = self.clients[which]
        mine = [owner for owner in self.owners[client] if owner.plain is plain]
        if mine and choice < 3:
            return mine[choice % len(mine)]
        self.number += 1
        owner = Owner(client, 0 if plain else self.number, f"{'plain' if plain else 'tx'}-{self.number}")
        owner.on_victim = lambda error: self.victims.append(owner)
        self.owners[client].append(owner)
        self.model.held[owner] = Held()
        return owner

    def _ready(self, which: int) -> int:
        """A client that waits for nothing; there is one, since nobody waits for himself."""
        ready = [number for number, client in enumerate(self.clients) if self.model.of(client) is None]
        return ready[which % len(ready)]

    @rule(which=_CLIENTS, choice=st.integers(0, 3), database=_DATABASES, place=_PLACES, exclusive=st.booleans())
    def a_transaction_asks_for_a_key(self, which: int, choice: int, database: int, place: int, exclusive: bool) -> None:
        self._ask_key(self._owner(self._ready(which), choice), database, place, exclusive)

    @rule(which=_CLIENTS, choice=st.integers(0, 3), database=_DATABASES, bounds=_BOUNDS, exclusive=st.booleans())
    def a_transaction_asks_for_a_range(
        self, which: int, choice: int, database: int, bounds: tuple[int, int], exclusive: bool
    ) -> None:
        owner, (first, behind) = self._owner(self._ready(which), choice), bounds
        wanted = Wanted(owner, {(database, place) for place in range(first, behind)}, exclusive, key=False)
        end = KEYS[behind] if behind < len(KEYS) else None
        asked = (owner, database, KEYS[first], end, exclusive)
        self._ask(wanted, self.locks.take_range(*asked), lambda: self.locks.wait_for_range(*asked))

    @rule(which=_CLIENTS, database=_DATABASES, place=_PLACES)
    def a_plain_command_asks_for_its_next_key(self, which: int, database: int, place: int) -> None:
        """As store/turns.py does: in order, so that plain commands alone are on no circle."""
        owner = self._owner(self._ready(which), 0, plain=True)
        if all(cell < (database, place) for cell in self.model.held[owner].keys):
            self._ask_key(owner, database, place, place >= 0)

    def _ask_key(self, owner: Owner, database: int, place: int, exclusive: bool) -> None:
        key = KEYS[place] if place >= 0 else None
        wanted = Wanted(owner, {(database, place)}, exclusive, key=True)
        asked = (owner, database, key, exclusive)
        if key is not None or not exclusive:
            free = not self.model.holders(wanted)
            assert self.locks.free_for(*asked) is free
        self._ask(wanted, self.locks.take_key(*asked), lambda: self.locks.wait_for_key(*asked))

    # what comes of it

    def _ask(self, wanted: Wanted, taken: bool, wait_for: Any) -> None:
        model = self.model
        covered = model.held[wanted.owner].covers(wanted)
        assert taken is (covered or not (model.holders(wanted) or model.ahead(wanted)))
        if taken:
            if not covered:
                model.held[wanted.owner].add(wanted)
            return
        client = wanted.owner.client
        model.waiting.append(wanted)
        own = any(holder.client is client for holder in model.holders(wanted))
        circles = list(model.circles(client, places=False))
        around = {owner.client for circle in model.circles(client, places=True) for owner in circle}
        self.victims.clear()
        try:
            wanted.wait = wait_for()
            wanted.request = client.waiting
            assert not own, "it waits for another owner of its own client"
        except Deadlock:
            assert own
            model.waiting.remove(wanted)
        youngest = [max(circle, key=lambda owner: owner.begun) for circle in circles]
        for victim in self.victims:
            assert victim in youngest, "it died without being the youngest of a circle"
            self._gone(victim, Deadlock)
        for other in model.waiting:
            if other.request is not None and other.request.overtakes and not other.overtook:
                assert other.owner.client in around, "it overtook without being on a circle"
                other.overtook = True
        if wanted in model.waiting and wanted.request is None:
            wanted.overtook = client in around  # it was let in at once
        self._settle()

    def _gone(self, owner: Owner, error: type[Exception] | None = None) -> None:
        """An owner has ended, by whatever."""
        for wanted in list(self.model.waiting):
            if wanted.owner is owner:
                assert wanted.wait is not None
                assert wanted.wait.fired
                assert error is None or isinstance(wanted.wait.error, error)
                self.model.waiting.remove(wanted)
        del self.model.held[owner]
        self.owners[owner.client].remove(owner)

    def _settle(self) -> None:
        """Enters who was let in; nobody passed an earlier one."""
        model = self.model
        let_in = [wanted for wanted in model.waiting if wanted.wait is not None and wanted.wait.fired]
        ahead = {wanted: model.ahead(wanted) for wanted in let_in}
        for wanted in let_in:
            assert wanted.wait is not None
            assert wanted.wait.error is None
            model.waiting.remove(wanted)
            model.held[wanted.owner].add(wanted)
        for wanted in let_in:
            assert not [other for other in ahead[wanted] if other in model.waiting], "it was let in before its time"

    # ends

    @rule(
        which=_CLIENTS,
        choice=st.integers(0, 2),
        how=st.sampled_from(ENDS),
    )
    def an_owner_ends(self, which: int, choice: int, how: str) -> None:
        mine = self.owners[self.clients[which]]
        ending = mine if how == "goes" else mine[choice : choice + 1]
        for owner in list(ending):
            if how == "lets go":
                if self.model.of(owner.client) is None:
                    self.locks.release(owner)
                    self.model.held[owner] = Held()
            elif how == "is told why":
                self.locks.end(owner, UnknownTransaction("it has ended"))
                self._gone(owner, UnknownTransaction)
            else:
                self.locks.end(owner)
                self._gone(owner)
            self._settle()

    @precondition(lambda self: self.model.waiting)
    @rule(which=st.integers(0, CLIENTS))
    def a_wait_takes_too_long(self, which: int) -> None:
        """It holds what it held, and waits no more; its transaction may still end of it."""
        wanted = self.model.waiting[which % len(self.model.waiting)]
        assert wanted.wait is not None
        assert wanted.wait.late is not None
        assert wanted.wait.timeout_ms == (self.locks.timeout_ms or None)
        assert isinstance(wanted.wait.late(), LockTimeout)
        self.model.waiting.remove(wanted)
        self._settle()

    # always

    @invariant()
    def no_two_hold_what_they_can_not_share(self) -> None:
        cells: dict[Cell, dict[Owner, bool]] = {}
        for owner, held in self.model.held.items():
            for cell, exclusive in held.keys.items():
                cells.setdefault(cell, {})[owner] = exclusive
            for exclusive, ranged in held.ranges.items():
                for cell in ranged:
                    holders = cells.setdefault(cell, {})
                    holders[owner] = holders.get(owner, False) or exclusive
        for holders in cells.values():
            assert len(holders) == 1 or not any(holders.values())

    @invariant()
    def whoever_waits_has_somebody_in_the_way(self) -> None:
        for wanted in self.model.waiting:
            assert wanted.wait is not None
            assert not wanted.wait.fired
            assert wanted.owner.client.waiting is wanted.request
            assert self.model.holders(wanted) or self.model.ahead(wanted), "it could be let in"
            names = {owner.name for owner in self.model.holders(wanted)}
            told = self.locks.waits_for(wanted.owner)
            assert names <= set(told) if len(told) < CYCLE_SHOWN else len(told) == CYCLE_SHOWN

    @invariant()
    def nobody_waits_for_himself(self) -> None:
        for client in self.clients:
            assert not next(self.model.circles(client, places=True), None)

    @invariant()
    def the_table_holds_what_the_model_holds(self) -> None:
        for owner, held in self.model.held.items():
            assert {(database, _place(key)): kind for (database, key), kind in owner.keys.items()} == held.keys
            for exclusive, cells in held.ranges.items():
                spans = [span for span in owner.ranges if span.exclusive is exclusive]
                found = [
                    (span.database, place)
                    for span in spans
                    for place in range(_place(span.start), len(KEYS) if span.end is None else _place(span.end))
                ]
                assert len(found) == len(set(found)), "ranges that touch are one"
                assert set(found) == cells
                edges = {(span.database, span.start) for span in spans} & {(span.database, span.end) for span in spans}
                assert not edges, "ranges that touch are one"
        assert self.locks.active == sum(map(bool, self.model.held.values()))
        assert self.locks.waiting == len(self.model.waiting)
        for client in self.clients:
            holding = {owner for owner in self.owners[client] if self.model.held[owner]}
            assert set(client.owners) == holding
            assert (client.waiting is None) == (self.model.of(client) is None)

    @invariant()
    def it_says_what_is_locked(self) -> None:
        held = list(self.model.held.values())
        for database in (0, 1):
            for place, key in enumerate(KEYS):
                cell = database, place
                locked = any(cell in one.keys or cell in one.ranges[False] | one.ranges[True] for one in held)
                assert self.locks.locked(database, key) is locked

    def teardown(self) -> None:
        """Once all have gone nothing is left, whatever the order."""
        owners = [owner for mine in self.owners.values() for owner in mine]
        random.Random(self.number).shuffle(owners)
        for owner in owners:
            self.locks.end(owner)
        assert self.locks.active == self.locks.waiting == 0
        for database in self.locks._databases.values():
            assert not (database.holders or database.ranges or database.exclusive_ranges or database.keys)
            assert not (database.queues or database.range_queue)


def _place(key: bytes | None) -> int:
    return -1 if key is None else KEYS.index(key)


TestLockModel: Any = LockModel.TestCase


def test_long_random_histories(seed: int) -> None:
    """The same steps without looking for a short example, and so many more of them."""
    for history in range(HISTORIES):
        draw = random.Random(seed + history)
        model = LockModel()
        model.choose(1000)
        busy = draw.choice((2, 5, 12))  # how many requests come to one end
        for step in range(STEPS):
            _step(model, draw, busy)
            try:
                model.no_two_hold_what_they_can_not_share()
                model.whoever_waits_has_somebody_in_the_way()
                model.nobody_waits_for_himself()
                if step % 20 == 0:
                    model.the_table_holds_what_the_model_holds()
                    model.it_says_what_is_locked()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, history {history}, step {step}: {error}") from error
        model.teardown()


def _step(model: LockModel, draw: random.Random, busy: int) -> None:
    which, choice, database = draw.randrange(CLIENTS), draw.randrange(4), int(draw.random() < 0.1)
    exclusive = draw.random() < 0.4
    match draw.randrange(busy + 1):
        case 0 if model.model.waiting and choice == 0:
            model.a_wait_takes_too_long(which)
        case 0:
            model.an_owner_ends(which, choice % 3, draw.choice(ENDS))
        case number if number % 4 == 1:
            first, behind = sorted(draw.sample(range(len(KEYS) + 1), 2))
            model.a_transaction_asks_for_a_range(which, choice, database, (first, behind), exclusive)
        case number if number % 4 == 3:
            model.a_plain_command_asks_for_its_next_key(which, database, draw.randrange(-1, len(KEYS)))
        case _:
            model.a_transaction_asks_for_a_key(which, choice, database, draw.randrange(-1, len(KEYS)), exclusive)
