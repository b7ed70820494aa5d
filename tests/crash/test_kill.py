"""kill -9 under pipelined load, again and again on the same directory: no acknowledged write is lost.

`KEYHAUS_CRASH_CYCLES` is how many times, `KEYHAUS_SEED` repeats the choices (the moment of a kill depends on the
machine too). A kill keeps the kernel's cache, so this proves the journal's reading and writing, and that no reply
leaves before the `pwrite`; that none leaves before the sync is shown in test_replies_wait.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.load import GROUP, Broken, Model, Reader, State, Tally, Writer, apply, everything
from tests.support.processes import HOST, SOURCE, RunningKeyhaus, ServerFailed, ServerProcess, keyhaus_server

CYCLES = int(os.environ.get("KEYHAUS_CRASH_CYCLES", "12"))
CYCLES_PER_DIRECTORY = 20  # until a base takes over from the journal, each start reads all of it
WRITERS = 5
READERS = 2
OPTIONS = ("--journal-segment-bytes", "1mb")


class History:
    """One directory with a server that is killed again and again."""

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
        tally = Tally(self.random.randint(200, 8_000))
        writers = [Writer(server.port, number, tally, model) for number, model in enumerate(self.models)]
        readers = [Reader(server.port, number, tally, self.models[number]) for number in range(READERS)]
        for client in (*writers, *readers):
            client.start()
        reached = tally.reached.wait(60)
        server.kill()
        for client in (*writers, *readers):
            client.join(30)
            assert not client.is_alive()
            if client.failure is not None:
                raise client.failure
        assert reached, f"only {tally.count} of {tally.aim} writes were acknowledged in a minute"
        self.acknowledged += sum(model.acknowledged for model in self.models)
        self.unanswered += sum(len(model.units) - model.acknowledged for model in self.models)
        self.reads += sum(reader.reads for reader in readers)

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
