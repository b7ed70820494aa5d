"""Reads pickles of all protocols without executing anything.

A pickle is a program for a small stack machine. This machine knows only what builds None, bool, int, float, str, bytes
(a bytearray becomes bytes), list, tuple, dict, set and frozenset; whatever could call, import, or reach outside ends it
with UnsafePickle at that opcode, whatever follows. Old protocols write sets and bytes as calls of functions that they
name: `set`, `frozenset`, `bytearray`, `bytes` of the built-ins and `_codecs.encode`. Exactly these names, called with
plain data, are built here; nothing is ever looked up or imported by a name.

The opcodes are those of `pickletools` in Python's library, which describes each. Numbers in text are read in the form
in which picklers write them, and no other. Strings of Python 2 have to be ASCII, as `pickle.loads` wants them too.

Invariants: it gives a value of the types above, or raises UnsafePickle, BadPayload or LimitExceeded, whatever the
bytes. What it gives, `pickle.loads` would give as well, but for bytearrays. Memory and time are linear in the bytes,
and so are those of a walk through the value: `plain_data.py` counts what a few bytes can stand for.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from keyhaus.core.budget import CONTAINER_BYTES, too_deep
from keyhaus.core.limits import PICKLE_MARKS_MAX
from keyhaus.protocol.frame.pickle_machine import Machine
from keyhaus.protocol.frame.pickle_opcodes import FREE_TEXT, HANDLERS
from keyhaus.protocol.frame.plain_data import BadPayload, UnsafePickle

__all__ = ["BadPayload", "UnsafePickle", "read_pickle", "read_usual"]

_HEADS: Final = frozenset((b"\x80\x04\x95", b"\x80\x05\x95"))  # PROTO, and the FRAME that holds all that follows
_HEAD: Final = 11
_BEFORE_COMMAND: Final = b"}\x94(\x8c\x03cmd\x94\x8c\x03"
_COMMAND: Final = _HEAD + len(_BEFORE_COMMAND)
_BEFORE_KEY: Final = b"\x94\x8c\x03key\x94\x8c"
_KEY: Final = _COMMAND + 3 + len(_BEFORE_KEY)
_BEFORE_VALUE: Final = b"\x94\x8c\x05value\x94\x8c"
_END: Final = b"\x94u."
_frame_size: Final = struct.Struct("<Q").unpack_from


def read_pickle(data: bytes | memoryview) -> Any:
    """The value of a pickle.

    Raises:
        UnsafePickle: It would call, import or reach something.
        BadPayload: It is broken, goes on behind its end, or holds what no value can be.
        LimitExceeded: It is nested too deeply, or stands for far more than its bytes.
    """
    machine = Machine(data if type(data) is bytes else bytes(data))
    value = _run(machine)
    machine.room.look(value)
    return value


def read_usual(data: bytes) -> tuple[bytes, bytes, bytes | None] | None:
    """The command, key and value of what nearly every pickle of this dialect is, told by its bytes alone.

    That is a dict of `cmd` (three letters), `key` and perhaps `value`, texts of less than 256 bytes, as CPython pickles
    it by default: all but the texts stands at places that are known. They are in UTF-8, if they are texts at all.

    Returns:
        None where it is anything else: then `read_pickle` reads it.
    """
    if len(data) <= _KEY or data[:3] not in _HEADS or _frame_size(data, 3)[0] != len(data) - _HEAD:
        return None
    command = data[_COMMAND : _COMMAND + 3]
    if data[_HEAD:_COMMAND] != _BEFORE_COMMAND or data[_COMMAND + 3 : _KEY] != _BEFORE_KEY:
        return None
    end = _KEY + 1 + data[_KEY]
    key = data[_KEY + 1 : end]
    if data[end:] == _END:
        return command, key, None
    at = end + len(_BEFORE_VALUE)
    if data[end:at] != _BEFORE_VALUE or len(data) <= at or data[at + 1 + data[at] :] != _END:
        return None
    return command, key, data[at + 1 : at + 1 + data[at]]


def _run(machine: Machine) -> Any:
    """The value that is left at the end. Raises as `read_pickle`."""
    data, stack, marked, memo = machine.data, machine.stack, machine.marked, machine.memo
    at = 0
    try:
        if data[:3] in _HEADS and _frame_size(data, 3)[0] == len(data) - _HEAD:
            at = _HEAD
        # What most pickles are made of stands here, so that it takes no calls. Where a text or a number would go
        # on behind the end, the next opcode isn't there.
        while True:
            opcode = data[at]
            at += 1
            if opcode == 0x8C:  # SHORT_BINUNICODE
                end = at + 1 + data[at]
                text = data[at + 1 : end].decode()
                stack.append(text)
                at = end
                if data[at] == 0x94:  # as good as always
                    memo.append(text)
                    at += 1
            elif opcode == 0x94:  # MEMOIZE
                memo.append(stack[-1])
            elif opcode == 0x4B:  # BININT1
                stack.append(data[at])
                at += 1
            elif opcode == 0x68:  # BINGET
                value = memo[data[at]]
                at += 1
                if type(value) is not str or len(value) > FREE_TEXT:
                    machine.room.again(value)
                stack.append(value)
            elif opcode == 0x71 and data[at] == len(memo):  # BINPUT, of the next number
                memo.append(stack[-1])
                at += 1
            elif opcode == 0x28:  # MARK
                if len(marked) == PICKLE_MARKS_MAX:
                    raise too_deep()
                marked.append(stack)
                stack = []
            elif opcode == 0x75:  # SETITEMS
                items = stack
                stack = marked.pop()
                machine.put_items(stack[-1], items)
            elif opcode == 0x7D:  # EMPTY_DICT
                machine.room.spend(CONTAINER_BYTES)
                stack.append({})
            elif opcode == 0x2E:  # STOP
                break
            else:
                machine.at, machine.stack = at, stack
                HANDLERS[opcode](machine)
                at, stack, memo = machine.at, machine.stack, machine.memo
        value = stack.pop()
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise _broken(error, at >= len(data)) from None
    _check_end(len(stack) + len(marked), len(data) - at)
    return value


def _check_end(left: int, behind: int) -> None:
    if left:
        raise BadPayload("the pickle is broken: it ends amid a value")
    if behind:
        raise BadPayload(f"the pickle is broken: {behind} bytes stand behind its end")


def _broken(error: Exception, at_end: bool) -> BadPayload:
    """The error that says why a pickle can't be read."""
    if isinstance(error, struct.error) or (isinstance(error, LookupError) and at_end):
        why = "it ends early"
    elif isinstance(error, LookupError):
        why = "it takes from its stack or its memo what is not there"
    elif isinstance(error, UnicodeDecodeError):
        why = "a text in it has other bytes than its encoding has (surrogates are no characters)"
    else:
        why = str(error)
    return BadPayload(f"the pickle is broken: {why}")
