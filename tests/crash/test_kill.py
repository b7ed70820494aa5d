"""kill -9 under pipelined load, again and again on the same directory: no acknowledged write is lost.

Once with all data in memory and the journal, and once with memtables so small that kills land in every stage of flushes
and in RocksDB's compactions. There the process of the base, or the one that writes a run, is killed alone at times, and
the server has to go on as if nothing were.

`KEYHAUS_CRASH_CYCLES` is how many times, `KEYHAUS_SEED` repeats the choices (the moment of a kill depends on the
machine too). A kill keeps the kernel's cache, so this proves the journal's reading and writing, and that no reply
leaves before the `pwrite`; that none leaves before the sync is shown in test_replies_wait.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keyhaus.store.flush import FAILURES_WAITED
from keyhaus.store.ground import DEATHS_MAX
from tests.support.load import (
    BESIDE,
    BRIEF_DATABASE,
    GROUP,
    SPARE,
    Brief,
    Broken,
    Link,
    Model,
    Reader,
    State,
    Tally,
    Writer,
    apply,
    check_brief,
    everything,
)
from tests.support.processes import HOST, SOURCE, RunningKeyhaus, ServerFailed, ServerProcess, children, keyhaus_server

CYCLES = int(os.environ.get("KEYHAUS_CRASH_CYCLES", "8"))
CYCLES_PER_DIRECTORY = 20  # until a base takes over from the journal, each start reads all of it
WRITERS = 5
READERS = 2
OPTIONS = ("--journal-segment-bytes", "1mb")
FLUSHING_CYCLES = int(os.environ.get("KEYHAUS_CRASH_CYCLES", "5"))
FLUSHING_WRITERS = 3
FLUSHING = ("--set", "memtable-size=500", "--set", "memtable-bytes=1mb", "--set", "cache-bytes=100kb")


class History:
    """One directory with a server that is killed again and again.

    Attributes:
        aims: After how many acknowledged writes, at the least and at the most.
    """

    aims = (200, 8_000)

    def __init__(self, directory: Path, generator: random.Random, *options: str) -> None:
        self.directory = directory
        self.random = generator
        self.options = ("--data-dir", str(directory / "data"), *OPTIONS, *options)
        self.models = [Model(random.Random(generator.getrandbits(64))) for _ in range(WRITERS)]
        self.acknowledged = self.unanswered = self.kept = self.reads = self.early_kills = 0

    def run(self, cycles: int) -> None:
        for _ in range(cycles):
            with keyhaus_server(self.directory, *self.options) as server:
                self.check(server)
                self.load(server)
                server.kill()
            while self.random.random() < 0.4:
                self.kill_while_it_starts()
        with keyhaus_server(self.directory, *self.options) as server:
            self.check(server)

    def load(self, server: RunningKeyhaus) -> None:
        """Load until a number of acknowledged writes is reached; then the process is gone."""
        tally = Tally(self.random.randint(*self.aims))
        writers = [Writer(server.port, number, tally, model) for number, model in enumerate(self.models)]
        readers = [Reader(server.port, number, tally, self.models[number]) for number in range(READERS)]
        extra = self.extra(server, tally)
        for client in (*writers, *readers, *extra):
            client.start()
        self.beside_the_load(server, tally)
        reached = tally.reached.wait(60)
        server.kill()
        for client in (*writers, *readers, *extra):
            client.join(30)
            assert not client.is_alive()
            if client.failure is not None:
                raise client.failure
        assert reached, f"only {tally.count} of {tally.aim} writes were acknowledged in a minute"
        self.acknowledged += sum(model.acknowledged for model in self.models)
        self.unanswered += sum(len(model.units) - model.acknowledged for model in self.models)
        self.reads += sum(reader.reads for reader in readers)

    def extra(self, server: RunningKeyhaus, tally: Tally) -> list[Brief]:
        """Further clients."""
        return []

    def beside_the_load(self, server: RunningKeyhaus, tally: Tally) -> None:
        """What goes on meanwhile."""

    def kill_while_it_starts(self) -> None:
        """A crash inside recovery, or soon after: the next start must find the same."""
        self.early_kills += 1
        command = (sys.executable, "-m", "keyhaus", "serve", "--listen", f"resp://{HOST}:0", *self.options)
        path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
        server = ServerProcess(command, self.directory, {"PYTHONPATH": path})
        with contextlib.suppress(ServerFailed):
            server.wait_for_line("^ready ", self.random.uniform(0.2, 0.7))
        server.kill()
        assert not any("Traceback" in line for line in server.lines), server.lines

    def check(self, server: RunningKeyhaus) -> None:
        """Every acknowledged write is there, nothing that was never sent, groups whole: see `Model.settle`."""
        for number, model in enumerate(self.models):
            self.kept += model.settle(everything(server.port, number))
        for number in range(WRITERS, 16):
            assert everything(server.port, number) == {}, f"nobody wrote to database {number}"

    def segments(self) -> int:
        return len(list((self.directory / "data" / "journal").glob("*.segment")))


@pytest.mark.parametrize("durability", ["always", "everysec", "none"])
def test_no_acknowledged_write_is_lost(
    durability: str, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reply leaves at `written` at the earliest, so a kill loses nothing under any durability."""
    generator = random.Random(seed)
    left = CYCLES if durability == "always" else max(2, CYCLES // 6)
    histories: list[History] = []
    while left:
        cycles = min(left, CYCLES_PER_DIRECTORY)
        left -= cycles
        directory = tmp_path / str(len(histories))
        directory.mkdir()
        histories.append(History(directory, generator, "--durability", durability))
        histories[-1].run(cycles)
        assert histories[-1].segments() > cycles + 2, "the journal hardly rolled: this proves little"
    acknowledged = sum(history.acknowledged for history in histories)
    unanswered = sum(history.unanswered for history in histories)
    cycles = CYCLES if durability == "always" else max(2, CYCLES // 6)
    with capsys.disabled():
        print(
            f" {durability}: {cycles} kills, {acknowledged} writes acknowledged, 0 lost; {unanswered} were unanswered, "
            f"{sum(history.kept for history in histories)} of them kept; "
            f"{sum(history.early_kills for history in histories)} kills within a start; "
            f"{sum(history.reads for history in histories)} reads (seed {seed})"
        )
    assert acknowledged > 500 * cycles, "too little was acknowledged to mean anything"
    assert unanswered > cycles, "no write was ever under way: the kills came too late"
    assert sum(history.reads for history in histories) > cycles


# The same across flushes.


class Flushing(History):
    """A server that flushes all the time, and whose helpers are killed too.

    Attributes:
        flushes, compactions, helpers: How many flushes there were at the kills, how often RocksDB compacted at one, and
            how many helpers were killed.
    """

    aims = (500, 12_000)

    def __init__(self, directory: Path, generator: random.Random, *options: str) -> None:
        super().__init__(directory, generator, *options)
        self.models = [
            Model(random.Random(generator.getrandbits(64)), number, keys=1500) for number in range(FLUSHING_WRITERS)
        ]
        self.flushes = self.compactions = 0
        self.helpers = {"base": 0, "run-writer": 0}

    def beside_the_load(self, server: RunningKeyhaus, tally: Tally) -> None:
        """Kills helpers, and looks how far flushes have come, until enough was acknowledged."""
        facts: dict[str, str] = {}
        deaths = failed = 0
        with Link(server.port) as link:
            while not tally.reached.wait(self.random.uniform(0.01, 0.2)):
                # So many deaths in a row that clients would be told: first something has to succeed.
                if self.random.random() < 0.2:
                    name = self.random.choice(("base", "run-writer"))
                    if name == "base" and (deaths := deaths + 1) == DEATHS_MAX:
                        assert link.ask(b"GET", b"absent:%d" % self.helpers["base"]) is None  # only the base knows
                        deaths = 1
                    if failed < FAILURES_WAITED - 2:
                        failed += 1
                        self.kill_a_helper(server.pid, name)
                before, facts = facts, info(link)
                if facts.get("flushes") != before.get("flushes"):
                    failed = 0
                self.compactions += int(facts.get("compactions_running", 0))
            self.flushes += int(facts.get("flushes", 0))

    def kill_a_helper(self, server: int, name: str) -> None:
        for child in children(server):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == name:
                    os.kill(child, signal.SIGKILL)
                    self.helpers[name] += 1

    def extra(self, server: RunningKeyhaus, tally: Tally) -> list[Brief]:
        return [Brief(server.port, tally, self.random.getrandbits(32))]

    def check(self, server: RunningKeyhaus) -> None:
        for number, model in enumerate(self.models):
            found = everything(server.port, number)
            for key, entry in everything(server.port, number + SPARE).items():
                found[BESIDE + key] = entry
            self.kept += model.settle(found)
        with Link(server.port, BRIEF_DATABASE) as link:
            check_brief(link, [b"brief:%d" % number for number in range(2000)])
        for number in range(16):
            if number % SPARE >= len(self.models) and number != BRIEF_DATABASE:
                assert everything(server.port, number) == {}, f"nobody wrote to database {number}"


def info(link: Link) -> dict[str, str]:
    lines = link.ask(b"INFO", b"keyhaus").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


@pytest.mark.parametrize("durability", ["always", "everysec"])
def test_no_acknowledged_write_is_lost_across_flushes(
    durability: str, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = random.Random(seed)
    left = cycles = FLUSHING_CYCLES if durability == "always" else max(2, FLUSHING_CYCLES // 6)
    histories: list[Flushing] = []
    while left:
        directory = tmp_path / str(len(histories))
        directory.mkdir()
        histories.append(Flushing(directory, generator, "--durability", durability, *FLUSHING))
        histories[-1].run(min(left, CYCLES_PER_DIRECTORY))
        left -= min(left, CYCLES_PER_DIRECTORY)
    acknowledged = sum(history.acknowledged for history in histories)
    flushes = sum(history.flushes for history in histories)
    helpers = {name: sum(history.helpers[name] for history in histories) for name in ("base", "run-writer")}
    with capsys.disabled():
        print(
            f" {durability}: {cycles} kills, {acknowledged} writes and reads right, 0 lost; {flushes} flushes, "
            f"{sum(history.compactions for history in histories)} times seen compacting; killed alone: {helpers}; "
            f"{sum(history.early_kills for history in histories)} kills within a start (seed {seed})"
        )
    assert acknowledged > 300 * cycles, "too little was acknowledged to mean anything"
    if durability == "always":
        assert flushes > cycles // 2, "hardly anything was flushed"
        assert cycles < 20 or sum(helpers.values()) > cycles // 10, "the helpers were left alone"


# The model itself: each kind of damage is noticed.


def _stopped() -> tuple[Model, State]:
    """A model with 300 units, 250 of them acknowledged, and what is there if just those were kept."""
    model = Model(random.Random(7))
    for _ in range(300):
        model.next_unit()
    model.acknowledged = 250
    state: State = {}
    for unit in model.units[:250]:
        apply(state, unit)
    return model, state


def _lose(model: Model, state: State) -> None:
    touched = {key for unit in model.units[250:] for key, _, _ in unit.effects or ()}
    del state[next(key for key in state if key not in touched)]


def _step_back(model: Model, state: State) -> None:
    """The last acknowledged unit that did anything is missing."""
    acknowledged = dict(state)
    for kept in range(249, 0, -1):
        state.clear()
        for unit in model.units[:kept]:
            apply(state, unit)
        if state != acknowledged:
            return


def _tear(model: Model, state: State) -> None:
    state[GROUP[2]] = (b"0:", False)


def _tear_within(model: Model, state: State) -> None:
    """Half of a group that was sent and not acknowledged."""
    unit = next(unit for unit in model.units[250:] if unit.replies[-1] == [b"OK"] * len(GROUP))
    assert unit.effects is not None
    apply(state, unit._replace(effects=unit.effects[:2]))


def _invent(model: Model, state: State) -> None:
    state[b"stranger"] = (b"1:", False)


def _count_up(model: Model, state: State) -> None:
    state[b"counter:0"] = (b"%d" % (int(state[b"counter:0"][0]) + 1000), False)


def _forget_expiry(model: Model, state: State) -> None:
    key = next(key for key, (_, expires) in state.items() if expires)
    state[key] = (state[key][0], False)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (_lose, "LOST"),
        (_step_back, "LOST|REORDERED"),
        (_tear, "TORN"),
        (_tear_within, "TORN"),
        (_invent, "INVENTED"),
        (_count_up, "LOST"),
        (_forget_expiry, "LOST"),
    ],
)
def test_the_check_notices(damage: Callable[[Model, State], None], word: str) -> None:
    model, state = _stopped()
    damage(model, state)
    with pytest.raises(Broken, match=f"^({word})"):
        model.settle(state)


def test_the_check_accepts_what_may_be() -> None:
    for kept in (250, 251, 299, 300):
        model, state = _stopped()
        for unit in model.units[250:kept]:
            apply(state, unit)
        assert model.settle(state) <= kept - 250
        assert model.settled == state


def test_what_a_reader_was_shown_must_survive() -> None:
    model, state = _stopped()
    model.shown = 280
    with pytest.raises(Broken):
        model.settle(state)
