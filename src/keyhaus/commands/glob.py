"""Patterns as Redis understands them: `*`, `?`, `[a-z]`, `[^…]`, and a backslash before what is meant literally.

The meaning is that of Redis' `stringmatchlen`, oddities included, so that KEYS and SCAN find the same keys:

- the empty string matches the empty pattern only, not even `*` (KEYS and SCAN treat a lone `*` as no pattern at all);
- a class may lack its `]`: then it ends with the pattern; `[]` matches nothing, `[^]` any byte;
- `a-]` inside a class is a range, whose end is the bracket;
- the bytes of a range compare as signed numbers, as C's `char` does on x86, and its ends may come in either order.

A pattern is compiled into runs of single-byte tokens with stars between them. Since each token takes exactly one byte,
taking the leftmost place for each run in turn is enough: no backtracking, at most pattern times text steps. These are
steps of a search in C where the run is literal, and otherwise of big integers, a bit for each place (`_Run.find`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from operator import getitem
from typing import Final

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded

_STAR, _QUESTION, _OPEN, _CLOSE, _BACKSLASH, _CARET, _DASH = b"*?[]\\^-"
_ANY: Final = bytes([1]) * 256
# What a class consists of, behind its `[`: see `_class`.
_CLASS: Final = re.compile(rb"\^?(?>\\.|[^\]\\]-.|[^\]])*+\]?", re.DOTALL)
_FLIPPED: Final = bytes([1, 0]) + bytes(254)
_LOWERED: Final = bytes(range(256)).lower()
# For each byte, what makes of a text the binary digits that say where it has that byte or a greater one.
_AT_LEAST: Final = [b"0" * byte + b"1" * (256 - byte) for byte in range(256)]
# So many places are tried one by one before bits are: a run is often found at once.
_TRIED: Final = 8
_PLACES: Final = 256  # that bits are first taken of, then twice as many, and so on
_MASKS: Final = 256  # kept of one search

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
        last = end - self.length
        for start in range(place, min(place + _TRIED, last + 1)):
            if self.at(text, start):
                return start
        # Over twice as many places each time, so that a search costs by how far it comes, not by how far it could.
        start, places = place + _TRIED, max(_PLACES, self.length)
        while start <= last:
            places = min(places, last + 1 - start)
            found = self._first(text[start : start + places + self.length - 1], places)
            if found >= 0:
                return start + found
            start += places
            places *= 2
        return -1

    def _first(self, text: bytes, places: int) -> int:
        """The first of so many places where it matches, -1 for none: bit n stands for place n, of all at once.

        The bytes that a token takes lie between its edges, so that the places it takes are an exclusive or of those
        with at least an edge's byte. A class has no more edges than a few for each byte of the pattern it is made of.
        """
        at_least: dict[int, int] = {}
        masks: dict[bytes, int] = {}
        matching = (1 << places) - 1
        for index, token in enumerate(self.tokens):
            if token is _ANY:
                continue
            mask = masks.get(token)
            if mask is None:
                mask = 0
                for edge in _edges(token):
                    if edge not in at_least:
                        at_least[edge] = int(text.translate(_AT_LEAST[edge])[::-1], 2)
                    mask ^= at_least[edge]
                if len(masks) < _MASKS:
                    masks[token] = mask
            matching &= mask >> index
            if not matching:
                return -1
        return (matching & -matching).bit_length() - 1


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
    classes: dict[bytes, bytes] = {}
    while place < end:
        byte = pattern[place]
        place += 1
        if byte == _STAR:
            if len(runs) == 1 or runs[-1]:
                runs.append([])
        elif byte == _QUESTION:
            runs[-1].append(_ANY)
        elif byte == _OPEN:
            found = _CLASS.match(pattern, place)
            assert found is not None, "it matches nothing, too"
            text, place = found[0], found.end()
            if text not in classes:
                classes[text] = _class(text, nocase)
            runs[-1].append(classes[text])
        else:
            if byte == _BACKSLASH and place < end:
                byte = pattern[place]
                place += 1
            if byte not in literals:
                literals[byte] = _table({byte}, nocase)
            runs[-1].append(literals[byte])
    return runs


def _class(pattern: bytes, nocase: bool) -> bytes:
    """The token of a class: what stands behind its `[`, up to its `]` or the end of the pattern."""
    end = len(pattern)
    negated = pattern.startswith(b"^")
    place = int(negated)
    members: set[int] = set()
    while place < end:
        byte = pattern[place]
        if byte == _BACKSLASH and place + 1 < end:
            place += 1
            members.add(pattern[place])
        elif byte == _CLOSE:
            break
        elif place + 2 < end and pattern[place + 1] == _DASH:
            members |= _range(byte, pattern[place + 2], nocase)
            place += 2
        else:
            members.add(byte)
        place += 1
    table = _table(members, nocase)
    if negated:
        table = table.translate(_FLIPPED)
    return _ANY if table == _ANY else table


@lru_cache(maxsize=1024)
def _range(start: int, end: int, nocase: bool) -> frozenset[int]:
    low, high = sorted((_signed(start), _signed(end)))
    if nocase:
        # The ends are lowered after they were put in order: `[Z-a]` takes nothing then. So is what is compared to them.
        low, high = _signed(_lower(low & 255)), _signed(_lower(high & 255))
        return frozenset(byte & 255 for byte in range(low, high + 1) if not 65 <= byte <= 90)
    return frozenset(byte & 255 for byte in range(low, high + 1))


@lru_cache(maxsize=1024)
def _edges(token: bytes) -> list[int]:
    """The bytes from which on a token takes what it didn't before, or the other way round, in turn."""
    edges: list[int] = []
    taken = 1
    edge = token.find(taken)
    while edge >= 0:
        edges.append(edge)
        taken = 1 - taken
        edge = token.find(taken, edge)
    return edges


def _table(members: set[int], nocase: bool) -> bytes:
    if nocase:
        members = {_lower(byte) for byte in members}
        return bytes(map(members.__contains__, _LOWERED))
    return bytes(map(members.__contains__, range(256)))


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def _lower(byte: int) -> int:
    return byte + 32 if 65 <= byte <= 90 else byte
