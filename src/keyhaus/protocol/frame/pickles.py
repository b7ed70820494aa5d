"""Reads pickles of all protocols without executing anything.

A pickle is a program for a small stack machine. This machine knows only what builds None, bool, int, float, str, bytes
(a bytearray becomes bytes), list, tuple, dict, set and frozenset; whatever could call, import, or reach outside ends it
with UnsafePickle at that opcode, wherever it stands. Old protocols write sets and bytes as calls of functions that they
name: `set`, `frozenset`, `bytearray`, `bytes` of the built-ins and `_codecs.encode`. Exactly these names, called with
plain data, are built here; nothing is ever looked up or imported by a name.

The opcodes are those of `pickletools` in Python's library, which describes each.

Invariants: it gives a value of the types above, or raises UnsafePickle, BadPickle or LimitExceeded, whatever the bytes.
Memory and time are linear in the bytes: what is referred to more than once counts as often as it is there, tuples that
are hashed count as what they hold, memo and cheap objects are bounded by `ITEMS_MAX`, nesting by `objects.DEPTH_MAX`.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded, UserError
from keyhaus.core.objects import DEPTH_MAX, INTEGER_BYTES_MAX

ITEMS_MAX: Final = (
    2_000_000  # memo entries; objects that take a byte each to make; repeated ones beyond the payload's size
)
REPEATED_BYTES_MAX: Final = 64 * limits.MIB  # texts and bytes that are there again and again, beyond the payload's size
COMPOUND_KEYS_MAX: Final = 10_000  # tuples, frozensets, large integers as keys: their hashes can be made to collide
_DIGITS_MAX: Final = 2 * INTEGER_BYTES_MAX
_PROTOCOL_MAX: Final = 5

_float: Final = struct.Struct(">d")
_int4: Final = struct.Struct("<i")
_COMPOUND: Final = frozenset((tuple, frozenset))
_NESTS: Final = frozenset((list, tuple, dict, set, frozenset))
_INT_MIN, _INT_END = -(1 << 63), 1 << 64


class BadPickle(UserError):
    """It is no whole pickle, or one of what no value can be."""

    code = "BADPAYLOAD"


class UnsafePickle(UserError):
    """It asks for more than to build plain data."""

    code = "UNSAFEPICKLE"


class _Named:
    """A function that old protocols name; to be called with plain data, and nothing else."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


_NAMED: Final = {
    (module, name): _Named(name)
    for module in ("builtins", "__builtin__")
    for name in ("set", "frozenset", "bytearray", "bytes")
} | {("_codecs", "encode"): _Named("encode")}

# What may call, import, or reach outside.
_UNSAFE: Final = {
    ord("i"): "INST",
    ord("o"): "OBJ",
    ord("b"): "BUILD",
    ord("P"): "PERSID",
    ord("Q"): "BINPERSID",
    0x81: "NEWOBJ",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x92: "NEWOBJ_EX",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
}


def read_pickle(data: bytes) -> Any:
    """The value of a pickle.

    Raises:
        UnsafePickle: It would call, import or reach something.
        BadPickle: It is broken, goes on behind its end, or holds what no value can be.
        LimitExceeded: It is nested too deeply, or far more than its bytes.
    """
    reader = _Reader(data)
    try:
        value = reader.read()
    except (IndexError, KeyError, struct.error):
        raise BadPickle("the pickle is broken: it ends early, or refers to what is not there") from None
    except UnicodeDecodeError:
        raise BadPickle("the pickle is broken: a text in it is none") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise BadPickle(f"the pickle is broken: {error}") from None
    if type(value) in _NESTS:
        _check(value, len(data))
    elif type(value) is _Named:
        raise UnsafePickle(f"the pickle is the function {value.name}")
    return value


