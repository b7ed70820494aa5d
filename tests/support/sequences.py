"""Random command sequences for comparing servers: valid and invalid arguments, transactions, several databases.

A sequence is decided before it is sent, by its seed alone, so that it can be repeated and shortened. Times are chosen
so that the two servers' clocks can't matter: deadlines are over or far away, and no two are close to each other.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keyhaus.commands.dump import dumped

Words = list[bytes]


class How(enum.Enum):
    """What is done with a step's words, and what its replies are compared as."""

    COMMAND = "send it, compare the reply"
    WHOLE_SCAN = "SCAN with these options until the cursor is 0, compare what was found"
    EXCHANGE = "DUMP the key on each server and RESTORE it on the other, compare what is there then"
    LAPSE = "let the key expire and look at it"


@dataclass(frozen=True)
class Step:
    client: int
    words: tuple[bytes, ...]
    how: How = How.COMMAND

    def __str__(self) -> str:
        words = " ".join(repr(word)[1:] for word in self.words)
        return f"{self.client}> {words}" + ("" if self.how is How.COMMAND else f"   ({self.how.value})")


CLIENTS: Final = 2
_KEYS: Final = (b"a", b"b", b"c", b"d", b"key:1", b"key:2", b"h[e]llo", b"", b"\x00bin\xff\r\n", b"k" * 100)
_INTEGERS: Final = tuple(
    b"%d" % number
    for number in (0, -1, -7, 12345678901, 1 << 31, (1 << 63) - 1, 1 << 63, -(1 << 63), -(1 << 63) - 1, 10**25)
)
_NO_INTEGERS: Final = (b"", b"abc", b"1.5", b"+1", b"01", b" 1", b"1 ", b"-0", b"0x10", b"1_0", b"\xff", b"1\x00")
_FLOATS: Final = (
    *(b"0.1", b"-0.25", b"3.0e3", b"1e-5", b"100", b"-1", b"5.", b".5", b"1e17", b"0x1p-3", b"1e4932", b"1e-4951"),
    *(b"inf", b"-Infinity", b"nan", b"1e", b"", b" 1", b"1e5000", b"123456789.123456789", b"1.7976931348623157e308"),
)
_VALUES: Final = (
    *(b"", b"hello", b"10", b"-3", b"007", b"3.14", b"1e3", b"\r\n", b"\x00\xff\x80", b"ohmytext", b"mynewtext"),
    *(b"x" * 45, b"abcabc" * 60, bytes(range(256)), b"%d" % ((1 << 63) - 1), b"-9223372036854775808"),
)
_PATTERNS: Final = (
    *(b"*", b"**", b"a*", b"*e*", b"?", b"key:[12]", b"key:[^1]", b"h\\[e\\]llo", b"[a-c]", b"[c-a]", b"[", b"[^"),
    *(b"", b"\\", b"k*k", b"*[!-~]", b"[a\\-c]", b"*\xff*", b"[\x80-\xff]*", b"h[[]e]llo", b"[a-]"),
)
_COMPRESSED: Final = b"\x00\xc3\t(\x01aa\xe0\x1b\x00\x01aa\n\x00\xcf\t/\xaa\xae%\x83\x1d"  # forty times an `a`
_PAYLOADS: Final = (
    *(dumped(b"hello"), dumped(b"-12345"), dumped(b""), dumped(b"x" * 100), _COMPRESSED),
    *(b"", b"short", b"x" * 40, dumped(b"hello")[:-1] + b"?", dumped(b"hello").replace(b"\n\0", b"\x0b\0")),
)
# Their arguments are never exchanged: a value might become a deadline of a few milliseconds.
_TIMED: Final = frozenset(
    (b"SET", b"SETEX", b"PSETEX", b"GETEX", b"RESTORE", b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT")
)
_CURSORS: Final = (b"0", b"0", b"0", b"", b"x", b"-", b" 0", b"0 ", b"9" * 30, b"0\x00x", b"+0", b"-0", b"00")
_UNKNOWN: Final = (b"NOSUCH", b"", b"get ", b"GETT", b"\xff\x00", b"no" * 70, b"set\r\n")


class Sequence:
    """One sequence; `steps` holds it."""

    def __init__(self, seed: str, length: int) -> None:
        self._random = random.Random(seed)
        self.protocols = [self._random.choice((2, 3)) for _ in range(CLIENTS)]
        self.steps: list[Step] = []
        self._client = 0
        while len(self.steps) < length:
            self._extend()

    def _extend(self) -> None:
        chance = self._random.random()
        if chance < 0.06:
            self._transaction()
        elif chance < 0.08:
            self._add(Step(self._client, (b"COUNT", b"5", *self._scan_options()), How.WHOLE_SCAN))
        elif chance < 0.10:
            self._add(Step(self._client, (self._key(),), How.EXCHANGE))
        elif chance < 0.105:
            self._add(Step(self._client, (self._key(),), How.LAPSE))
        elif chance < 0.11:
            self._born_expired()
        else:
            self._plain(self._client)
        if self._random.random() < 0.15:
            self._client = self._random.randrange(CLIENTS)

    def _add(self, step: Step) -> None:
        self.steps.append(step)

    def _plain(self, client: int) -> None:
        self._add(Step(client, tuple(self._mutated(self._command()))))

    def _born_expired(self) -> None:
        """A key whose deadline was over when it was set; looked at, since when it is swept is nobody's promise."""
        key = self._key()
        end = self._random.choice((b"EXAT", b"PXAT"))
        self._add(Step(self._client, (b"SET", key, b"v", end, b"1", *self._random.choice(((), (b"GET",), (b"NX",))))))
        self._add(Step(self._client, (b"EXISTS", key)))

    def _transaction(self) -> None:
        client, other = self._client, (self._client + 1) % CLIENTS
        if self._random.random() < 0.5:
            self._add(Step(client, (b"WATCH", *self._some(self._key, 1, 3))))
            for _ in range(self._random.randrange(3)):
                self._plain(self._random.choice((client, other)))
            if self._random.random() < 0.1:
                self._add(Step(self._random.choice((client, other)), (self._key(),), How.LAPSE))
            if self._random.random() < 0.1:
                self._add(Step(client, (b"UNWATCH",)))
        if self._random.random() < 0.95:
            self._add(Step(client, (b"MULTI",)))
        for _ in range(self._random.randrange(8)):
            self._plain(other if self._random.random() < 0.2 else client)
        if self._random.random() < 0.05:
            self._add(Step(client, (self._random.choice((b"MULTI", b"WATCH", b"NOSUCH", b"RESET")), b"a")))
        self._add(Step(client, (self._random.choice((b"EXEC",) * 8 + (b"DISCARD", b"exec")),)))

    # commands

    def _command(self) -> Words:
        name = self._random.choices(_NAMES, _WEIGHTS)[0]
        return [name, *_TABLE[name][1](self)]

    def _mutated(self, words: Words) -> Words:
        generator = self._random
        if generator.random() < 0.06:
            place = generator.randrange(len(words) + 1)
            change = generator.randrange(3)
            if change == 0 and len(words) > 1:
                del words[generator.randrange(1, len(words))]
            elif change == 1:
                words.insert(max(place, 1), generator.choice((*_INTEGERS, *_NO_INTEGERS, b"NX", b"EX", b"GET", b"DB")))
            elif len(words) > 2 and words[0] not in _TIMED:
                one, other = generator.randrange(1, len(words)), generator.randrange(1, len(words))
                words[one], words[other] = words[other], words[one]
        if generator.random() < 0.3:
            words[0] = generator.choice((words[0].lower(), words[0].capitalize(), words[0].swapcase()))
        return words

    def _some(self, make: Callable[[], bytes], least: int, most: int) -> Words:
        return [make() for _ in range(self._random.randint(least, most))]

    def _key(self) -> bytes:
        # The first keys are used most, so that commands meet.
        return _KEYS[min(self._random.randrange(len(_KEYS)), self._random.randrange(len(_KEYS)))]

    def _value(self) -> bytes:
        return self._random.choice(_VALUES)

    def _integer(self) -> bytes:
        return self._random.choice(_NO_INTEGERS if self._random.random() < 0.2 else _INTEGERS)

    def _small(self) -> bytes:
        if self._random.random() < 0.1:
            return self._integer()
        return b"%d" % self._random.randint(-12, 24)

    def _float(self) -> bytes:
        return self._random.choice(_FLOATS)

    def _pattern(self) -> bytes:
        if self._random.random() < 0.7:
            return self._random.choice(_PATTERNS)
        return bytes(self._random.choice(b"ab*?[]^-\\k\xff") for _ in range(self._random.randrange(7)))

    def _database(self) -> bytes:
        if self._random.random() < 0.1:
            return self._random.choice((*_INTEGERS, *_NO_INTEGERS, b"16", b"99"))
        return b"%d" % self._random.choice((0, 0, 0, 1, 1, 2, 15))

    def _offset(self) -> bytes:
        if self._random.random() < 0.15:
            return self._random.choice((*_NO_INTEGERS, b"536870912", b"9223372036854775807", b"-1", b"-9"))
        return b"%d" % self._random.randrange(30)

    def _duration(self, unit: int) -> bytes:
        """Over at once, or far away."""
        if self._random.random() < 0.25:
            return self._random.choice((*_INTEGERS, *_NO_INTEGERS))
        return b"%d" % self._random.randint(10**6 // unit, 10**9 // unit)

    def _moment(self, unit: int) -> bytes:
        if self._random.random() < 0.25:
            return self._random.choice((b"1", *_INTEGERS, *_NO_INTEGERS))
        return self._far_moment(unit)

    def _far_moment(self, unit: int) -> bytes:
        return b"%d" % (self._random.randint(4 * 10**9, 8 * 10**9) * 1000 // unit)

    def _deadline_option(self, *, past: bool = True) -> Words:
        word, unit, moment = self._random.choice(
            ((b"EX", 1000, False), (b"PX", 1, False), (b"EXAT", 1000, True), (b"PXAT", 1, True))
        )
        if self._random.random() < 0.3:
            word = word.lower()
        if moment and not past:
            return [word, self._far_moment(unit)]
        return [word, self._moment(unit) if moment else self._duration(unit)]

    def _set_options(self) -> Words:
        words: Words = []
        while self._random.random() < 0.45:
            words += self._random.choice(
                ([b"NX"], [b"XX"], [b"GET"], [b"KEEPTTL"], [b"get"], *[self._deadline_option(past=False)] * 2)
            )
        return words

    def _getex_options(self) -> Words:
        return self._random.choice(
            ([], [b"PERSIST"], self._deadline_option(), [*self._deadline_option(), b"PERSIST"], [b"KEEPTTL"], [b"EX"])
        )

    def _expire_options(self) -> Words:
        return self._some(lambda: self._random.choice((b"NX", b"XX", b"GT", b"LT", b"gt", b"lt", b"N")), 0, 2)

    def _copy_options(self) -> Words:
        return self._random.choice(
            ([], [b"REPLACE"], [b"DB", self._database()], [b"db", self._database(), b"replace"], [b"DB"], [b"NO"])
        )

    def _restore_options(self) -> Words:
        words: Words = []
        while self._random.random() < 0.5:
            words += self._random.choice(
                ([b"REPLACE"], [b"ABSTTL"], [b"IDLETIME", self._small()], [b"FREQ", self._small()], [b"replace"])
            )
        return words

    def _lcs_options(self) -> Words:
        words: Words = []
        while self._random.random() < 0.6:
            words += self._random.choice(
                ([b"LEN"], [b"IDX"], [b"WITHMATCHLEN"], [b"MINMATCHLEN", self._small()], [b"x"])
            )
        return words

    def _scan_options(self) -> Words:
        words: Words = []
        while self._random.random() < 0.5:
            words += self._random.choice(
                ([b"MATCH", self._pattern()], [b"TYPE", self._random.choice((b"string", b"STRING", b"zset", b""))])
            )
        return words

    def _restore_ttl(self) -> bytes:
        return b"0" if self._random.random() < 0.6 else self._duration(1)


def _key_and(*makers: Callable[[Sequence], bytes]) -> Callable[[Sequence], Words]:
    return lambda s: [s._key(), *(make(s) for make in makers)]


def _keys(least: int, most: int) -> Callable[[Sequence], Words]:
    return lambda s: s._some(s._key, least, most)


def _pairs(s: Sequence) -> Words:
    return [word for _ in range(s._random.randint(1, 3)) for word in (s._key(), s._value())]


_key_alone = _key_and()
# Each command with its weight and what makes its arguments.
_TABLE: Final[dict[bytes, tuple[int, Callable[[Sequence], Words]]]] = {
    b"SET": (30, lambda s: [s._key(), s._value(), *s._set_options()]),
    b"GET": (15, _key_alone),
    b"GETDEL": (3, _key_alone),
    b"GETEX": (8, lambda s: [s._key(), *s._getex_options()]),
    b"GETSET": (4, _key_and(Sequence._value)),
    b"GETRANGE": (6, _key_and(Sequence._small, Sequence._small)),
    b"SUBSTR": (2, _key_and(Sequence._small, Sequence._small)),
    b"SETRANGE": (6, _key_and(Sequence._offset, Sequence._value)),
    b"APPEND": (6, _key_and(Sequence._value)),
    b"STRLEN": (4, _key_alone),
    b"MGET": (5, _keys(1, 4)),
    b"MSET": (6, _pairs),
    b"MSETNX": (3, _pairs),
    b"SETNX": (4, _key_and(Sequence._value)),
    b"SETEX": (4, lambda s: [s._key(), s._duration(1000), s._value()]),
    b"PSETEX": (4, lambda s: [s._key(), s._duration(1), s._value()]),
    b"INCR": (5, _key_alone),
    b"DECR": (5, _key_alone),
    b"INCRBY": (5, _key_and(Sequence._integer)),
    b"DECRBY": (5, _key_and(Sequence._integer)),
    b"INCRBYFLOAT": (8, _key_and(Sequence._float)),
    b"LCS": (6, lambda s: [s._key(), s._key(), *s._lcs_options()]),
    b"DEL": (5, _keys(1, 3)),
    b"UNLINK": (3, _keys(1, 3)),
    b"EXISTS": (4, _keys(1, 3)),
    b"TOUCH": (3, _keys(1, 3)),
    b"COPY": (7, lambda s: [s._key(), s._key(), *s._copy_options()]),
    b"RENAME": (5, _keys(2, 2)),
    b"RENAMENX": (5, _keys(2, 2)),
    b"MOVE": (5, _key_and(Sequence._database)),
    b"TYPE": (4, _key_alone),
    b"RANDOMKEY": (2, lambda _: []),
    b"KEYS": (6, lambda s: [s._pattern()]),
    b"DUMP": (2, _key_alone),
    b"RESTORE": (
        8,
        lambda s: [s._key(), s._restore_ttl(), s._random.choice(_PAYLOADS), *s._restore_options()],
    ),
    b"EXPIRE": (8, lambda s: [s._key(), s._duration(1000), *s._expire_options()]),
    b"PEXPIRE": (8, lambda s: [s._key(), s._duration(1), *s._expire_options()]),
    b"EXPIREAT": (6, lambda s: [s._key(), s._moment(1000), *s._expire_options()]),
    b"PEXPIREAT": (6, lambda s: [s._key(), s._moment(1), *s._expire_options()]),
    b"TTL": (4, _key_alone),
    b"PTTL": (4, _key_alone),
    b"EXPIRETIME": (4, _key_alone),
    b"PEXPIRETIME": (4, _key_alone),
    b"PERSIST": (5, _key_alone),
    b"SCAN": (
        6,
        lambda s: [s._random.choice(_CURSORS), b"COUNT", s._small(), *s._scan_options()],
    ),
    b"DBSIZE": (4, lambda _: []),
    b"FLUSHDB": (1, lambda s: s._random.choice(([], [b"ASYNC"], [b"sync"], [b"x"]))),
    b"FLUSHALL": (1, lambda s: s._random.choice(([], [b"SYNC"]))),
    b"SELECT": (4, lambda s: [s._database()]),
    b"SWAPDB": (2, lambda s: [s._database(), s._database()]),
    b"PING": (1, lambda s: s._some(s._value, 0, 2)),
    b"ECHO": (1, lambda s: [s._value()]),
    b"EXEC": (1, lambda _: []),
    b"DISCARD": (1, lambda _: []),
    b"UNWATCH": (1, lambda _: []),
    **{name: (1, lambda s: s._some(s._value, 0, 3)) for name in _UNKNOWN},
}
_NAMES: Final = tuple(_TABLE)
_WEIGHTS: Final = tuple(weight for weight, _ in _TABLE.values())
COMMANDS: Final = frozenset(_NAMES) - frozenset(_UNKNOWN)
