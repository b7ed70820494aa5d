"""One client's session: who it is, and the dispatch of its requests.

`execute` runs a request up to its reply, or up to the first thing that it has to wait for: then it gives the `Wait`,
and `resume` goes on from there. Whoever drives the session (the server's loop, an embedded thread, a test) keeps the
order: nothing else of this session is executed before the reply. After each reply `depends` says which seqno it
depends on, and `take_needs_sync` whether it may leave only once that one is synced (C2, C3).

A command that finds no room in the journal is run again from the start once there is some: nothing of it has happened.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from keyhaus.commands import lookup
from keyhaus.commands.spec import CommandSpec
from keyhaus.core.context import Server
from keyhaus.core.errors import Error, ExecAborted, Internal, OutOfMemory, UserError
from keyhaus.core.request import Refused
from keyhaus.core.settings import Durability
from keyhaus.core.wait import Wait
from keyhaus.session.interaction import Interaction
from keyhaus.session.multi import Multi
from keyhaus.store.interactive import Interactive
from keyhaus.store.lock_requests import Client
from keyhaus.store.transaction import Transaction

if TYPE_CHECKING:
    from keyhaus.session.hub import Hub

log = logging.getLogger("keyhaus.session")

# CLIENT REPLY: SKIP mutes its own reply and the next one.
NOT_MUTED, MUTED, MUTED_ONCE, MUTED_TWICE = 0, 1, 2, 3
# The names that clients really send, as they send them: `GET`, `get`, `Get`. Bounded, since clients choose them.
_KNOWN: dict[bytes, CommandSpec] = {}
_KNOWN_WITHIN: dict[tuple[bytes, bytes], CommandSpec] = {}  # subcommands
_KNOWN_MAX = 4096
_AS_ANY_OTHER = object()  # no reply: None is one
_NO_WAIT = Wait()
_NO_WAIT.fire()
# What Redis never refuses for want of memory inside MULTI: all else would let the queue grow.
_LEAVE_MULTI = frozenset(("EXEC", "DISCARD", "QUIT", "RESET"))


def _find(args: list[bytes]) -> CommandSpec:
    """The command of a request, its arity checked. Raises UserError, or why the codec could make no sense of it."""
    if isinstance(args, Refused):
        raise args.error
    words = len(args)
    if words > 1 and (known := _KNOWN_WITHIN.get((args[0], args[1]))) is not None:
        arity = known.arity
        if arity == words or (arity < 0 and words >= -arity):
            return known
    spec = lookup.find(args)
    if not spec.subcommands and spec.handler is not None:
        if "|" in spec.name:
            if len(_KNOWN_WITHIN) < _KNOWN_MAX:
                _KNOWN_WITHIN[args[0], args[1]] = spec
        elif len(_KNOWN) < _KNOWN_MAX:
            _KNOWN[args[0]] = spec
    return spec


class Session:
    """One client. See `core/context.py` for what its attributes mean to commands.

    Attributes:
        tx: What plain commands run in, and EXEC.
        multi: What it has queued and watches.
    """

    def __init__(self, hub: Hub, number: int) -> None:
        self.server: Server = hub
        self._hub = hub
        self.id = number
        self.name = b""
        self.user = "default"
        self.protocol = 2
        self.address = self.local_address = ""
        self.descriptor = -1
        self.library_name = self.library_version = b""
        self.connected_ns = self.active_ns = hub.monotonic_ns()
        self.no_evict = False
        self.in_multi = False
        self.muted = NOT_MUTED
        self.closing = False
        self.depends = 0
        self.spec: CommandSpec | None = None
        self.store = hub.store
        self.lock_client = Client()
        self.diverts = False  # in MULTI, or there was a BEGIN
        self.names_only = False  # whether BEGIN leaves it at the id, and makes no transaction the current one
        self.asks: bool | None = None  # whether the reply needs a sync; None: what the server's durability says
        self._interaction: Interaction | None = None
        self.tx = Transaction(hub.store, 0, self.lock_client)
        self.multi = Multi(self.tx)
        self._evictor = hub.store.evictor
        self._running: Coroutine[Wait, None, Any] | None = None

    # running

    def execute(self, args: list[bytes]) -> Any:
        """Runs a request: its reply, or the Wait that `resume` is to follow."""
        try:
            spec = _KNOWN.get(args[0])
            if spec is None or (spec.arity != len(args) and (spec.arity >= 0 or len(args) < -spec.arity)):
                spec = _find(args)
        except Error as error:
            self.spec = None
            self.depends = 0
            if isinstance(error, ExecAborted):
                self.discard()
            elif self.in_multi:
                self.multi.failed = True
            return self.failed(error)
        self.spec = spec
        if self._evictor.limit and (result := self._make_room(spec, args)) is not None:
            return result
        if self.diverts and (result := self._divert(spec, args)) is not _AS_ANY_OTHER:
            return result
        tx = self.tx
        tx.depends = tx.started = 0
        handler = spec.handler
        assert handler is not None  # only containers have none, and `find` never gives one
        running = handler(tx, args, self)
        try:
            wait = running.send(None)
        except StopIteration as stop:
            if tx.operations or tx.carries_time or tx.needs:
                result = self._commit(stop.value)
                return result if result.__class__ is not Wait else self._run_again(spec, args, result)
            self.depends = tx.depends
            return stop.value
        except Error as error:
            result = self._undo(error)
            return result if result.__class__ is not Wait else self._run_again(spec, args, result)
        except Exception:
            log.exception("a command failed", extra={"command": spec.wire_name})
            return self._fault()
        self._running = self._finish(spec, args, running, wait)
        return self._step()

    def _divert(self, spec: CommandSpec, args: list[bytes]) -> Any:
        """In MULTI, or once there was a BEGIN: what `execute` gives, or that the request runs as any other."""
        self.asks = None
        if self.in_multi:
            if spec.controls:
                return _AS_ANY_OTHER
            self.depends = 0
            return self.multi.enqueue(self, spec, args)
        result = self._inside(spec, args)
        if result.__class__ is not CoroutineType:
            return result
        self._running = result
        return self._step()

    def _inside(self, spec: CommandSpec, args: list[bytes]) -> Any:
        """Runs a command in the current transaction: its reply, a coroutine for the rest, or that it runs outside."""
        interaction = self._interaction
        transaction = None if interaction is None else interaction.current
        if interaction is not None and transaction is not None and spec.inside:
            return self._run_inside(interaction, transaction, spec, args)
        if interaction is None or not (spec.inside or spec.refused_inside):
            return _AS_ANY_OTHER
        if transaction is None and interaction.broken is None:
            return _AS_ANY_OTHER
        self.depends = 0 if interaction.broken is None else interaction.broken_depends
        return self.failed(interaction.refusal(spec))

    def _run_inside(
        self, interaction: Interaction, transaction: Interactive, spec: CommandSpec, args: list[bytes]
    ) -> Any:
        """Runs a command inside a transaction: its reply, or a coroutine for the rest of it."""
        if transaction.durability is not None:
            self.ask_as(transaction)
        result = interaction.run(transaction, spec, args)
        if transaction.reads:
            self.take_reads(transaction)
        return result

    def _make_room(self, spec: CommandSpec, args: list[bytes]) -> Any:
        """Before a command while there is a limit on memory: None where it may run now, else what `execute` gives."""
        queued = self.in_multi and not spec.controls
        needs_memory = spec.needs_memory or (spec.name == "EXEC" and self.multi.needs_memory)
        try:
            wait = self._evictor.make_room(needs_memory=needs_memory)
            if self._evictor.full and self.in_multi and spec.name not in _LEAVE_MULTI:
                raise OutOfMemory
        except OutOfMemory as error:
            return self._out_of_memory(spec, error)
        if queued:
            return None
        if wait is not None:
            self._running = self._when_there_is_room(spec, args, wait)
            return self._step()
        if spec.uses is not None:
            self._evictor.note(self.tx.database, spec.uses.of(args))
        return None

    def _out_of_memory(self, spec: CommandSpec, error: OutOfMemory) -> Error:
        self.depends = self._hub.store.last
        if spec.name == "EXEC":
            self.discard()
            return self.failed(ExecAborted(f"Transaction discarded because of: {error.code} {error.message}"))
        if self.in_multi:
            self.multi.failed = True
        return self.failed(error)

    async def _when_there_is_room(self, spec: CommandSpec, args: list[bytes], wait: Wait) -> Any:
        """A command that has to wait until enough was evicted."""
        still: Wait | None = wait
        while still is not None:
            await still
            try:
                still = self._evictor.make_room(needs_memory=True)
            except OutOfMemory as error:
                return self._out_of_memory(spec, error)
        self.asks = None
        result = self._inside(spec, args)
        if result is _AS_ANY_OTHER:
            return await self._again(spec, args, _NO_WAIT)
        return await result if result.__class__ is CoroutineType else result

    def take_reads(self, transaction: Interactive) -> None:
        """The reads of an interactive transaction are counted with the session's own."""
        tx = self.tx
        tx.reads += transaction.reads
        tx.misses += transaction.misses
        transaction.reads = transaction.misses = 0

    def count_reads(self) -> None:
        """Enters the keys that were found and missed since the last call."""
        tx = self.tx
        if tx.reads:
            statistics = self._hub.statistics
            statistics.hits += tx.reads - tx.misses
            statistics.misses += tx.misses
            tx.reads = tx.misses = 0

    def resume(self) -> Any:
        """Goes on after the Wait that `execute` or the last `resume` gave."""
        return self._step()

    def _step(self) -> Any:
        assert self._running is not None
        try:
            return self._running.send(None)
        except StopIteration as stop:
            self._running = None
            return stop.value
        except Exception:
            log.exception("a command failed", extra={"command": self.last_command})
            self._running = None
            return self._fault()

    def _fault(self) -> Error:
        """A handler failed in a way that no handler should: the client hears of it, and the server goes on."""
        self.tx.rollback()
        if self.spec is not None and self.spec.name == "EXEC":
            self.discard()
        self.depends = self.tx.depends
        return self.failed(Internal())

    def _commit(self, reply: Any) -> Any:
        """Ends a command: its reply, or the Wait for room, or for what it needs, after which it is to be run again."""
        tx = self.tx
        try:
            wait = tx.gather() if tx.needs else tx.commit()
        except Error as error:
            tx.rollback()
            tx.let_go()
            self.depends = tx.depends
            return self.failed(error)
        except Exception:
            log.exception("a commit failed", extra={"command": self.last_command})
            return self._fault()
        if wait is not None:
            return wait
        self.depends = tx.depends
        return reply

    def _undo(self, error: Error) -> Any:
        """A command failed: nothing of it happens, but what it rests on (an expiry) is committed before it is told."""
        if self.tx.needs:
            return self._commit(error)  # it has failed for want of what it needs, perhaps
        self.tx.undo(0)
        return self._commit(self.failed(error))

    def _run_again(self, spec: CommandSpec, args: list[bytes], wait: Wait) -> Any:
        self._running = self._again(spec, args, wait)
        return self._step()

    def failed(self, error: Error) -> Error:
        """Counts an error that is going to be a reply."""
        self._hub.count_failure(self.spec, error)
        # A reply with its traceback is a circle of frames, which keeps the request's bytes until they are collected.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error

    async def _finish(
        self, spec: CommandSpec, args: list[bytes], running: Coroutine[Wait, None, Any], wait: Wait
    ) -> Any:
        """The rest of a command that has to wait. What it waits for in vain is for the handler to hear of first."""
        try:
            while True:
                failure: Error | None = None
                try:
                    await wait
                except Error as error:
                    failure = error
                try:
                    wait = running.send(None) if failure is None else running.throw(failure)
                except StopIteration as stop:
                    result = self._commit(stop.value)
                    break
        except Error as error:
            result = self._undo(error)
        except BaseException:
            running.close()
            self.tx.rollback()
            raise
        return await self._again(spec, args, result) if isinstance(result, Wait) else result

    async def _again(self, spec: CommandSpec, args: list[bytes], wait: Wait) -> Any:
        """Runs a command from the start after a wait for room or for what it needs, as often as it takes."""
        handler = spec.handler
        assert handler is not None
        try:
            while True:
                self.tx.rollback()
                try:
                    await wait
                    self.tx.begin()
                    result = self._commit(await handler(self.tx, args, self))
                except Error as error:
                    result = self._undo(error)
                if not isinstance(result, Wait):
                    return result
                wait = result
        finally:
            self.tx.let_go()

    def abandon(self) -> None:
        """The client is gone: what it was in the middle of never happens."""
        running, self._running = self._running, None
        if running is not None:
            running.close()
        self.tx.rollback()
        self.tx.let_go()
        self.discard()
        if self._interaction is not None:
            self._interaction.abandon()
            self._interaction = None  # else the two would keep each other

    # interactive transactions

    @property
    def interaction(self) -> Interaction:
        """Its interactive transactions."""
        if self._interaction is None:
            self._interaction = Interaction(self)
            self.diverts = True
        return self._interaction

    def begin_transaction(self, mode: str, durability: Durability | None, timeout_ms: int | None) -> str:
        return self.interaction.begin(mode, durability, timeout_ms)

    async def commit_transaction(self, name: bytes | None) -> int:
        transaction, seqno = await self.interaction.commit(name)
        if transaction.durability == Durability.EVERYSEC and self.store.journal is not None:
            self.store.journal.sync_within_a_second()
        self.rests_on(seqno)
        return seqno

    def rollback_transaction(self, name: bytes | None) -> None:
        self.interaction.rollback(name)

    async def _room_inside(self, transaction: Interactive, spec: CommandSpec, args: list[bytes]) -> None:
        """What `_make_room` does, for a command that TX runs. Raises OutOfMemory."""
        self.rests_on(self.store.last)
        while (wait := self._evictor.make_room(needs_memory=spec.needs_memory)) is not None:
            await wait
        if spec.uses is not None:
            self._evictor.note(transaction.database, spec.uses.of(args))

    async def run_in_transaction(self, name: bytes, args: list[bytes]) -> Any:
        transaction = self.interaction.find(name)
        spec = lookup.find(args)
        if not spec.inside:
            raise UserError(f"TX takes commands that read or write data, not {spec.name}")
        if self._evictor.limit:
            await self._room_inside(transaction, spec, args)
        result = self._run_inside(self.interaction, transaction, spec, args)
        if result.__class__ is CoroutineType:
            result = await result
        self.rests_on(self.depends)
        return result

    def ask_as(self, transaction: Interactive) -> None:
        """The reply of the command that runs, an error too, is as durable as a transaction asks for (C3)."""
        if transaction.durability is not None:
            self.asks = transaction.durability == Durability.ALWAYS

    def rests_on(self, seqno: int) -> None:
        """The reply of the command that runs depends on a seqno (C2)."""
        self.tx.depends = max(self.tx.depends, seqno)

    def has_unread(self) -> bool:
        """Whether there are replies that have not left yet."""
        return False

    # MULTI, WATCH

    def begin_multi(self) -> None:
        self.in_multi = self.diverts = True

    def discard(self) -> None:
        self.in_multi = False
        self.diverts = self._interaction is not None
        self.multi.discard()

    def execute_queued(self) -> Coroutine[Wait, None, Any]:
        return self.multi.execute(self)

    def watch(self, keys: list[bytes]) -> None:
        self.multi.watch(keys)

    def unwatch(self) -> None:
        self.multi.unwatch()

    # who it is

    def take_needs_sync(self) -> bool:
        """Whether the reply that has just been given leaves only once what it depends on is synced (C3).

        To be asked once a reply.
        """
        wanted, self.tx.waits_for_sync = self.tx.waits_for_sync, False
        return wanted or (self._hub.always if self.asks is None else self.asks)

    @property
    def database(self) -> int:
        return self.tx.database

    @property
    def last_command(self) -> str:
        return self.spec.wire_name if self.spec else "NULL"

    def select(self, database: int) -> None:
        self.tx.database = database

    def authenticate(self, user: str, password: bytes) -> bool:
        """The one identity there is has no password, so any will do for it."""
        return user == "default"

    def set_protocol(self, version: int) -> None:
        self.protocol = version
        self.protocol_changed(version)

    def protocol_changed(self, version: int) -> None:
        """For the connection, whose codec has to know."""

    def set_reply_mode(self, mode: str) -> None:
        self.muted = {"ON": NOT_MUTED, "OFF": MUTED, "SKIP": MUTED_TWICE}[mode]

    def mutes(self) -> bool:
        """Whether the reply to the command that has just run is not to be sent; only to be asked while `muted`."""
        if self.muted == MUTED_TWICE:
            self.muted = MUTED_ONCE
        elif self.muted == MUTED_ONCE:
            self.muted = NOT_MUTED
        return True

    def reset(self) -> None:
        self.discard()
        if self._interaction is not None:
            self._interaction.abandon()
        self.select(0)
        self.set_protocol(2)
        self.name = b""
        self.user = "default"
        self.no_evict = False
        self.muted = NOT_MUTED

    def quit(self) -> None:
        self.closing = True

    def close(self, *, after_reply: bool = False) -> None:
        """CLIENT KILL; the connection knows how."""
        self.closing = True

    def queued_commands(self) -> int:
        return self.multi.length() if self.in_multi else -1

    def watched_keys(self) -> int:
        return self.multi.watched_keys()

    def flag_letters(self) -> str:
        letters = "x" if self.in_multi else ""
        letters += "b" if self._running is not None else ""
        letters += "e" if self.no_evict else ""
        return letters or "N"

    def buffers(self) -> dict[str, int]:
        queued = self.multi.queued_bytes
        return {"input": 0, "input_free": 0, "queued": queued, "output": 0, "total": queued}
