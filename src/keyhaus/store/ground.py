"""The ground under the memtable: the base in its helper process, as the store sees it.

Views are numbered by the store: one an ingest, across deaths of the helper too. A helper that dies is started again,
and what it was asked is asked again; what it had of older views is lost, and whoever reads one is told so. A run that
was being ingested when it died is either in the base or not: its meta row says which. An ingest that fails at the disk
ends the helper too, since an engine may then take no further run until it is opened again.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from keyhaus.core.errors import Corruption, SnapshotTooOld, StorageError
from keyhaus.core.spawn import Helper, HelperLost, Spawn
from keyhaus.store import layout
from keyhaus.store.layout import Meta

log = logging.getLogger("keyhaus.store")

RESTART_MS: Final = 200
DEATHS_MAX: Final = 3  # in a row without an answer: then what was asked first is not asked again
DAMAGE_MAX: Final = 100  # places that are told in the log
FILE: Final = "base"  # as errors name it

Done: TypeAlias = Callable[[Any, BaseException | None], None]
_Call: TypeAlias = tuple[str, int | None, tuple[Any, ...], Done]


class Ground:
    """The base of one store.

    Attributes:
        meta: What the base covers; None before the first flush.
        outcomes: Ids and seqnos of transactions that were committed, as the base had them when it was opened (T9).
        view: The number of its newest view.
        stats: The engine's numbers, as of the newest ingest.
        restarts: How often the helper had to be started again.
        damaged: How many answers met damage in the base.
    """

    def __init__(self, spawn: Spawn, factory: str, args: tuple[Any, ...]) -> None:
        self._spawn, self._factory, self._args = spawn, factory, args
        self._helper: Helper | None = None
        self._shift = 0  # the store's number of a view, less the engine's
        self._calls: dict[int, _Call] = {}
        self._next = 0
        self._closed = self._starting = False
        self._ingesting: tuple[int, Done] | None = None
        self._deaths = 0  # of the helper, since it last answered
        self._refused: OSError | None = None  # why the engine did not take the run, unless it did
        self.meta: Meta | None = None
        self.outcomes: list[tuple[bytes, int]] = []
        self.view = 0
        self.stats: dict[str, Any] = {}
        self.restarts = self.damaged = 0
        self._damage: set[str] = set()

    def open(self, done: Callable[[BaseException | None], None]) -> None:
        """Starts the helper; `meta` is known once it calls back."""
        self._helper = self._spawn.helper("base", self._factory, self._args)

        failures: list[BaseException] = []

        def told(result: Any, error: BaseException | None) -> None:
            if error is None:
                try:
                    self.meta = layout.decode_meta(result[1], FILE)
                except StorageError as refusal:
                    error = refusal
            if error is not None:
                failures.append(error)

        def opened(result: Any, error: BaseException | None) -> None:
            error = failures[0] if failures else error
            if error is None:
                self.outcomes = layout.read_outcomes(result)
            if isinstance(error, HelperLost):
                error = StorageError("the process that keeps the base has ended as it started; its log says why")
            done(error)

        self._helper.call("meta", (), told)
        self._helper.call("outcomes", (), opened)

    def call(self, method: str, view: int | None, args: tuple[Any, ...], done: Done) -> None:
        """Asks the base, of a view where one is given; `done(result, error)` comes in the store's turn.

        The error is SnapshotTooOld for a view that is lost.
        """
        number = self._next
        self._next += 1
        self._calls[number] = (method, view, args, done)
        if not self._starting:
            self._send(number)

    def _send(self, number: int) -> None:
        method, view, args, done = self._calls[number]
        if view is not None:
            if view < self._shift:
                del self._calls[number]
                return done(None, SnapshotTooOld("the process that kept this version of the data has ended"))
            args = (view - self._shift, *args)
        helper = self._helper
        assert helper is not None

        def answered(result: Any, error: BaseException | None) -> None:
            if helper is not self._helper or number not in self._calls:
                return  # of an earlier life: it was asked again
            if isinstance(error, HelperLost):
                return self._lost()
            self._deaths = 0
            del self._calls[number]
            if isinstance(error, Corruption):
                self.damaged += 1
                if len(self._damage) < DAMAGE_MAX and error.message not in self._damage:
                    self._damage.add(error.message)
                    log.error("the base is damaged, see `keyhaus check`: %s", error.message)
            done(result, error if view is None or error is None else _unreadable(error))

        helper.call(method, args, answered)

    @staticmethod
    def told(what: str) -> Done:
        """For what nobody waits for: a failure is logged."""

        def done(_: Any, error: BaseException | None) -> None:
            if error is not None:
                log.warning("%s: %s", what, error)

        return done

    def release(self, view: int) -> None:
        """Tells the base that nobody reads a view any more."""
        if view >= self._shift and not self._starting and not self._closed:
            self.call("release", view, (), self.told("an old view could not be given up"))

    def ingest(self, run: str, meta: Meta, done: Done) -> None:
        """Takes a run that covers what `meta` says. Once it is done, there is a new view."""

        def ingested(result: Any, error: BaseException | None) -> None:
            # Where the run itself is gone nothing was tried.
            if isinstance(error, OSError) and error.errno != errno.ENOENT and self._refused is None:
                self._refused = error
                return self._open_again()
            self._ingesting = self._refused = None
            if error is None:
                self._ingested(meta, result[1])
            done(None, error)

        self._ingesting = (meta.seqno, ingested)
        self.call("ingest", None, (run,), ingested)

    def _ingested(self, meta: Meta, stats: dict[str, Any]) -> None:
        self.meta, self.stats = meta, stats
        self.view += 1

    def _counted(self, stats: Any, error: BaseException | None) -> None:
        if error is None:
            self.stats = stats

    def _lost(self) -> None:
        if self._closed or self._starting:
            return
        log.error("the process that keeps the base has ended: it is started again")
        self._deaths += 1
        self._starting = True
        self._spawn.later(RESTART_MS, self._restart)

    def _open_again(self) -> None:
        if self._closed or self._starting:
            return
        log.error("the base did not take a run (%s): it is opened again", self._refused)
        self._starting = True
        assert self._helper is not None
        self._helper.close()
        self._spawn.later(RESTART_MS, self._restart)

    def _restart(self) -> None:
        if self._closed:
            return
        self.restarts += 1
        try:
            helper = self._helper = self._spawn.helper("base", self._factory, self._args)
        except OSError as error:
            return self._not_opened(error)

        def opened(result: Any, error: BaseException | None) -> None:
            if helper is not self._helper:
                return
            meta = None
            if error is None:
                try:
                    meta = layout.decode_meta(result[1], FILE)
                except StorageError as refusal:
                    error = refusal
            if error is None:
                self._resume(meta)
            elif not self._closed:
                helper.close()
                self._not_opened(error)

        helper.call("meta", (), opened)

    def _not_opened(self, error: BaseException) -> None:
        """It is tried again; who waits to read is told, since nobody knows for how long."""
        log.error("the base could not be opened again: %s", error)
        self._deaths += 1
        self._spawn.later(10 * RESTART_MS, self._restart)
        if isinstance(error, HelperLost):
            if self._deaths < DEATHS_MAX:
                return
            error = StorageError("the process that keeps the base ends as it starts; its log says why")
        for number, (_, view, _, done) in list(self._calls.items()):
            if view is not None and self._calls.pop(number, None) is not None:
                done(None, _unreadable(error))

    def _resume(self, meta: Meta | None) -> None:
        """The helper is there again: what it was asked is asked again."""
        before, now = (0 if one is None else one.seqno for one in (self.meta, meta))
        if now < before:
            # What it had is released from the journal: nothing that it says now can be trusted.
            assert self._helper is not None
            self._helper.close()
            return self._not_opened(StorageError(f"the base had everything up to {before}, and now only up to {now}"))
        self._starting = False
        if self._deaths >= DEATHS_MAX:
            self._give_up_first()
        waiting = list(self._calls)
        ingesting = self._ingesting
        if ingesting is not None:
            numbers = [number for number, call in self._calls.items() if call[0] == "ingest"]
            if meta is not None and meta.seqno == ingesting[0]:
                # It was in before the process died.
                for number in numbers:
                    del self._calls[number]
                self._shift = self.view + 1
                ingesting[1]((0, {}), None)
                self.call("stats", None, (), self._counted)
            else:
                self._shift = self.view
                if not numbers:
                    ingesting[1](None, self._refused)
        else:
            self._shift = self.view
        for number in waiting:
            if number in self._calls:
                self._send(number)

    def _give_up_first(self) -> None:
        """The helper dies again and again: of the read that it meets first, as it seems."""
        for number, (_, view, _, done) in list(self._calls.items()):
            if view is not None:
                del self._calls[number]
                return done(None, StorageError("the base can't be read: its process ends over it; its log says why"))

    def close(self) -> None:
        """Ends the helper once it has done what it was asked."""
        self._closed = True
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.call("close", (), lambda _, error: helper.close())


def _unreadable(error: BaseException) -> BaseException:
    """What a reader is told of an error of the disk's."""
    if not isinstance(error, OSError):
        return error
    return StorageError(f"the base can't be read: {error.strerror or error}")
