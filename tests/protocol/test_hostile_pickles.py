"""Hostile pickles: each is refused, nothing of it is ever executed, and none takes more than its bytes allow."""

from __future__ import annotations

import builtins
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
import sys
import tracemalloc
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from keyhaus.core.errors import LimitExceeded
from keyhaus.core.objects import DEPTH_MAX
from keyhaus.protocol.frame import pickles
from keyhaus.protocol.frame.pickles import BadPickle, UnsafePickle, read_pickle

PROTOCOLS: Final = range(pickle.HIGHEST_PROTOCOL + 1)


# what is hostile


class Reduces:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


class Color(enum.Enum):
    RED = 1


class Plain:
    """Pickles as NEWOBJ and BUILD."""

    def __init__(self) -> None:
        self.x = 1


class Old:
    """Pickles with arguments of its constructor."""

    def __getnewargs_ex__(self) -> Any:
        return (), {"x": 1}

    def __new__(cls, x: int = 0) -> Any:
        return super().__new__(cls)


class Persistent(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return "outside" if thing == "outside" else None


def _objects() -> Iterator[Any]:
    """What is no plain data."""
    calls: list[tuple[Any, ...]] = [
        *[
            (os.system, ("touch canary",)),
            (eval, ("open('canary', 'w')",)),
            (exec, ("import os",)),
            (subprocess.call, (["true"],)),
        ],
        *[(getattr, (os, "system")), (operator.attrgetter("system"), (os,)), (functools.partial(print, "x"), ())],
        *[
            (__import__, ("os",)),
            (open, ("canary", "w")),
            (compile, ("1", "x", "eval")),
            (copyreg._reconstructor, (Plain, object, None)),
        ],
        *[
            (type, ("X", (), {})),
            (object.__new__, (Plain,)),
            (list, ((1, 2),)),
            (dict, ()),
            (str, (b"x", "utf-8")),
            (int, ("1",)),
        ],
        *[
            (bytes, (1 << 40,)),
            (bytearray, (1 << 40,)),
            (set, ("abc",)),
            (frozenset, (range(10),)),
            (map, (print, [1])),
        ],
        *[(globals, ()), (input, ()), (breakpoint, ()), (os.getcwd, ()), (pathlib.Path, ("x",)), (re.compile, ("x",))],
    ]
    for call in calls:
        yield Reduces(*call)
    yield Reduces(os.getcwd, (), {"x": 1})
    yield Reduces(list, (), None, iter([1]))
    yield Reduces(dict, (), None, None, iter([("a", 1)]))
    yield from (Color.RED, Color, Plain(), Plain, Old(), print, os.system, set, frozenset, bytearray, bytes)
    yield from (
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        datetime.date(2026, 1, 1),
        decimal.Decimal("1.5"),
        fractions.Fraction(1, 2),
    )
    yield from (
        collections.OrderedDict(a=1),
        collections.Counter("a"),
        collections.defaultdict(list),
        collections.deque([1]),
    )
    yield from (complex(1, 2), range(5), slice(1, 2), uuid.UUID(int=1), pathlib.PurePosixPath("x"), Exception("x"))
    yield from (types.SimpleNamespace(x=1), NotImplemented, ..., type, object, operator.itemgetter(0), random.Random(1))


def _wrapped(hostile: Any) -> Iterator[Any]:
    """It, hidden in what is harmless."""
    yield hostile
    yield [hostile]
    yield {"cmd": "SET", "key": "k", "value": hostile}
    yield {"cmd": "SET", "key": "k", "value": [1, ("x", {"deep": [{"er": (hostile,)}]})]}
    yield [["x"] * 3, hostile, hostile]


def _opcodes() -> Iterator[bytes]:
    """By hand: each opcode that could do something, in the places where it would work."""
    call = b"(S'touch canary'\n"
    yield b"cos\nsystem\n" + call + b"tR."
    yield b"cposix\nsystem\n" + call + b"tR."
    yield b"c__builtin__\neval\n(S'1'\ntR."
    yield call + b"ios\nsystem\n."
    yield b"(cos\nsystem\n" + call[1:] + b"o."
    yield b"cos\nsystem\n)\x81."
    yield b"\x80\x04cos\nsystem\n)}\x92."
    yield b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R."
    yield b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94h\x02\x8c\x02id\x85R."
    yield b"\x80\x04K\x01K\x02\x93."
    yield b"\x80\x04N\x8c\x06system\x93."
    yield b"\x80\x04]\x8c\x06system\x93."
    yield b"}S'x'\nI1\nsb."
    yield b"]}b."
    yield b"Poutside\n."
    yield b"S'outside'\nQ."
    yield b"\x80\x02\x82\x01."
    yield b"\x80\x02\x83\x01\x00."
    yield b"\x80\x02\x84\x01\x00\x00\x00."
    yield b"\x80\x05\x97."
    yield b"\x80\x05\x97\x98."
    yield b"\x80\x05C\x01x\x98."
    for module in ("builtins", "__builtin__", "_codecs"):
        for name in (
            "eval",
            "exec",
            "getattr",
            "set.__class__",
            "encode.__self__",
            "decode",
            "lookup",
            "set\x00",
            "Set",
            "",
        ):
            yield f"c{module}\n{name}\n.".encode()
    for named, args in (
        *[(b"cbuiltins\nset\n", b"(S'abc'\nt"), (b"cbuiltins\nset\n", b"((dt"), (b"cbuiltins\nset\n", b"(I5\nt")],
        *[(b"cbuiltins\nbytes\n", b"(I1000000000\nt"), (b"cbuiltins\nbytearray\n", b"(I1000000000\nt")],
        *[
            (b"cbuiltins\nbytes\n", b"((lt"),
            (b"c_codecs\nencode\n", b"(Vx\nVrot13\nt"),
            (b"c_codecs\nencode\n", b"(Vx\nt"),
        ],
        *[(b"c_codecs\nencode\n", b"(Vx\nVlatin1\nVignore\nt"), (b"cbuiltins\nfrozenset\n", b"(I1\nI2\nt")],
        *[(b"cbuiltins\nset\n", b"cbuiltins\nset\n"), (b"cbuiltins\nset\n", b"]"), (b"I5\n", b")"), (b"S'x'\n", b")")],
    ):
        yield named + args + b"R."
    yield b"cbuiltins\nset\n."
    yield b"(lcbuiltins\nset\na."
    yield b"}S'x'\ncbuiltins\nset\ns."
    yield b"}cbuiltins\nset\nI1\ns."
    yield b"cbuiltins\nset\n\x85."
    yield b"cbuiltins\nset\np0\n0(lg0\na."
    yield b"cbuiltins\nset\n2\x86."
    yield b"(cbuiltins\nset\n\x91."


def _hostile() -> Iterator[tuple[str, bytes]]:
    for number, plain in enumerate(_opcodes()):
        for place, whole in (("alone", plain), ("in a list", b"(l" + plain[:-1] + b"a."), ("behind", b"I1\n0" + plain)):
            if not (plain.startswith(b"\x80") and place != "alone"):
                yield f"opcodes {number} {place}", whole
    copyreg.add_extension(__name__, "Plain", 0x1234)
    try:
        for protocol in (2, 3, 4, 5):
            yield f"EXT {protocol}", pickle.dumps(Plain, protocol)
    finally:
        copyreg.remove_extension(__name__, "Plain", 0x1234)
    for protocol in PROTOCOLS:
        output = io.BytesIO()
        Persistent(output, protocol).dump(["outside"])
        yield f"persistent {protocol}", output.getvalue()
        buffers: list[Any] = []
        if protocol == 5:
            yield "buffer", pickle.dumps(pickle.PickleBuffer(b"x"), 5, buffer_callback=buffers.append)
        for number, hostile in enumerate(_objects()):
            for place, value in enumerate(_wrapped(hostile)):
                try:
                    yield f"object {number} in {place}, protocol {protocol}", pickle.dumps(value, protocol)
                except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
                    continue  # this one can't be pickled


class Audit:
    """The names of whatever Python reports of itself (imports, files, code, processes) while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.noted: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event not in ("object.__getattr__", "sys._getframe"):
            self.noted.append(f"{event} {args!r}"[:200])

    def of(self, read: Callable[[bytes], Any], data: bytes) -> Any:
        """What reading gives, or raises."""
        self.noted.clear()
        self.on = True
        try:
            return read(data)
        finally:
            self.on = False


AUDIT: Final = Audit()  # a hook can't be taken away again


def test_no_hostile_pickle_does_anything(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["eval", "exec", "compile", "open", "__import__", "getattr", "setattr", "input", "print", "type"]
    before = {name: getattr(builtins, name) for name in names}
    tried = 0
    for name, data in _hostile():
        with pytest.raises(UnsafePickle):
            raise AssertionError(f"{name}: {AUDIT.of(read_pickle, data)!r} of {data!r}")
        assert AUDIT.noted == [], name
        tried += 1
    assert list(tmp_path.iterdir()) == []
    assert {name: getattr(builtins, name) for name in names} == before
    assert tried > 1000
    print(f"{tried} hostile pickles, 0 executed")


def test_the_audit_would_notice() -> None:
    """The control: what the library's own reader does with one of them is seen."""
    AUDIT.of(pickle.loads, pickle.dumps(Reduces(os.getcwd, ())))
    assert any("find_class" in noted for noted in AUDIT.noted)


# bombs


def _nested(opening: bytes, closing: bytes, levels: int) -> bytes:
    return opening * levels + closing * levels


@pytest.mark.parametrize(
    "data",
    [
        _nested(b"]", b"a", 30_000)[:-1] + b".",
        b"(" * 15_000 + b"t" * 15_000 + b".",
        b"N" + b"\x85" * 30_000 + b".",
        b"}" + b"N" + b"\x85" * 30_000 + b"Ns.",
        b"(" * 15_000 + b"\x91" * 15_000 + b".",
        b"N" + b"\x85" * (DEPTH_MAX + 1) + b".",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02}q\x00N]q\x01h\x00ash\x01a.",
    ],
    ids=["lists", "tuples", "tuples of one", "a key", "frozensets", "one too deep", "a circle", "a circle of two"],
)
def test_nesting_is_bounded(data: bytes) -> None:
    with pytest.raises((LimitExceeded, BadPickle)):
        read_pickle(data)


