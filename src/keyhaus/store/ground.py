"""The ground under the memtable: the base in its helper process, as the store sees it.

Views are numbered by the store: one an ingest, across deaths of the helper too. A helper that dies is started again,
and what it was asked is asked again; what it had of older views is lost, and whoever reads one is told so. A run that
was being ingested when it died is either in the base or not: its meta row says which.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from keyhaus.core.errors import Corruption, SnapshotTooOld, StorageError
from keyhaus.core.spawn import Helper, HelperLost, Spawn
from keyhaus.store import layout
from keyhaus.store.layout import Meta

log = logging.getLogger("keyhaus.store")

RESTART_MS: Final = 200
FILE: Final = "base"  # as errors name it

Done: TypeAlias = Callable[[Any, BaseException | None], None]
_Call: TypeAlias = tuple[str, int | None, tuple[Any, ...], Done]


class Ground:
    """The base of one store.

    Attributes:
        meta: What the base covers; None before the first flush.
        view: The number of its newest view.
        stats: The engine's numbers, as of the newest ingest.
        restarts: How often the helper had to be started again.
    """

    def __init__(self, spawn: Spawn, factory: str, args: tuple[Any, ...]) -> None:
        self._spawn, self._factory, self._args = spawn, factory, args
        self._helper: Helper | None = None
        self._shift = 0  # the store's number of a view, less the engine's
        self._calls: dict[int, _Call] = {}
        self._next = 0
        self._closed = self._starting = False
        self._ingesting: tuple[int, Done] | None = None
        self.meta: Meta | None = None
        self.view = 0
        self.stats: dict[str, Any] = {}
        self.restarts = 0

    def open(self, done: Callable[[BaseException | None], None]) -> None:
        """Starts the helper; `meta` is known once it calls back."""
        self._helper = self._spawn.helper("base", self._factory, self._args)

        def opened(result: Any, error: BaseException | None) -> None:
            if error is None:
                try:
                    self.meta = layout.decode_meta(result[1], FILE)
                except Corruption as damage:
                    error = damage
            if isinstance(error, HelperLost):
                error = StorageError("the process that keeps the base has ended as it started; its log says why")
            done(error)

        self._helper.call("meta", (), opened)

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
            del self._calls[number]
            done(result, error)

        helper.call(method, args, answered)

    def release(self, view: int) -> None:
        """Tells the base that nobody reads a view any more."""
        if view >= self._shift and not self._starting and not self._closed:
            self.call("release", view, (), lambda _, error: None)

    def ingest(self, run: str, meta: Meta, done: Done) -> None:
        """Takes a run that covers what `meta` says. Once it is done, there is a new view."""

        def ingested(result: Any, error: BaseException | None) -> None:
            self._ingesting = None
            if error is None:
                self._ingested(meta, result[1])
            done(None, error)

        self._ingesting = (meta.seqno, ingested)
        self.call("ingest", None, (run,), ingested)

    def _ingested(self, meta: Meta, stats: dict[str, Any]) -> None:
        self.meta, self.stats = meta, stats
        self.view += 1

    def renew(self) -> None:
        """Starts the helper anew: after some errors an engine takes no more changes until it is opened again."""
        if self._helper is not None and not self._starting:
            self._helper.close()
            self._lost()

    def _lost(self) -> None:
        if self._closed or self._starting:
            return
        log.error("the process that keeps the base has ended: it is started again")
        self._starting = True
        self._spawn.later(RESTART_MS, self._restart)

    def _restart(self) -> None:
        if self._closed:
            return
        self.restarts += 1
        helper = self._helper = self._spawn.helper("base", self._factory, self._args)

        def opened(result: Any, error: BaseException | None) -> None:
            if helper is not self._helper:
                return
            if error is not None:
                log.error("the base could not be opened again: %s", error)
                helper.close()
                self._spawn.later(10 * RESTART_MS, self._restart)
                return
            self._resume(layout.decode_meta(result[1], FILE))

        helper.call("meta", (), opened)

    def _resume(self, meta: Meta | None) -> None:
        """The helper is there again: what it was asked is asked again."""
        self._starting = False
        waiting = list(self._calls)
        ingesting = self._ingesting
        if ingesting is not None:
            number = next(number for number, call in self._calls.items() if call[0] == "ingest")
            if meta is not None and meta.seqno == ingesting[0]:
                # It was in before the process died.
                del self._calls[number]
                waiting.remove(number)
                self._shift = self.view + 1
                ingesting[1]((0, {}), None)
            else:
                self._shift = self.view
        else:
            self._shift = self.view
        for number in waiting:
            if number in self._calls:
                self._send(number)

    def close(self) -> None:
        """Ends the helper once it has done what it was asked."""
        self._closed = True
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.call("close", (), lambda _, error: helper.close())
