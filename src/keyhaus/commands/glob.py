"""Patterns as Redis understands them: `*`, `?`, `[a-z]`, `[^…]`, and a backslash before what is meant literally.

The meaning is that of Redis' `stringmatchlen`, oddities included, so that KEYS and SCAN find the same keys:

- the empty string matches the empty pattern only, not even `*` (KEYS and SCAN treat a lone `*` as no pattern at all);
- a class may lack its `]`: then it ends with the pattern; `[]` matches nothing, `[^]` any byte;
- `a-]` inside a class is a range, whose end is the bracket;
- the bytes of a range compare as signed numbers, as C's `char` does on x86, and its ends may come in either order.

A pattern is compiled into runs of single-byte tokens with stars between them. Since each token takes exactly one byte,
taking the leftmost place for each run in turn is enough: no backtracking, at most pattern times text steps.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem
from typing import Final

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded

_STAR, _QUESTION, _OPEN, _CLOSE, _BACKSLASH, _CARET, _DASH = b"*?[]\\^-"
_ANY: Final = bytes([1]) * 256

Matcher = Callable[[bytes], bool]


class _Run:
    """Tokens that match so many bytes in a row; a token is a table with a 1 for each byte that it takes."""

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens
        self.length = len(tokens)
        self.literal: bytes | None = None
        if all(token.count(1) == 1 for token in tokens):
            self.literal = bytes(token.index(1) for token in tokens)

    def at(self, text: bytes, place: int) -> bool:
        if self.literal is not None:
            return text.startswith(self.literal, place)
        return all(map(getitem, self.tokens, text[place : place + self.length]))

    def find(self, text: bytes, place: int, end: int) -> int:
        """The first place from `place` on where it matches and ends before `end`; -1 for none."""
        if self.literal is not None:
            return text.find(self.literal, place, end)
        for start in range(place, end - self.length + 1):
            if self.at(text, start):
                return start
        return -1


class _Glob:
    """A compiled pattern with at least one star."""

    def __init__(self, runs: list[_Run]) -> None:
        self._head, self._tail = runs[0], runs[-1]
        self._middle = [run for run in runs[1:-1] if run.length]
        self._length = sum(run.length for run in runs)

    def matches(self, text: bytes) -> bool:
        end = len(text) - self._tail.length
        if not text or len(text) < self._length or not self._head.at(text, 0) or not self._tail.at(text, end):
            return False
        place = self._head.length
        for run in self._middle:
            found = run.find(text, place, end)
            if found < 0:
                return False
            place = found + run.length
        return True


def compiled(pattern: bytes, *, nocase: bool = False) -> Matcher:
    """What tells whether a text matches the pattern.

    Args:
        pattern: The pattern; at most as long as a key may be.
        nocase: Whether ASCII letters match in either case.

    Raises:
        LimitExceeded: The pattern is too long.
    """
    if len(pattern) > limits.KEY_BYTES_MAX:
        raise LimitExceeded("max-pattern-bytes", len(pattern), limits.KEY_BYTES_MAX)
    if not pattern:
        return lambda text: not text
    runs = [_Run(tokens) for tokens in _tokens(pattern, nocase)]
    if len(runs) > 1:
        return _Glob(runs).matches
    run = runs[0]
    return lambda text: len(text) == run.length and run.at(text, 0)


def _tokens(pattern: bytes, nocase: bool) -> list[list[bytes]]:
    """The runs of tokens between the stars."""
    runs: list[list[bytes]] = [[]]
    place, end = 0, len(pattern)
    literals: dict[int, bytes] = {}
    while place < end:
        byte = pattern[place]
        place += 1
        if byte == _STAR:
            if len(runs) == 1 or runs[-1]:
                runs.append([])
        elif byte == _QUESTION:
            runs[-1].append(_ANY)
        elif byte == _OPEN:
            token, place = _class(pattern, place, nocase)
            runs[-1].append(token)
        else:
            if byte == _BACKSLASH and place < end:
                byte = pattern[place]
                place += 1
            if byte not in literals:
                literals[byte] = _table({byte}, nocase)
            runs[-1].append(literals[byte])
    return runs


def _class(pattern: bytes, place: int, nocase: bool) -> tuple[bytes, int]:
    """The token of the class whose content begins at `place`, and where the pattern goes on behind it."""
    end = len(pattern)
    negated = place < end and pattern[place] == _CARET
    place += negated
    members: set[int] = set()
    while place < end:
        byte = pattern[place]
        if byte == _BACKSLASH and place + 1 < end:
            place += 1
            members.add(pattern[place])
        elif byte == _CLOSE:
            place += 1
            break
        elif place + 2 < end and pattern[place + 1] == _DASH:
            members |= _range(byte, pattern[place + 2], nocase)
            place += 2
        else:
            members.add(byte)
        place += 1
    table = _table(members, nocase)
    return (bytes(1 - bit for bit in table) if negated else table), place


def _range(start: int, end: int, nocase: bool) -> set[int]:
    low, high = sorted((_signed(start), _signed(end)))
    if nocase:
        # The ends are lowered after they were put in order: `[Z-a]` takes nothing then. So is what is compared to them.
        low, high = _signed(_lower(low & 255)), _signed(_lower(high & 255))
        return {byte & 255 for byte in range(low, high + 1) if not 65 <= byte <= 90}
    return {byte & 255 for byte in range(low, high + 1)}


def _table(members: set[int], nocase: bool) -> bytes:
    if nocase:
        members = {_lower(byte) for byte in members}
        return bytes(_lower(byte) in members for byte in range(256))
    return bytes(byte in members for byte in range(256))


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def _lower(byte: int) -> int:
    return byte + 32 if 65 <= byte <= 90 else byte
