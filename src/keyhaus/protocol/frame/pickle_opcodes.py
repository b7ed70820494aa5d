"""What each opcode of a pickle does to the machine: those that build plain data do so, any other one is refused."""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable
from typing import Any, Final

from keyhaus.core.budget import CONTAINER_BYTES, SET_BYTES
from keyhaus.core.errors import LimitExceeded
from keyhaus.core.limits import INTEGER_BYTES_MAX, INTEGER_DIGITS_MAX, PICKLE_FLOAT_BYTES_MAX
from keyhaus.protocol.frame.pickle_machine import Machine, UnpackFrom, named
from keyhaus.protocol.frame.plain_data import Named, UnsafePickle

_PROTOCOL_MAX: Final = 5
FREE_TEXT: Final = 32  # characters of a text that is referred to again at no cost: the reference is as large

_integer_text: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)").fullmatch
_float_text: Final = re.compile(rb"-?(?:inf|nan|[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)").fullmatch
_string_text: Final = re.compile(rb"[^\\]*+(?:\\(?:[\\'\"nrtabfv]|x[0-9a-fA-F]{2})[^\\]*+)*+", re.DOTALL).fullmatch
_float: Final = struct.Struct(">d").unpack_from
_int4: Final = struct.Struct("<i").unpack_from
_uint2: Final = struct.Struct("<H").unpack_from
_uint4: Final = struct.Struct("<I").unpack_from
_uint8: Final = struct.Struct("<Q").unpack_from

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


def _refuse(opcode: int) -> Callable[[Machine], None]:
    """What meets an opcode that is not executed, or is none."""
    name = _UNSAFE.get(opcode)

    def refuse(machine: Machine) -> None:
        if name is not None:
            raise UnsafePickle(f"the pickle has the opcode {name}, which could execute code or reach outside")
        raise ValueError(f"0x{opcode:02x} at byte {machine.at - 1} is no opcode")

    return refuse


def _proto(machine: Machine) -> None:
    (version,) = machine.take(1)
    if version > _PROTOCOL_MAX:
        raise ValueError(f"its protocol is {version}; 0 to {_PROTOCOL_MAX} are known")


def _frame(machine: Machine) -> None:
    size, rest = machine.number(_uint8, 8), len(machine.data) - machine.at
    if size > rest:
        raise ValueError(f"it ends early: a frame of {size} bytes is announced, {rest} are there")


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pop_mark(machine: Machine) -> None:
    machine.pop_mark()


def _dup(machine: Machine) -> None:
    value = machine.stack[-1]
    machine.room.again(value)
    machine.stack.append(value)


def _long_get(machine: Machine) -> None:
    (number,) = _uint4(machine.data, machine.at)
    machine.at += 4
    value = machine.memo[number]
    if type(value) is not str or len(value) > FREE_TEXT:
        machine.room.again(value)
    machine.stack.append(value)


def _push(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value)


# numbers


def _integer(text: bytes) -> int:
    if len(text) > INTEGER_DIGITS_MAX:
        raise LimitExceeded("integer-digits", len(text), INTEGER_DIGITS_MAX, "digits")
    if not _integer_text(text):
        raise ValueError(f"{text[:40]!r} is no integer")
    number = int(text)
    if number.bit_length() > 8 * INTEGER_BYTES_MAX:
        raise LimitExceeded("integer-bytes", number.bit_length() + 7 >> 3, INTEGER_BYTES_MAX)
    return number


def _int(machine: Machine) -> None:
    text = machine.line()
    machine.stack.append(text == b"01" if text in (b"00", b"01") else _integer(text))


def _long(machine: Machine) -> None:
    machine.stack.append(_integer(machine.line().removesuffix(b"L")))


def _long_of(machine: Machine, size: int) -> None:
    if size < 0:
        raise ValueError("an integer has a negative length")
    if size > INTEGER_BYTES_MAX:
        raise LimitExceeded("integer-bytes", size, INTEGER_BYTES_MAX)
    machine.stack.append(int.from_bytes(machine.take(size), "little", signed=True))


def _number(unpack_from: UnpackFrom, size: int) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        (number,) = unpack_from(machine.data, machine.at)
        machine.stack.append(number)
        machine.at += size

    return push


def _float_in_text(machine: Machine) -> None:
    text = machine.line()
    if len(text) > PICKLE_FLOAT_BYTES_MAX or not _float_text(text):
        raise ValueError(f"{text[:40]!r} is no float")
    machine.stack.append(float(text))


# texts and bytes


def _text(unpack_from: UnpackFrom, size: int) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        data, at = machine.data, machine.at
        (length,) = unpack_from(data, at)
        end = at + size + length
        if end > len(data):
            raise ValueError(f"it ends early: a text of {length} bytes is announced, {len(data) - at - size} are there")
        machine.stack.append(data[at + size : end].decode())
        machine.at = end

    return push


def _bytes(unpack_from: UnpackFrom, size: int) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(machine.take(machine.number(unpack_from, size)))


def _short_bytes(machine: Machine) -> None:
    (size,) = machine.take(1)
    machine.stack.append(machine.take(size))