class _Reader:
    """One pickle.

    Attributes:
        stack: What was built since the last mark.
        marked: The stacks below the marks.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.made = 0  # memo entries, and objects that take a byte to make
        self.hashed = 0  # what was hashed of tuples and frozensets
        self.compound_keys = 0
        self.weights: dict[int, tuple[int, int]] = {}  # of tuples and frozensets that hold others: depth, all they hold
        self.kept: list[Any] = []  # so that the numbers above stay theirs

    def read(self) -> Any:
        """Runs it up to its end. Raises IndexError, KeyError, struct.error, ValueError, TypeError for a broken one."""
        data, memo, marked, stack = self.data, self.memo, self.marked, self.stack
        at, made = self.head(), 0
        # What most pickles are made of stands here, so that it takes no calls. Where a text or a number would go on
        # behind the end, the next opcode isn't there.
        while made < ITEMS_MAX:
            opcode = data[at]
            at += 1
            if opcode == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
                made += 1
            elif opcode == 0x8C:  # SHORT_BINUNICODE
                end = at + 1 + data[at]
                text = data[at + 1 : end].decode()
                stack.append(text)
                at = end
                if data[at] == 0x94:  # as good as always
                    memo[len(memo)] = text
                    made += 1
                    at += 1
            elif opcode == 0x4B:  # BININT1
                stack.append(data[at])
                at += 1
            elif opcode == 0x68:  # BINGET
                stack.append(memo[data[at]])
                at += 1
            elif opcode == 0x71:  # BINPUT
                memo[data[at]] = stack[-1]
                at += 1
            elif opcode == 0x28:  # MARK
                marked.append(stack)
                stack = []
                made += 1
            elif opcode == 0x7D:  # EMPTY_DICT
                stack.append({})
                made += 1
            elif opcode == 0x75:  # SETITEMS
                items = stack
                stack = marked.pop()
                self.put_items(stack[-1], items)
            elif opcode == 0x2E:  # STOP
                return self.end(stack, at)
            else:
                self.at, self.stack, self.made = at, stack, made
                _HANDLERS[opcode](self)
                at, stack, made = self.at, self.stack, self.made
        raise LimitExceeded("pickle-items", made, ITEMS_MAX, "objects")

    def head(self) -> int:
        """Where the first opcode is that makes something."""
        if self.data[:1] == b"\x80":
            self.at = 1
            _proto(self)
            if self.data[self.at : self.at + 1] == b"\x95":
                self.at += 1
                _frame(self)
        return self.at

    def end(self, stack: list[Any], at: int) -> Any:
        """The value, at STOP."""
        value = stack.pop()
        if stack or self.marked:
            raise ValueError("it ends amid a value")
        if at != self.size:
            raise ValueError("it goes on behind its end")
        return value

    # reading

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self.at + size
        if end > self.size:
            raise IndexError
        data = self.data[self.at : end]
        self.at = end
        return data

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> bytes:
        end = self.data.index(b"\n", self.at)
        data = self.data[self.at : end]
        self.at = end + 1
        return data

    def cheap(self, value: Any) -> None:
        """Pushes what takes a byte to make."""
        self.made += 1
        self.stack.append(value)

    def memoize(self, number: int) -> None:
        self.made += 1
        self.memo[number] = self.stack[-1]

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    # what is hashed

    def weight(self, value: Any) -> tuple[int, int]:
        """How deep a tuple or frozenset is, and how much it holds, repetitions included."""
        return self.weights.get(id(value)) or (1, 1 + len(value))

    def compound(self, items: Iterable[Any], kind: type) -> Any:
        """A tuple or frozenset. Raises LimitExceeded where to hash it would take too long, or too deep a stack."""
        made = kind(items)
        depth, weight = 1, 1 + len(made)
        for item in made:
            if type(item) in _COMPOUND:
                inner, holds = self.weight(item)
                depth, weight = max(depth, inner + 1), weight + holds
        if depth > DEPTH_MAX:
            raise LimitExceeded("value-depth", depth, DEPTH_MAX, "levels of nesting")
        self.limit_hashed(weight)
        if depth > 1:
            self.weights[id(made)] = depth, weight
            self.kept.append(made)
        return made

    def limit_hashed(self, more: int) -> None:
        if self.hashed + more > ITEMS_MAX + self.size:
            raise LimitExceeded("pickle-items", self.hashed + more, ITEMS_MAX + self.size, "objects in keys")

    def check_keys(self, keys: Iterable[Any]) -> None:
        """Before keys are hashed."""
        for key in keys:
            kind = type(key)
            if kind is str or kind is bytes:
                continue
            if kind in _COMPOUND:
                self.hashed += self.weight(key)[1]
                self.limit_hashed(0)
            elif kind is not int or _INT_MIN <= key < _INT_END:
                continue
            self.compound_keys += 1
            if self.compound_keys > COMPOUND_KEYS_MAX:
                raise LimitExceeded("pickle-compound-keys", self.compound_keys, COMPOUND_KEYS_MAX, "keys")

    def frozenset(self, items: list[Any]) -> Any:
        self.check_keys(items)
        return self.compound(items, frozenset)

    def set(self, items: list[Any]) -> Any:
        self.check_keys(items)
        return set(items)

    def put_items(self, target: Any, items: list[Any]) -> None:
        if type(target) is not dict:
            raise ValueError("items are put into something else than a dict")
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values):
            raise ValueError("a dict's last key has no value")
        for key in keys:
            if type(key) is not str:
                self.check_keys(keys)
                break
        target.update(zip(keys, values, strict=False))

    # calls of the functions that old protocols name

    def global_(self, module: str, name: str) -> None:
        named = _NAMED.get((module, name))
        if named is None:
            raise UnsafePickle(f"the pickle names {module[:100]}.{name[:100]}, and nothing is ever imported for one")
        self.cheap(named)

    def reduce(self) -> None:
        args = self.stack.pop()
        named = self.stack.pop()
        if type(named) is not _Named or type(args) is not tuple:
            raise UnsafePickle("the pickle calls something, and nothing is ever called for one")
        self.stack.append(self.call(named.name, args))

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        kinds = tuple(map(type, args))
        if name in ("set", "frozenset") and kinds in ((), (list,), (tuple,)):
            items = list(args[0]) if args else []
            return self.set(items) if name == "set" else self.frozenset(items)
        if name in ("bytes", "bytearray") and not args:
            return b""
        if name == "bytearray" and kinds == (bytes,):
            return args[0]
        if name in ("encode", "bytearray") and kinds == (str, str) and args[1] in ("latin1", "latin-1"):
            return args[0].encode("latin-1")
        raise UnsafePickle(f"the pickle calls {name} with something else than plain data of its own")


def _refuse(opcode: int) -> Callable[[_Reader], None]:
    """What meets an opcode that is not executed, or is none."""
    name = _UNSAFE.get(opcode)

    def refuse(reader: _Reader) -> None:
        if name is not None:
            raise UnsafePickle(f"the pickle has the opcode {name}, which could execute code")
        raise BadPickle(f"the pickle is broken: 0x{opcode:02x} is no opcode")

    return refuse


def _check(value: Any, size: int) -> None:
    """How much a value is where what is there several times counts as often. A circle is infinitely deep."""
    items, room = ITEMS_MAX + size, REPEATED_BYTES_MAX + size
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            raise LimitExceeded("value-depth", depth, DEPTH_MAX, "levels of nesting")
        following: list[Any] = []
        for container in level:
            items -= len(container)
            if items < 0:
                raise LimitExceeded("pickle-items", ITEMS_MAX + size + 1, ITEMS_MAX + size, "objects")
            parts = (container, container.values()) if type(container) is dict else (container,)
            for part in parts:
                for item in part:
                    kind = type(item)
                    if kind is str or kind is bytes:
                        room -= len(item)
                    elif kind in _NESTS:
                        following.append(item)
                    elif kind is _Named:
                        raise UnsafePickle(f"the pickle holds the function {item.name}")
            if room < 0:
                most = REPEATED_BYTES_MAX + size
                raise LimitExceeded("pickle-bytes", most - room, most)
        level = following


# the opcodes that are met less often


def _proto(reader: _Reader) -> None:
    if reader.take(1)[0] > _PROTOCOL_MAX:
        raise ValueError(f"its protocol is above {_PROTOCOL_MAX}")


def _frame(reader: _Reader) -> None:
    if reader.number(8) > reader.size - reader.at:
        raise IndexError


def _pop_mark(reader: _Reader) -> None:
    reader.pop_mark()


def _pop(reader: _Reader) -> None:
    if reader.stack:
        reader.stack.pop()
    else:
        reader.pop_mark()


def _integer(text: bytes) -> int:
    if len(text) > _DIGITS_MAX:
        raise LimitExceeded("integer-digits", len(text), _DIGITS_MAX, "digits")
    return int(text, 0)


def _int(reader: _Reader) -> None:
    text = reader.line()
    reader.stack.append({b"00": False, b"01": True}.get(text) if text in (b"00", b"01") else _integer(text))


def _long_of(reader: _Reader, size: int) -> None:
    if size > INTEGER_BYTES_MAX:
        raise LimitExceeded("integer-bytes", size, INTEGER_BYTES_MAX)
    if size < 0:
        raise ValueError("a length is negative")
    reader.stack.append(int.from_bytes(reader.take(size), "little", signed=True))


def _string(reader: _Reader) -> None:
    text = reader.line()
    if len(text) < 2 or text[0] != text[-1] or text[:1] not in (b"'", b'"'):
        raise ValueError("a string in it has no quotes")
    reader.stack.append(codecs.escape_decode(text[1:-1])[0].decode("ascii"))


def _unicode(reader: _Reader) -> None:
    text: str = codecs.raw_unicode_escape_decode(reader.line())[0]  # by its name it would be imported
    text.encode()  # surrogates are no characters
    reader.stack.append(text)


def _signed_string(reader: _Reader) -> None:
    size: int = _int4.unpack(reader.take(4))[0]
    if size < 0:
        raise ValueError("a length is negative")
    reader.stack.append(reader.take(size).decode("ascii"))


def _append(reader: _Reader) -> None:
    value = reader.stack.pop()
    _list(reader).append(value)


def _appends(reader: _Reader) -> None:
    items = reader.pop_mark()
    _list(reader).extend(items)


def _list(reader: _Reader) -> list[Any]:
    target = reader.stack[-1]
    if type(target) is not list:
        raise ValueError("something is appended to what is no list")
    return target


def _set_item(reader: _Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    reader.put_items(reader.stack[-1], [key, value])


def _add_items(reader: _Reader) -> None:
    items = reader.pop_mark()
    target = reader.stack[-1]
    if type(target) is not set:
        raise ValueError("something is added to what is no set")
    reader.check_keys(items)
    target.update(items)


def _dict(reader: _Reader) -> None:
    items = reader.pop_mark()
    made: dict[Any, Any] = {}
    reader.put_items(made, items)
    reader.cheap(made)


def _tuple_of(reader: _Reader, size: int) -> None:
    stack = reader.stack
    if len(stack) < size:
        raise IndexError
    items = stack[-size:]
    del stack[-size:]
    reader.cheap(reader.compound(items, tuple))


def _global(reader: _Reader) -> None:
    module, name = reader.line().decode(), reader.line().decode()
    reader.global_(module, name)


def _stack_global(reader: _Reader) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise UnsafePickle("the pickle names something by what is no text")
    reader.global_(module, name)


def _push(value: Any) -> Callable[[_Reader], None]:
    return lambda reader: reader.cheap(value)


def _text(width: int) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(reader.take(reader.number(width)).decode())


def _bytes(width: int) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(reader.take(reader.number(width)))


_TABLE: Final[dict[int, Callable[[_Reader], None]]] = {
    0x80: _proto,
    0x95: _frame,
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): lambda reader: reader.cheap(reader.stack[-1]),
    ord("N"): _push(None),
    0x88: _push(True),
    0x89: _push(False),
    ord("I"): _int,
    ord("J"): lambda reader: reader.stack.append(_int4.unpack(reader.take(4))[0]),
    ord("M"): lambda reader: reader.stack.append(reader.number(2)),
    ord("L"): lambda reader: reader.stack.append(_integer(reader.line().removesuffix(b"L"))),
    0x8A: lambda reader: _long_of(reader, reader.number(1)),
    0x8B: lambda reader: _long_of(reader, _int4.unpack(reader.take(4))[0]),
    ord("F"): lambda reader: reader.stack.append(float(reader.line())),
    ord("G"): lambda reader: reader.stack.append(_float.unpack(reader.take(8))[0]),
    ord("S"): _string,
    ord("T"): _signed_string,
    ord("U"): lambda reader: reader.stack.append(reader.take(reader.number(1)).decode("ascii")),
    ord("V"): _unicode,
    ord("X"): _text(4),
    0x8D: _text(8),
    ord("C"): _bytes(1),
    ord("B"): _bytes(4),
    0x8E: _bytes(8),
    0x96: _bytes(8),  # BYTEARRAY8
    ord("]"): lambda reader: reader.cheap([]),
    ord(")"): lambda reader: reader.cheap(()),
    0x8F: lambda reader: reader.cheap(set()),
    ord("a"): _append,
    ord("e"): _appends,
    ord("s"): _set_item,
    0x90: _add_items,
    ord("l"): lambda reader: reader.cheap(reader.pop_mark()),
    ord("d"): _dict,
    ord("t"): lambda reader: reader.cheap(reader.compound(reader.pop_mark(), tuple)),
    0x85: lambda reader: _tuple_of(reader, 1),
    0x86: lambda reader: _tuple_of(reader, 2),
    0x87: lambda reader: _tuple_of(reader, 3),
    0x91: lambda reader: reader.cheap(reader.frozenset(reader.pop_mark())),
    ord("g"): lambda reader: reader.cheap(reader.memo[_integer(reader.line())]),
    ord("j"): lambda reader: reader.stack.append(reader.memo[reader.number(4)]),
    ord("p"): lambda reader: reader.memoize(_integer(reader.line())),
    ord("r"): lambda reader: reader.memoize(reader.number(4)),
    ord("c"): _global,
    0x93: _stack_global,
    ord("R"): lambda reader: reader.reduce(),
}
_HANDLERS: Final = tuple(_TABLE.get(opcode) or _refuse(opcode) for opcode in range(256))
