"""Pickles that ask for more than to build plain data: thousands, by hand and by picklers.

By hand, each is a fragment, which would name, call, make or reach something if it were executed, in a place: alone, in
harmless data, deep within it, fetched from the memo, doubled, in a frame, before bytes that are broken. Each is named,
so that a test can say which one did what.
"""

from __future__ import annotations

import collections
import copyreg
import datetime
import decimal
import enum
import fractions
import functools
import io
import operator
import os
import pathlib
import pickle
import random
import re
import subprocess
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

Hostile = tuple[str, bytes]
"""A name, and the pickle."""

CANARY: Final = "canary"
"""The file that many of them would make where they are executed."""

# By hand

_NAMES: Final = (
    *((module, "system") for module in ("os", "posix", "nt")),
    *(("os", name) for name in ("popen", "execl", "fork", "remove", "path.join", "getcwd", "environ")),
    *(("subprocess", name) for name in ("Popen", "call", "check_output", "run", "getoutput")),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("eval", "exec", "open", "getattr", "setattr", "__import__", "compile", "globals", "object", "type")
    ),
    *(("builtins", name) for name in ("list", "dict", "tuple", "str", "int", "map", "print", "input", "breakpoint")),
    *(("__builtin__", name) for name in ("apply", "execfile", "file", "reduce", "unicode", "long")),
    *(("functools", name) for name in ("partial", "reduce")),
    *(("operator", name) for name in ("attrgetter", "itemgetter", "methodcaller")),
    *(("copyreg", name) for name in ("_reconstructor", "__newobj__", "__newobj_ex__")),
    *(("collections", name) for name in ("OrderedDict", "Counter", "defaultdict", "deque")),
    *(("pickle", name) for name in ("loads", "load", "Unpickler")),
    *(("importlib", name) for name in ("import_module", "reload")),
    *(("types", name) for name in ("CodeType", "FunctionType", "SimpleNamespace")),
    *(("datetime", name) for name in ("datetime", "date", "timedelta")),
    *(("keyhaus.protocol.frame.pickles", name) for name in ("read_pickle", "BadPayload")),
    ("copy_reg", "_reconstructor"),
    ("decimal", "Decimal"),
    ("uuid", "UUID"),
    ("enum", "Enum"),
    ("marshal", "loads"),
    ("runpy", "run_path"),
    ("pty", "spawn"),
    ("commands", "getoutput"),
    ("ctypes", "CDLL"),
    ("socket", "create_connection"),
    ("shutil", "rmtree"),
    ("webbrowser", "open"),
    ("timeit", "timeit"),
    ("pdb", "run"),
    ("code", "interact"),
    ("logging.config", "fileConfig"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("no_such_module", "no_such_name"),
    ("__main__", "x"),
    ("", ""),
    # What looks like the few names that are known.
    ("builtins", "set.__class__"),
    ("builtins", "set.__init_subclass__"),
    ("builtins", "bytes.fromhex"),
    ("builtins", "Set"),
    ("builtins", "set "),
    ("builtins", "set\r"),
    ("builtins", "set\0"),
    ("builtins", "s\N{LATIN SMALL LETTER DOTLESS I}t"),
    ("builtins", "encode"),
    ("builtins", "_codecs.encode"),
    ("builtins", ""),
    (" builtins", "set"),
    ("Builtins", "set"),
    ("builtins.set", "set"),
    ("builtins.set", ""),
    ("sets", "Set"),
    ("sets", "ImmutableSet"),
    ("codecs", "encode"),
    ("_codecs", "decode"),
    ("_codecs", "lookup"),
    ("_codecs", "set"),
    ("_codecs", "encode.__self__"),
    ("_codecs", "escape_decode"),
)


def _short(text: str) -> bytes:
    data = text.encode()
    return b"\x8c" + bytes((len(data),)) + data


def _long(text: str) -> bytes:
    data = text.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


_COMMAND: Final = b"X\x0c\x00\x00\x00touch canary"