def _doubling(empty: bytes, pair: Callable[[int], bytes], levels: int = 60) -> bytes:
    """Each level holds the one below twice."""
    return b"\x80\x02" + empty + b"q\x00" + b"".join(pair(level) for level in range(1, levels)) + b"."


BOMBS: Final = {
    "lists": _doubling(b"]", lambda n: b"](h%ch%ceq%c" % (n - 1, n - 1, n)),
    "tuples": _doubling(b")", lambda n: b"h%ch%c\x86q%c" % (n - 1, n - 1, n)),
    "tuples as a key": b"}" + _doubling(b")", lambda n: b"h%ch%c\x86q%c" % (n - 1, n - 1, n))[2:-1] + b"Ns.",
    "dicts": _doubling(b"}", lambda n: b"}(K\x00h%cK\x01h%cuq%c" % (n - 1, n - 1, n)),
    "frozensets": _doubling(b")", lambda n: b"(h%ch%c\x85\x91q%c" % (n - 1, n - 1, n)),
    "one long text again and again": b"\x80\x02X\x00\x00\x10\x00"
    + b"x" * (1 << 20)
    + b"q\x00]("
    + b"h\x00" * 200
    + b"e.",
    "one tuple as many keys": b"\x80\x02K\x01" + b"\x85" * 60 + b"q\x000}(" + b"h\x00N" * 50_000 + b"u.",
    "colliding numbers": pickle.dumps({number * ((1 << 61) - 1) << 64 for number in range(1, 20_000)}, 2),
    "a huge memo index": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a huge memo index in text": b"Np99999999999999999999\n.",
    "marks": b"(" * 30_000 + b".",
    "nothings": b"N" * 30_000 + b".",
    "dicts side by side": b"(" + b"}" * 30_000 + b"l.",
    "memo entries": b"N" + b"\x94" * 30_000 + b".",
    "memo entries of old": b"(l" + b"".join(b"p%d\n" % n for n in range(3_000)) + b".",
    "a long number": b"I" + b"9" * 30_000 + b"\n.",
    "a long number of bytes": b"\x8b\x30\x75\x00\x00" + b"\x7f" * 30_000 + b".",
    "pops": b"N0" * 30_000 + b"N.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_no_more_memory_than_its_bytes_allow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # With bounds of a hundredth, so that it takes no minutes.
    monkeypatch.setattr(pickles, "ITEMS_MAX", 20_000)
    monkeypatch.setattr(pickles, "REPEATED_BYTES_MAX", 1 << 20)
    data = BOMBS[name]
    tracemalloc.start()
    try:
        try:
            read_pickle(data)
        except (LimitExceeded, BadPickle) as error:
            message = error.message
        else:
            message = "read"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 130 * min(len(data), pickles.ITEMS_MAX) + 40 * len(data) + (1 << 20), (message, peak, len(data))
    if name not in (
        "a huge memo index",
        "a huge memo index in text",
        "memo entries of old",
        "pops",
        "one tuple as many keys",
    ):
        assert message != "read"


def test_what_is_shared_within_reason_is_read() -> None:
    row = {"name": "x" * 100, "tags": ["a", "b"]}
    value = [row] * 1000
    assert read_pickle(pickle.dumps(value)) == value
