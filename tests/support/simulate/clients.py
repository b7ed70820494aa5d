"""Clients of a simulated server: the server's own connections and sessions, without sockets and codecs.

A request is put where the codec would put it, and a reply is written as a token of a few bytes; so when and in which
order replies leave is decided by the very code that decides it in the server (C3).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from keyhaus.core.request import NEED_DATA
from keyhaus.protocol.resp import RespCodec
from keyhaus.server.connection import ClientSession, Connection
from keyhaus.session.hub import Hub
from keyhaus.session.session import Session
from tests.support.simulate.machine import MachineSpawn

if TYPE_CHECKING:
    from tests.support.simulate.oracle import Oracle

TOKEN_BYTES: Final = 4
DATABASES: Final = 3
# The empty key, neighbours, and keys that sort across each other's prefixes.
KEYS: Final = [b"", b"a", b"a\0", b"a\xff", b"b", b"\xff", *(b"k%d" % number for number in range(18))]
ENDS: Final = [b"", b"", b"", b"b", b"k15", b"k5", b"\xff"]


class Loop:
    """As much of an event loop as a connection uses."""

    def __init__(self, spawn: MachineSpawn) -> None:
        self._spawn = spawn

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self._spawn.soon(partial(callback, *args) if args else callback)

    def call_later(self, seconds: float, callback: Callable[..., Any], *args: Any) -> Any:
        return self._spawn.later(seconds * 1000, partial(callback, *args))


class ObservedSession(ClientSession):
    """Tells the oracle of each command that is executed, at its moment."""

    client: Client

    def execute(self, args: list[bytes]) -> Any:
        oracle = self.client.oracle
        oracle.begins(self.client, args)
        reply = super().execute(args)
        oracle.ran(self.client, reply)
        return reply

    def resume(self) -> Any:
        oracle = self.client.oracle
        oracle.goes_on(self.client)
        reply = super().resume()
        oracle.ran(self.client, reply)
        return reply


class ObservedHub(Hub):
    def open_session(self, kind: type[Session] = Session) -> Session:
        return super().open_session(ObservedSession)


class House:
    """What a server is to its connections; one for each durability, over one store."""

    def __init__(self, hub: Hub, loop: Loop) -> None:
        self.hub, self.loop = hub, loop
        self.connections: set[Connection] = set()

    def refuse_if_full(self, transport: Any, codec: Any = None) -> bool:
        return False

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def yield_to_base(self) -> None:
        pass


class Tokens:
    """The codec's stand-in: replies by number."""

    def __init__(self) -> None:
        self.ready: deque[list[bytes]] = deque()
        self.replies: dict[int, Any] = {}
        self._next = 0
        self.mark = None

    def feed(self, data: bytes) -> None:
        pass

    def next_request(self) -> Any:
        return NEED_DATA

    def buffered(self) -> int:
        return 0

    def encode(self, reply: Any) -> bytes:
        self._next += 1
        self.replies[self._next] = reply
        return self._next.to_bytes(TOKEN_BYTES, "little")

    def encode_late(self, reply: Any, mark: Any) -> bytes:
        return self.encode(reply)