def _by_names() -> Iterator[Hostile]:
    """Each name in each way to name it; each way to use what is named with one of them."""
    for module, name in _NAMES:
        line = f"{module}\n{name}\n".encode()
        shown = f"{module}.{name}"
        yield f"GLOBAL {shown}", b"c" + line
        yield f"INST {shown}", b"(" + _COMMAND + b"i" + line
        yield f"STACK_GLOBAL {shown}", _short(module) + _short(name) + b"\x93"
        yield f"GLOBAL REDUCE {shown}", b"c" + line + _COMMAND + b"\x85R"
    module, name = "os", "system"
    line = b"cos\nsystem\n"
    yield "OBJ", b"(" + line + _COMMAND + b"o"
    yield "NEWOBJ", line + _COMMAND + b"\x85\x81"
    yield "NEWOBJ_EX", line + _COMMAND + b"\x85}\x92"
    yield "BUILD of a name", line + b"}b"
    yield "STACK_GLOBAL of long texts", _long(module) + _long(name) + b"\x93"
    yield "STACK_GLOBAL of texts in text", b"Vos\nVsystem\n\x93"
    yield "STACK_GLOBAL of strings", b"S'os'\nU\x06system\x93"
    yield "STACK_GLOBAL out of the memo", _short(name) + b"\x940" + _short(module) + b"\x940h\x01h\x00\x93"
    yield "STACK_GLOBAL out of a confused memo", _short(module) + b"r\x07\x00\x00\x000j\x07\x00\x00\x00Vsystem\n\x93"
    yield "STACK_GLOBAL of a doubled text", _short("code") + b"2\x93"
    yield "STACK_GLOBAL behind a mark", b"(" + _short(module) + _short(name) + b"\x93t"


def _by_opcodes() -> Iterator[Hostile]:
    """The opcodes that need no name; and the few known names, put to another use."""
    yield "BUILD of a dict", b"}}Vx\nK\x01sb"
    yield "BUILD of a list", b"]Nb"
    yield "BUILD of a tuple of slots", b"]N}\x86b"
    yield "PERSID", b"Poutside\n"
    yield "PERSID without an end", b"Poutside"
    yield "BINPERSID", b"K\x01Q"
    yield "BINPERSID of nothing", b"Q"
    for code in (0, 1, 255):
        yield f"EXT1 {code}", b"\x82" + bytes((code,))
        yield f"EXT2 {code}", b"\x83" + code.to_bytes(2, "little")
        yield f"EXT4 {code}", b"\x84" + code.to_bytes(4, "little")
    yield "EXT1 cut off", b"\x82"
    yield "NEXT_BUFFER", b"\x97"
    yield "READONLY_BUFFER", b"C\x01x\x98"
    yield "NEXT_BUFFER and READONLY_BUFFER", b"\x97\x98"
    yield "OBJ of nothing", b"(o"
    yield "INST cut off", b"(i"
    yield "NEWOBJ of nothing", b"\x81"
    for operands in (b"K\x01K\x02", b"N" + _short("x"), _short("x") + b"N", b"]" + _short("x"), b"C\x02osC\x06system"):
        yield f"STACK_GLOBAL of {operands!r}", operands + b"\x93"
    for called in (b"N", b"K\x05", b"]", b"}", b")", _short("eval"), b"C\x01x", b"\x8f", b"\x88"):
        yield f"REDUCE of {called!r}", called + b")R"
    for module in ("builtins", "__builtin__"):
        for name in ("set", "frozenset", "bytearray", "bytes"):
            named = f"c{module}\n{name}\n".encode()
            yield f"{name} as data", named
            yield f"{name} in a tuple", named + b"\x85"
            yield f"{name} in a frozenset", b"(" + named + b"\x91"
            yield f"{name} called with no tuple", named + b"]R"
            yield f"{name} called with itself", named + b"2R"
            yield f"{name} called with itself in a tuple", named + named + b"\x85R"
            yield f"{name} called with a number", named + b"J\x00\x00\x00\x40\x85R"
            yield f"{name} called with a text", named + _short("abc") + b"\x85R"
            yield f"{name} called with a dict", named + b"}\x85R"
            yield f"{name} called with two", named + b"]]\x86R"
            yield f"{name} with NEWOBJ", named + b")\x81"
            yield f"{name} with NEWOBJ_EX", named + b")}\x92"
            yield f"{name} with OBJ", b"(" + named + b"o"
            yield f"{name} with INST", f"(i{module}\n{name}\n".encode()
            yield f"{name} with BUILD", named + b"}b"
            yield f"what {name} makes with BUILD", named + b")R}b"
    encode = b"c_codecs\nencode\n"
    for arguments in (
        b")",
        _short("x") + b"\x85",
        *(_short("x") + _short(codec) + b"\x86" for codec in ("rot13", "utf-8", "zlib", "LATIN1", "idna", "mbcs", "")),
        _short("x") + b"N\x86",
        b"C\x01x" + _short("latin1") + b"\x86",
        _short("x") + _short("latin1") + _short("ignore") + b"\x87",
        b"]" + _short("latin1") + b"\x86",
    ):
        yield f"encode called with {arguments!r}", encode + arguments + b"R"