def _unicode(machine: Machine) -> None:
    text, _ = codecs.raw_unicode_escape_decode(machine.line())  # by its name it would be imported
    if not text.isascii():
        _without_surrogates(text)
    machine.stack.append(text)


def _without_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it has surrogates, which are no characters") from None


def _string(machine: Machine) -> None:
    quoted = machine.line()
    text = quoted[1:-1]
    if len(quoted) < 2 or quoted[:1] not in (b"'", b'"') or quoted[:1] != quoted[-1:]:
        raise ValueError("a string of Python 2 has no quotes")
    if not _string_text(text):  # the decoder would warn of it
        raise ValueError("a string of Python 2 has an escape that is none")
    machine.stack.append(str(codecs.escape_decode(text)[0], "ascii"))


def _short_string(machine: Machine) -> None:
    (size,) = machine.take(1)
    machine.stack.append(str(machine.take(size), "ascii"))


def _long_string(machine: Machine) -> None:
    size = machine.number(_int4, 4)
    if size < 0:
        raise ValueError("a string of Python 2 has a negative length")
    machine.stack.append(str(machine.take(size), "ascii"))


# containers


def _empty_list(machine: Machine) -> None:
    machine.room.spend(CONTAINER_BYTES)
    machine.stack.append([])


def _empty_set(machine: Machine) -> None:
    machine.room.spend(SET_BYTES)
    machine.stack.append(set())


def _list(machine: Machine) -> None:
    machine.room.spend(CONTAINER_BYTES)
    items = machine.pop_mark()
    machine.stack.append(items)


def _dict(machine: Machine) -> None:
    machine.room.spend(CONTAINER_BYTES)
    items = machine.pop_mark()
    made: dict[Any, Any] = {}
    machine.put_items(made, items)
    machine.stack.append(made)


def _tuple(machine: Machine) -> None:
    machine.room.spend(CONTAINER_BYTES)
    items = machine.pop_mark()
    machine.stack.append(tuple(items))


def _tuple_of(size: int) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        machine.room.spend(CONTAINER_BYTES)
        stack = machine.stack
        if len(stack) < size:
            raise IndexError
        stack[-size:] = [tuple(stack[-size:])]

    return push


def _frozenset(machine: Machine) -> None:
    machine.push_set(frozenset, machine.pop_mark())


def _append(machine: Machine) -> None:
    value = machine.stack.pop()
    _target(machine).append(value)


def _appends(machine: Machine) -> None:
    items = machine.pop_mark()
    _target(machine).extend(items)


def _target(machine: Machine) -> list[Any]:
    target = machine.stack[-1]
    if type(target) is not list:
        raise ValueError(f"something is appended to a {named(target)}")
    return target


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.put_items(machine.stack[-1], [key, value])


def _add_items(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.add_items(machine.stack[-1], items)


# names and calls


def _global(machine: Machine) -> None:
    module, name = machine.line(), machine.line()
    machine.push_named(module, name)


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise UnsafePickle("the pickle names something by what is no text, and nothing is ever imported for one")
    machine.push_named(module.encode(), name.encode())


def _reduce(machine: Machine) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    if type(function) is not Named or type(arguments) is not tuple:
        raise UnsafePickle(f"the pickle calls a {named(function)} with a {named(arguments)}; nothing is ever called")
    machine.call(function.name, arguments)


_TABLE: Final[dict[int, Callable[[Machine], None]]] = {
    0x80: _proto,
    0x95: _frame,
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): _dup,
    ord("g"): lambda machine: machine.get(_integer(machine.line())),
    ord("j"): _long_get,
    ord("p"): lambda machine: machine.put(_integer(machine.line())),
    ord("q"): lambda machine: machine.put(machine.take(1)[0]),
    ord("r"): lambda machine: machine.put(machine.number(_uint4, 4)),
    ord("N"): _push(None),
    0x88: _push(True),
    0x89: _push(False),
    ord("I"): _int,
    ord("J"): _number(_int4, 4),
    ord("M"): _number(_uint2, 2),
    ord("L"): _long,
    0x8A: lambda machine: _long_of(machine, machine.take(1)[0]),
    0x8B: lambda machine: _long_of(machine, machine.number(_int4, 4)),
    ord("F"): _float_in_text,
    ord("G"): _number(_float, 8),
    ord("S"): _string,
    ord("T"): _long_string,
    ord("U"): _short_string,
    ord("V"): _unicode,
    ord("X"): _text(_uint4, 4),
    0x8D: _text(_uint8, 8),
    ord("C"): _short_bytes,
    ord("B"): _bytes(_uint4, 4),
    0x8E: _bytes(_uint8, 8),
    0x96: _bytes(_uint8, 8),  # BYTEARRAY8
    ord("]"): _empty_list,
    ord(")"): _push(()),
    0x8F: _empty_set,
    ord("a"): _append,
    ord("e"): _appends,
    ord("s"): _set_item,
    0x90: _add_items,
    ord("l"): _list,
    ord("d"): _dict,
    ord("t"): _tuple,
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    0x91: _frozenset,
    ord("c"): _global,
    0x93: _stack_global,
    ord("R"): _reduce,
}
HANDLERS: Final = tuple(_TABLE.get(opcode) or _refuse(opcode) for opcode in range(256))
