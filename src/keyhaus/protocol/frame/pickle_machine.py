"""The stack machine that pickles are read by: its state, and what it does to it. Nothing here can call or import.

The functions that old protocols name are no functions here, but names: `call` makes of plain data what picklers mean by
them, and refuses all else.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any, Final

from keyhaus.core.budget import CONTAINER_BYTES
from keyhaus.core.collisions import Set
from keyhaus.protocol.frame.plain_data import Named, Room, UnsafePickle

UnpackFrom = Callable[[bytes, int], tuple[Any, ...]]
"""Reads one number at an offset."""

_MEMO_NUMBER_MAX: Final = (1 << 32) - 1
_MEMO_ENTRY: Final = 128  # what an entry costs where the memo has gaps

_NAMED: Final = {
    (module, name): Named(name.decode())
    for module, names in {
        b"builtins": (b"set", b"frozenset", b"bytearray", b"bytes"),
        b"__builtin__": (b"set", b"frozenset", b"bytearray", b"bytes"),
        b"_codecs": (b"encode",),
    }.items()
    for name in names
}


class Machine:
    """One pickle.

    Attributes:
        at: Where the next opcode or argument begins.
        stack: What was built since the last mark.
        marked: The stacks below the marks.
        room: What may still be built.
    """

    __slots__ = ("at", "data", "marked", "memo", "room", "stack")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: list[Any] | Gaps = []
        self.room = Room(len(data))

    # reading

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self.at + size
        if end > len(self.data):
            raise ValueError(f"it ends early: {size} bytes are announced, {len(self.data) - self.at} are there")
        data = self.data[self.at : end]
        self.at = end
        return data

    def number(self, unpack_from: UnpackFrom, size: int) -> Any:
        """The next number."""
        (number,) = unpack_from(self.data, self.at)
        self.at += size
        return number

    def line(self) -> bytes:
        """What stands before the next line feed."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise ValueError("it ends early: a line in it has no end")
        data = self.data[self.at : end]
        self.at = end + 1
        return data

    # stack and memo

    def pop_mark(self) -> list[Any]:
        """What stands above the last mark, which is gone then."""
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def put(self, number: int) -> None:
        """Remembers the top of the stack under a number."""
        value, memo = self.stack[-1], self.memo
        _check_number(number)
        if type(memo) is list:
            if number < len(memo):
                memo[number] = value
                return
            if number == len(memo):
                memo.append(value)
                return
            self.room.spend(_MEMO_ENTRY * len(memo))
            memo = self.memo = Gaps(memo, self.room)
        self.room.spend(_MEMO_ENTRY)
        memo[number] = value

    def get(self, number: int) -> None:
        """Pushes what stands under a number."""
        _check_number(number)
        value = self.memo[number]
        self.room.again(value)
        self.stack.append(value)

    # containers

    def put_items(self, target: Any, items: list[Any]) -> None:
        """Puts keys and values by turns into a dict."""
        if type(target) is not dict:
            raise ValueError(f"keys and values are put into a {named(target)}")
        if len(items) % 2:
            raise ValueError("a dict's last key has no value")
        if not self.room.placed:
            pairs = iter(items)
            for key in pairs:
                if type(key) is not str:
                    items = [key, *pairs]
                    break
                target[key] = next(pairs)
            else:
                return
        self.room.put(target, items[::2], items[1::2])

    def add_items(self, target: Any, items: list[Any]) -> None:
        """Puts members into a set."""
        if type(target) is not set:
            raise ValueError(f"members are added to a {named(target)}")
        self.room.add(target, items)

    def push_set(self, kind: type[Set], items: list[Any]) -> None:
        """Pushes a set or frozenset of members."""
        self.stack.append(self.room.made(kind, items))

    # calls of the functions that old protocols name

    def push_named(self, module: bytes, name: bytes) -> None:
        """Pushes one of the few functions that may be named."""
        function = _NAMED.get((module, name))
        if function is None:
            shown = b".".join((module[:100], name[:100])).decode("utf-8", "backslashreplace")
            raise UnsafePickle(f"the pickle names {shown}, and nothing is ever imported for one")
        self.room.odd = True
        self.stack.append(function)

    def call(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Pushes what a named function makes of plain data, in the forms that picklers write."""
        kinds = tuple(map(type, arguments))
        if name in ("set", "frozenset") and kinds in ((), (list,), (tuple,)):
            self.room.spend(CONTAINER_BYTES * sum(map(len, arguments)))  # what is hashed takes as long as a container
            items: list[Any] = list(*arguments)
            if name == "set":
                self.push_set(set, items)
            else:
                self.push_set(frozenset, items)
        elif name in ("bytes", "bytearray") and not kinds:
            self.stack.append(b"")
        elif name == "bytearray" and kinds == (bytes,):
            self.stack.append(arguments[0])
        elif name in ("encode", "bytearray") and kinds == (str, str) and arguments[1] in ("latin1", "latin-1"):
            self.room.spend(len(arguments[0]))
            self.stack.append(codecs.latin_1_encode(arguments[0])[0])
        else:
            raise UnsafePickle(f"the pickle calls {name} with something else than the plain data that it takes")


class Gaps(dict[int, Any]):
    """A memo whose numbers do not follow one another. MEMOIZE goes by how many there are, as in the library."""

    def __init__(self, memo: list[Any], room: Room) -> None:
        super().__init__(enumerate(memo))
        self._room = room

    def append(self, value: Any) -> None:
        self._room.spend(_MEMO_ENTRY)
        self[len(self)] = value


def _check_number(number: int) -> None:
    if not 0 <= number <= _MEMO_NUMBER_MAX:
        raise ValueError(f"the memo's numbers are 0 to {_MEMO_NUMBER_MAX}, not {number}")


def named(value: Any) -> str:
    """What a value is called in an error."""
    return type(value).__name__ if type(value) is not Named else "function"