def _places() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    """Where a fragment stands."""
    deep = 60
    yield "alone", lambda part: part + b"."
    yield "behind PROTO 2", lambda part: b"\x80\x02" + part + b"."
    yield "in a frame", lambda part: b"\x80\x04\x95" + (len(part) + 1).to_bytes(8, "little") + part + b"."
    yield "appended", lambda part: b"(l" + part + b"a."
    yield "among others", lambda part: b"](K\x01" + part + b"Ne."
    yield "a value", lambda part: b"}" + _short("value") + part + b"s."
    yield "a value of a request", lambda part: b"}(" + _short("cmd") + _short("SET") + _short("key") + part + b"u."
    yield "in a tuple", lambda part: b"(N" + part + b"t."
    yield "within tuples", lambda part: part + b"\x85" * deep + b"."
    yield "within lists", lambda part: b"]" * deep + part + b"a" * deep + b"."
    yield "within dicts", lambda part: (b"}" + _short("x")) * deep + part + b"s" * deep + b"."
    yield "doubled", lambda part: part + b"2\x86."
    yield "out of the memo", lambda part: part + b"p9\n0](g9\ne."
    yield "out of the memo, far away", lambda part: part + b"r\xff\xff\xff\x7f0Nj\xff\xff\xff\x7f\x86."
    yield "behind much else", lambda part: b"(" + b"K\x01" * 500 + b"1" + part + b"."
    yield "before what is no opcode", lambda part: part + b"\x00\xff."
    yield "before an end that is missing", lambda part: b"]" + part


def by_hand() -> Iterator[Hostile]:
    """Each fragment in each place."""
    for place, within in _places():
        for name, part in (*_by_names(), *_by_opcodes()):
            # A function that is known and never called is data in the wrong place only once there is a whole.
            if (name.endswith("as data") or " in a " in name) and "before" in place:
                continue
            yield f"{name}, {place}", within(part)


# By picklers


class Reduces:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


class Colour(enum.Enum):
    RED = 1


class Plain:
    """Pickles as NEWOBJ and BUILD."""

    def __init__(self) -> None:
        self.x = 1


class Slotted:
    """Pickles with the state of its slots."""

    __slots__ = ("x",)

    def __init__(self) -> None:
        self.x = 1

    def __getstate__(self) -> Any:
        return None, {"x": 1}


class WithArguments:
    """Pickles with named arguments of its constructor."""

    def __new__(cls, x: int = 0) -> WithArguments:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (), {"x": 1}


class Text(str):
    """A str that is more than one."""


class Numbers(list[int]):
    """A list that is more than one."""


