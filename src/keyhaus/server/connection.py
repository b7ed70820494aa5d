"""One connection, in any dialect: bytes to the codec, requests to the session, replies out once they may leave (C3).

Replies leave in the order of their requests. One that depends on a seqno which is not yet as durable as the asker
wants is held, and everything behind it too; the journal calls back when a mark moves. What a read brought is answered
in one write. Nothing grows without bound for a client that does not read: past `OUTPUT_BYTES_PAUSE` of held or unsent
replies no further command is executed, past `PIPELINE_BYTES_PAUSE` of requests nothing more is read.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from keyhaus.core.codec import Codec
from keyhaus.core.errors import Error
from keyhaus.core.limits import OUTPUT_BYTES_PAUSE, PIPELINE_BYTES_PAUSE, UNTERMINATED_BYTES_MAX
from keyhaus.core.request import NeedData
from keyhaus.core.wait import Wait
from keyhaus.protocol.text import TextCodec
from keyhaus.server.peer import address_of, keep_alive
from keyhaus.session.session import Session

if TYPE_CHECKING:
    from keyhaus.server.server import Server

log = logging.getLogger("keyhaus.connection")

LINGER_SECONDS: Final = 1.0
BURST_NS: Final = 5_000_000  # how long one connection may execute before the others have their turn
UNTERMINATED_SECONDS: Final = 0.02
HELD_OVERHEAD: Final = 128  # of one held reply: its tuple, its number, its bytes object


class ClientSession(Session):
    """A session that is a connection's."""

    connection: Connection

    def protocol_changed(self, version: int) -> None:
        self.connection.codec.version = version

    def close(self, *, after_reply: bool = False) -> None:
        self.closing = True
        if not after_reply:
            self.connection.close()

    def has_unread(self) -> bool:
        return self.connection.output_bytes() > 0

    def buffers(self) -> dict[str, int]:
        sizes = super().buffers()
        sizes["input"] = self.connection.codec.buffered()
        sizes["output"] = self.connection.output_bytes()
        sizes["total"] += sizes["input"] + sizes["output"]
        return sizes


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Server, codec: Codec) -> None:
        self._server = server
        self._hub = server.hub
        self._store = server.hub.store
        self._statistics = server.hub.statistics
        self.codec = codec
        self.apply_settings()
        self._transport: asyncio.Transport | None = None
        self._session: ClientSession | None = None
        # In order: the seqno, whether that has to be synced, the bytes, the codec's mark for another reply instead.
        self._held: deque[tuple[int, bool, bytes, Any]] = deque()
        self._held_bytes = 0
        self._registered = False  # the journal calls `_release` at its next progress
        self._waiting: Wait | None = None  # what the running command waits for
        self._timer: asyncio.TimerHandle | None = None
        self._write_paused = self._read_paused = False
        self._more = False  # a burst ended early: the next turn goes on
        self._ended = False  # nothing more is executed: QUIT, a broken stream, a stop
        self._end_of_file = False  # the client will say nothing more
        self._lingering = False  # our side is ended, the client's not yet

    def apply_settings(self) -> None:
        """Takes over the limits in force; the server calls it again when CONFIG SET changes one."""
        settings = self._hub.settings
        self.codec.max_bulk_bytes = settings["proto-max-bulk-len"]
        self.codec.max_request_bytes = settings["max-request-bytes"]
        self.codec.max_reply_bytes = settings["max-reply-bytes"]

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports only look like asyncio's, so they can't be told by isinstance.
        transport = self._transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=OUTPUT_BYTES_PAUSE)
        hub = self._hub
        if self._server.refuse_if_full(transport, self.codec):
            return
        hub.statistics.connections += 1
        session = hub.open_session(ClientSession)
        assert isinstance(session, ClientSession)
        self._session = session
        session.connection = self
        session.address = address_of(transport.get_extra_info("peername"))
        session.local_address = address_of(transport.get_extra_info("sockname"))
        own_socket: socket.socket | None = transport.get_extra_info("socket")
        if own_socket is not None:
            session.descriptor = own_socket.fileno()
            keep_alive(own_socket, hub.settings.integer("tcp-keepalive"))
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        session = self._session
        if session is None or self._ended:
            return
        self._statistics.input_bytes += len(data)
        self.codec.feed(data)
        if self._more:
            self._watch_input()
        else:
            self._pump()

    def eof_received(self) -> bool:
        """The client has said all; what it still has to be told is told before the connection is closed."""
        self._end_of_file = True
        if self._waiting is not None and self._waiting.outside:
            self._give_up()  # it may be gone, and what WAIT waits for may never come
        self._close_if_done()
        return self._transport is not None

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.forget(self)
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._waiting = None
        if self._session is not None:
            self._hub.close_session(self._session)
            self._session = None

    # executing

    def _blocked(self) -> bool:
        return self._waiting is not None or self._write_paused or self._held_bytes > OUTPUT_BYTES_PAUSE

    def _pump(self) -> None:
        """Executes what has been received, as far as it may."""
        session = self._session
        if session is None:
            return
        self._more = False
        if self._waiting is None and not self._write_paused and self._held_bytes <= OUTPUT_BYTES_PAUSE:
            if not self._ended and self._burst(session):
                # A large answer, or a long burst: let it go out, and the other clients come in between.
                self._more = True
                self._server.loop.call_soon(self._pump)
            if self._more or self._read_paused or self._blocked():
                self._watch_input()
        else:
            self._watch_input()
        if self._ended or self._end_of_file:
            self._close_if_done()

    def _burst(self, session: ClientSession) -> bool:
        """Executes requests until something is in the way, and writes their replies; whether to go on at once."""
        hub, codec = self._hub, self.codec
        ready, encode, execute = codec.ready, codec.encode, session.execute
        clock, held = hub.monotonic_ns, self._held
        synced, slow_ns = self._store.synced, hub.slow_ns
        plain = hub.always and self._store.poisoned is None  # what is not synced is held, whatever it is
        out: list[bytes] = []
        size = run = need = 0
        more = False
        before = run_start = session.active_ns = clock()
        until = before + BURST_NS
        spec = session.spec
        while ready or self._parse(out):
            request = ready.popleft()
            reply = execute(request)
            if session.spec is not spec:
                # Runs of one command are counted at once: most pipelines are such runs.
                hub.count(spec, run, before - run_start)
                spec, run, run_start = session.spec, 0, before
            run += 1
            if reply.__class__ is Wait:
                self._wait_for(reply)
                break
            after = clock()
            if after - before >= slow_ns:
                hub.note_slow(session, request, after - before)
            before = after
            if session.muted and session.mutes():
                codec.skip()
                if plain and session.depends > synced:
                    need = max(need, session.depends)  # nobody is told, and it is durable all the same
            elif session.depends > synced or held:
                if plain and session.asks is None:
                    data = encode(reply)
                    held.append((session.depends, True, data, codec.mark))
                    self._held_bytes += len(data) + HELD_OVERHEAD
                    need = max(need, session.depends)
                else:
                    self._hold(session, reply, out)
                more = self._held_bytes > OUTPUT_BYTES_PAUSE
            else:
                data = encode(reply)
                out.append(data)
                size += len(data)
                more = size > OUTPUT_BYTES_PAUSE
            if session.closing:
                self._ended = True
                break
            if more or after > until:
                more = True
                break
        hub.count(spec, run, before - run_start)
        session.count_reads()
        if need:
            self._await_sync(need)
        if out:
            self._write(b"".join(out) if len(out) > 1 else out[0])
        return more

    def _parse(self, out: list[bytes]) -> bool:
        """Whether there is a further request; it stands in the codec's `ready` then."""
        try:
            request = self.codec.next_request()
        except Error as error:
            self._break(error, out)
            return False
        if isinstance(request, NeedData):
            return False
        self.codec.ready.appendleft(request)
        return True

    def _hold(self, session: ClientSession, reply: Any, out: list[bytes]) -> None:
        """C3: a reply that is not durable enough for the asker waits, and so do all behind it."""
        store, depends = self._store, session.depends
        needs_sync = session.take_needs_sync()
        poisoned = store.poisoned
        if poisoned is not None and depends > store.synced:
            reply = poisoned
            depends = 0
        data = self.codec.encode(reply)
        if not self._held and store.may_be_told(depends, needs_sync):
            out.append(data)
            return
        self._held.append((depends, needs_sync, data, self.codec.mark))
        self._held_bytes += len(data) + HELD_OVERHEAD
        if needs_sync:
            self._await_sync(depends)
        elif not self._registered:
            self._await_progress()

    def _await_sync(self, seqno: int) -> None:
        """Somebody waits for a sync of `seqno`, so one is asked for (C3)."""
        journal = self._store.journal
        assert journal is not None
        if seqno > self._store.synced:
            journal.demand(seqno)
        if not self._registered:
            self._await_progress()

    def _await_progress(self) -> None:
        assert self._store.journal is not None
        self._registered = True
        self._store.journal.wait(self._release)

    def _release(self) -> None:
        """A mark has moved: sends what may leave now."""
        try:
            self._send_released()
        except Exception:
            log.exception("closing a connection whose replies could not be sent", extra={"client": self.peer()})
            self.close()

    def _send_released(self) -> None:
        self._registered = False
        if self._transport is None:
            return
        store, held = self._store, self._held
        synced, written, poisoned = store.synced, store.written, store.poisoned
        out: list[bytes] = []
        while held:
            # `Store.may_be_told`, written out: thousands may stand here.
            depends, needs_sync, data, mark = held[0]
            if depends > synced and (needs_sync or depends > written or poisoned is not None):
                if poisoned is None:
                    break
                out.append(self.codec.encode_late(poisoned, mark))
            else:
                out.append(data)
            held.popleft()
            self._held_bytes -= len(data) + HELD_OVERHEAD
        if out:
            self._write(b"".join(out))
        if held:
            self._await_progress()
        if self._ended or self._end_of_file or self.codec.ready or self.codec.buffered():
            self._pump()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._statistics.output_bytes += len(data)
            self._transport.write(data)

    def _break(self, error: Error, out: list[bytes]) -> None:
        """The stream can't be followed any more: says why, and closes once everything before has been said."""
        self._ended = True
        self._hub.statistics.protocol_errors += 1
        log.info("closing a connection whose stream is broken", extra={"reason": error.message, "client": self.peer()})
        error.__traceback__ = error.__context__ = error.__cause__ = None  # the codec keeps it, and they would keep all
        data = self.codec.encode(error)
        if self._held:
            self._held.append((0, False, data, self.codec.mark))
            self._held_bytes += len(data) + HELD_OVERHEAD
        else:
            out.append(data)

    # waiting

    def _wait_for(self, wait: Wait) -> None:
        self._waiting = wait
        if self._end_of_file and wait.outside:
            return self._give_up()
        if wait.timeout_ms is not None:
            self._timer = self._server.loop.call_later(wait.timeout_ms / 1000, self._resume, wait)

        def fired() -> None:
            self._server.loop.call_soon(self._resume, wait)

        wait.on_fire(fired)

    def _resume(self, wait: Wait) -> None:
        session = self._session
        if self._waiting is not wait or session is None:
            return
        self._waiting = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wait.cold:
            self._server.yield_to_base()
        reply = session.resume()
        if reply.__class__ is Wait:
            self._wait_for(reply)
            if self._ended:
                self._close_if_done()
            return
        session.active_ns = self._hub.monotonic_ns()
        session.count_reads()
        if session.muted and session.mutes():
            self.codec.skip()
        else:
            out: list[bytes] = []
            self._hold(session, reply, out)
            if out:
                self._write(out[0])
        if session.closing:
            self._ended = True
        if self.codec.ready or self.codec.buffered() or self._more or self._read_paused or self._ended:
            self._pump()
        elif self._end_of_file:
            self._close_if_done()

    # closing

    def _watch_input(self) -> None:
        """Stops reading while there is enough to execute for later turns, and starts again after."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        crowded = self._more or (self.codec.buffered() > PIPELINE_BYTES_PAUSE and self._blocked())
        if crowded and not self._read_paused:
            transport.pause_reading()
        elif self._read_paused and not crowded:
            transport.resume_reading()
        self._read_paused = crowded

    def _close_if_done(self) -> None:
        if self._held or self._waiting is not None or self._transport is None:
            return
        if self._end_of_file and (self._ended or (not self._more and not self._blocked())):
            self._transport.close()
        elif self._ended and not self._lingering and not self._transport.is_closing():
            self._hang_up(self._transport)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        """Ends our side, and reads on until the client ends its own: to close a socket in which requests wait unread
        is a reset, which takes replies away that are still on their way."""
        self._lingering = True
        transport.write_eof()
        if self._read_paused:
            transport.resume_reading()
        self._server.loop.call_later(LINGER_SECONDS, self._close_late)

    def _close_late(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _give_up(self) -> None:
        """What the running command waits for is not waited for any more; it never happens."""
        self._ended = True
        self._waiting = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._session is not None:
            self._session.abandon()

    def drain(self) -> None:
        """The server stops: nothing more is executed; closes once every reply has left."""
        self._ended = True
        if self._waiting is not None:
            self._give_up()
        session = self._session
        if session is not None and self._hub.monotonic_ns() - session.active_ns > LINGER_SECONDS * 1_000_000_000:
            self._end_of_file = True  # it sends nothing, so nothing is lost by not waiting for its end
        self._close_if_done()

    def close(self) -> None:
        """Closes at once; replies that are still held are never told."""
        self._ended = True
        self._held.clear()
        if self._transport is not None:
            self._transport.abort()

    def close_if_idle(self, before_ns: int) -> None:
        """Closes a connection whose last command is older than `before_ns`, unless one is still running."""
        if (
            self._session is not None
            and self._session.active_ns < before_ns
            and self._waiting is None
            and not self._held
        ):
            log.info("closing an idle connection", extra={"client": self.peer()})
            self.close()

    def output_bytes(self) -> int:
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._held_bytes + unsent

    def peer(self) -> str:
        return self._session.address if self._session is not None else ""


class UnterminatedConnection(Connection):
    """One that speaks text to clients which may end no line: it is complete when for a moment nothing more comes.

    Only a short one: whoever sends more, or pauses in the middle, has to end lines.
    """

    codec: TextCodec

    def __init__(self, server: Server, codec: TextCodec) -> None:
        super().__init__(server, codec)
        self._line_ends: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._line_ends is not None:
            self._line_ends.cancel()
        super().data_received(data)
        self._line_ends = self._server.loop.call_later(UNTERMINATED_SECONDS, self._end_line)

    def eof_received(self) -> bool:
        self._end_line()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._line_ends is not None:
            self._line_ends.cancel()
        super().connection_lost(exc)

    def _end_line(self) -> None:
        """What has come is a line. Where requests wait before it, they are executed first, and it is then looked at."""
        if self._ended or not 0 < self.codec.buffered() <= UNTERMINATED_BYTES_MAX:
            return
        self.codec.end_line()
        self._pump()