class Wire:
    """The transport's stand-in: what is written is told."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.closed = False

    def write(self, data: bytes) -> None:
        self._client.told(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class Client:
    """One client, which may connect again.

    Attributes:
        durability: What it asked for.
        database, queue, watched: What the oracle knows of its session: the database, MULTI's requests, and what it
            watches: what was visible there, and as of which commit.
        expected: What was executed and not told yet, in order.
        cursor: Where its SCAN goes on.
        in_multi: Whether what it sends next is queued.
        follows: Whether it reads the change feed, and nothing else.
        followed: The last commit of the feed that it was told of, in this life or an earlier one.
        synced_before: What was synced when its command began.
    """

    def __init__(self, oracle: Oracle, number: int, durability: str) -> None:
        self.oracle, self.number, self.durability = oracle, number, durability
        self.connection: Connection | None = None
        self.database = 0
        self.queue: list[list[bytes]] | None = None
        self.watched: dict[tuple[int, bytes], tuple[Any, int]] = {}
        self.expected: deque[Any] = deque()
        self.outstanding = 0
        self.cursor = b"0"
        self.in_multi = False
        self.follows = False
        self.followed = self.synced_before = 0
        self.running: list[bytes] = []
        self.moment: Any = None  # the snapshot that its command reads at, if it does

    def connect(self, house: House) -> None:
        self.database, self.queue, self.watched = 0, None, {}
        self.expected.clear()
        self.outstanding = 0
        self.cursor = b"0"
        self.in_multi = False
        connection = Connection(cast(Any, house), RespCodec(inline=False))
        self.tokens = Tokens()
        connection.codec = cast(Any, self.tokens)
        self.wire = Wire(self)
        self.connection = connection
        connection.connection_made(cast(Any, self.wire))
        self.session.client = self

    @property
    def session(self) -> ObservedSession:
        assert self.connection is not None
        session = self.connection._session
        assert isinstance(session, ObservedSession)
        return session

    @property
    def connected(self) -> bool:
        return self.connection is not None and self.connection._session is not None and not self.wire.closed

    def send(self, requests: list[list[bytes]]) -> None:
        assert self.connection is not None
        self.outstanding += len(requests)
        self.tokens.ready.extend(requests)
        self.connection.data_received(b"")

    def disconnect(self) -> None:
        if self.connection is not None and self.connection._session is not None:
            self.wire.closed = True
            self.connection.connection_lost(None)

    def told(self, data: bytes) -> None:
        for at in range(0, len(data), TOKEN_BYTES):
            reply = self.tokens.replies.pop(int.from_bytes(data[at : at + TOKEN_BYTES], "little"))
            self.outstanding -= 1
            self.oracle.told(self, reply)


class Workload:
    """What clients send, out of a seed."""

    def __init__(self, generator: random.Random, now: Callable[[], int]) -> None:
        self.random, self._now = generator, now
        self._values = 0
        self._keys = generator.sample(KEYS, generator.choice((6, 12, len(KEYS))))
        self._databases = generator.choice((1, 2, DATABASES))
        heavy = generator.choice((1, 1, 1, 4))
        table = (
            (self._set, 14),
            (self._set_options, 10),
            (self._get, 8),
            (self._mget, 3),
            (self._number, 8),
            (self._append, 5),
            (self._mset, 4),
            (self._delete, 8),
            (self._expire, 9),
            (self._persist, 2),
            (self._rename, 4),
            (self._copy, 4),
            (self._scan, 3),
            (self._range, 4),
            (self._keys_of, 1),
            (self._size, 4),
            (self._delrange, 1 * heavy),
            (self._flush, 1 * heavy),
            (self._swap, 1 * heavy),
            (self._select, 2),
            (self._synced, 1),
            (self._random, 1),
        )
        self._table = [make for make, weight in table for _ in range(weight)]

    def _choice(self, values: Any) -> Any:
        return values[int(self.random.random() * len(values))]

    def key(self) -> bytes:
        return cast(bytes, self._choice(self._keys))

    def value(self) -> bytes:
        self._values += 1
        value = b"v%d" % self._values
        chance = self.random.random()
        if chance < 0.02:
            return value + bytes(self._choice((900, 5000, 20_000)))
        return b"%d" % self._values if chance < 0.3 else value

    def requests(self, client: Client) -> list[list[bytes]]:
        """A pipeline."""
        if client.follows:
            return self.follow(client)
        requests = self._requests(client)
        for request in requests:
            if request[0] in (b"MULTI", b"EXEC", b"DISCARD"):
                client.in_multi = request[0] == b"MULTI"
            elif client.in_multi and request[0] in (b"WAITAOF", b"RANDOMKEY"):
                request[:] = [b"DBSIZE"]
        return requests

    def follow(self, client: Client) -> list[list[bytes]]:
        """What a reader of the change feed asks."""
        if client.outstanding:
            return []
        request = [b"CHANGES", b"AFTER", b"%d" % client.followed, b"COUNT", b"%d" % self._choice((1, 5, 50, 1000))]
        if self.random.random() < 0.5:
            request += [b"BLOCK", b"%d" % self._choice((1, 50, 2000))]
        return [request]

    def _requests(self, client: Client) -> list[list[bytes]]:
        chance = self.random.random()
        if chance < 0.7:
            return [self._choice(self._table)(client)]
        if chance < 0.86:
            return [self._choice(self._table)(client) for _ in range(self._choice((2, 3, 5)))]
        return self._transaction(client)

    def _transaction(self, client: Client) -> list[list[bytes]]:
        if client.in_multi:
            return [self._choice(([b"EXEC"], [b"EXEC"], [b"DISCARD"]))]
        requests = []
        if self.random.random() < 0.4:
            requests.append([b"WATCH", *self.random.sample(self._keys, 2)])
            if self.random.random() < 0.5:
                return requests  # others come in between
        requests.append([b"MULTI"])
        requests += [self._choice(self._table)(client) for _ in range(self._choice((1, 2, 4)))]
        if self.random.random() < 0.9:
            requests.append([b"EXEC"])
        return requests

    # one request each

    def _set(self, client: Client) -> list[bytes]:
        return [b"SET", self.key(), self.value()]

    def _deadline(self) -> list[bytes]:
        if self.random.random() < 0.6:
            return [b"PX", b"%d" % self._choice((1, 20, 150, 600, 5000, 100_000))]
        # Few moments, so that the same one comes again.
        return [b"PXAT", b"%d" % (self._now() // 1000 * 1000 + self._choice((-1000, 1000, 1000, 2000, 60_000)))]

    def _set_options(self, client: Client) -> list[bytes]:
        request = [b"SET", self.key(), self.value()]
        chance = self.random.random()
        if chance < 0.6:
            return [*request, *self._deadline()]
        options = (
            [b"NX"],
            [b"XX"],
            [b"GET"],
            [b"KEEPTTL"],
            [b"XX", b"KEEPTTL"],
            [b"NX", b"PX", b"300"],
            [b"XX", b"GET"],
        )
        return [*request, *self._choice(options)]

    def _get(self, client: Client) -> list[bytes]:
        return [self._choice((b"GET", b"GET", b"STRLEN", b"EXISTS", b"PTTL")), self.key()]

    def _mget(self, client: Client) -> list[bytes]:
        return [self._choice((b"MGET", b"EXISTS")), *(self.key() for _ in range(self._choice((1, 3, 6))))]

    def _number(self, client: Client) -> list[bytes]:
        return [b"INCR", self.key()] if self.random.random() < 0.5 else [b"INCRBY", self.key(), b"17"]

    def _append(self, client: Client) -> list[bytes]:
        return [b"APPEND", self.key(), b"+%d" % self._values]

    def _mset(self, client: Client) -> list[bytes]:
        pairs = [part for _ in range(self._choice((1, 3, 8))) for part in (self.key(), self.value())]
        return [b"MSETNX" if self.random.random() < 0.3 else b"MSET", *pairs]

    def _delete(self, client: Client) -> list[bytes]:
        if self.random.random() < 0.3:
            return [b"GETDEL", self.key()]
        return [b"DEL", *(self.key() for _ in range(self._choice((1, 1, 1, 4))))]

    def _expire(self, client: Client) -> list[bytes]:
        word, number = self._deadline()
        condition = self._choice(([], [], [], [b"GT"], [b"NX"]))
        return [b"PEXPIRE" if word == b"PX" else b"PEXPIREAT", self.key(), number, *condition]

    def _persist(self, client: Client) -> list[bytes]:
        return [b"PERSIST", self.key()]

    def _rename(self, client: Client) -> list[bytes]:
        return [self._choice((b"RENAME", b"RENAME", b"RENAMENX")), self.key(), self.key()]

    def _copy(self, client: Client) -> list[bytes]:
        chance = self.random.random()
        if chance < 0.3:
            return [b"MOVE", self.key(), b"%d" % self._database()]
        request = [b"COPY", self.key(), self.key()]
        if chance < 0.6:
            request += [b"DB", b"%d" % self._database()]
        return [*request, b"REPLACE"] if self.random.random() < 0.6 else request

    def _scan(self, client: Client) -> list[bytes]:
        return [b"SCAN", client.cursor, b"COUNT", b"%d" % self._choice((1, 3, 10))]

    def _range(self, client: Client) -> list[bytes]:
        request = [b"RANGE", self._choice((b"", b"", self.key())), self._choice(ENDS)]
        if self.random.random() < 0.4:
            request.append(b"REV")
        if self.random.random() < 0.7:
            request += [b"LIMIT", b"%d" % self._choice((1, 2, 5))]
        return [*request, b"KEYS"] if self.random.random() < 0.4 else request

    def _keys_of(self, client: Client) -> list[bytes]:
        return [b"KEYS", b"*"]

    def _size(self, client: Client) -> list[bytes]:
        return [b"DBSIZE"]

    def _delrange(self, client: Client) -> list[bytes]:
        return [b"DELRANGE", self._choice((b"", self.key(), b"k1")), self._choice((b"b", b"k12", b"k5", b""))]

    def _flush(self, client: Client) -> list[bytes]:
        return [b"FLUSHDB"] if self.random.random() < 0.6 else [b"FLUSHALL"]

    def _swap(self, client: Client) -> list[bytes]:
        return [b"SWAPDB", b"%d" % self._database(), b"%d" % self._database()]

    def _database(self) -> int:
        return int(self.random.random() * DATABASES)

    def _select(self, client: Client) -> list[bytes]:
        return [b"SELECT", b"%d" % int(self.random.random() * self._databases)]

    def _synced(self, client: Client) -> list[bytes]:
        return [b"WAITAOF", b"1", b"0", b"0"]

    def _random(self, client: Client) -> list[bytes]:
        return [b"RANDOMKEY"]