class _Persistent(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return "outside" if thing == "outside" else None


def _calls() -> Iterator[Reduces]:
    yield Reduces(os.system, (f"touch {CANARY}",))
    yield Reduces(eval, (f"open('{CANARY}', 'w')",))
    yield Reduces(exec, ("import os",))
    yield Reduces(subprocess.call, (["touch", CANARY],))
    yield Reduces(subprocess.Popen, (["touch", CANARY],))
    yield Reduces(open, (CANARY, "w"))
    yield Reduces(__import__, ("this",))
    yield Reduces(getattr, (os, "system"))
    yield Reduces(compile, ("1", "x", "eval"))
    yield Reduces(operator.attrgetter("system"), (os,))
    yield Reduces(functools.partial(os.system, "true"), ())
    yield Reduces(copyreg._reconstructor, (Plain, object, None))  # type: ignore[attr-defined]
    yield Reduces(object.__new__, (Plain,))
    yield Reduces(type, ("X", (), {}))
    yield Reduces(pickle.loads, (b"N.",))
    yield Reduces(os.getcwd, (), {"x": 1})
    yield Reduces(list, (), None, iter([1]))
    yield Reduces(dict, (), None, None, iter([("a", 1)]))
    yield Reduces(list, ((1, 2),))
    yield Reduces(dict, ())
    yield Reduces(str, (b"x", "utf-8"))
    yield Reduces(int, ("1",))
    yield Reduces(tuple, ([1],))
    yield Reduces(bytes, (1 << 40,))
    yield Reduces(bytearray, (1 << 40,))
    yield Reduces(set, ("abc",))
    yield Reduces(frozenset, (range(9),))


def _instances() -> Iterator[Any]:
    yield from (Colour.RED, Colour, Plain(), Plain, Slotted(), WithArguments(), Text("x"), Numbers((1,)))
    yield from (print, os.system, len, set, frozenset, bytearray, bytes, type, object, NotImplemented, ...)
    yield from (datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.date(2026, 1, 1), datetime.timedelta(1))
    yield from (
        decimal.Decimal("1.5"),
        fractions.Fraction(1, 2),
        complex(1, 2),
        range(5),
        slice(1, 2),
        uuid.UUID(int=1),
    )
    yield from (collections.OrderedDict(a=1), collections.Counter("a"), collections.defaultdict(list))
    yield from (collections.deque([1]), types.SimpleNamespace(x=1), pathlib.PurePosixPath("x"), Exception("x"))
    yield from (re.compile("x"), operator.itemgetter(0), operator.attrgetter("x"), functools.partial(print))
    yield from (random.Random(1), iter([1]), os.stat_result(range(10)), types.MappingProxyType)


def _around(thing: Any) -> Iterator[tuple[str, Any]]:
    yield "alone", thing
    yield "in a list", [thing]
    yield "in a request", {"cmd": "SET", "key": "k", "value": thing}
    yield "deep", {"cmd": "SET", "key": "k", "value": [1, ("x", {"deep": [{"er": (thing,)}]})]}
    yield "twice", [["x"] * 3, thing, thing]


def by_picklers() -> Iterator[Hostile]:
    """What the library's picklers make of what is no plain data, in every protocol."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for thing in (*_calls(), *_instances()):
            for place, value in _around(thing):
                try:
                    data = pickle.dumps(value, protocol)
                except (pickle.PicklingError, TypeError, AttributeError):
                    continue  # this protocol has no form for it
                yield f"{thing!r:.60} {place}, protocol {protocol}", data
        output = io.BytesIO()
        _Persistent(output, protocol).dump(["outside"])
        yield f"a persistent id, protocol {protocol}", output.getvalue()
    copyreg.add_extension(__name__, "Plain", 0x1234)
    try:
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            for place, value in _around(Plain):
                yield f"an extension {place}, protocol {protocol}", pickle.dumps(value, protocol)
    finally:
        copyreg.remove_extension(__name__, "Plain", 0x1234)
    buffers: list[Any] = []
    for place, value in _around(pickle.PickleBuffer(b"x")):
        yield f"a buffer {place}", pickle.dumps(value, 5, buffer_callback=buffers.append)
