"""What may come next in a command: a walk over its arguments along the words that stand there already.

A set of places is followed, not one: an argument that may be left out leaves both. Options that stand side by side may
come in any order. So the work is bounded by words times arguments, however they are nested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from keyhaus.cli.shell.catalogue import Argument


@dataclass
class Expected:
    """What may come next.

    Attributes:
        tokens: Words to be typed as they stand.
        key: Whether a key may.
        names: The values that may, by the names that the syntax has for them.
    """

    tokens: set[str] = field(default_factory=set)
    key: bool = False
    names: set[str] = field(default_factory=set)


def expected(arguments: Sequence[Argument], words: Sequence[bytes]) -> Expected:
    """What may follow `words`, which are a command's arguments so far."""
    found = Expected()
    _Walk(words, found).sequence(arguments, {0})
    return found


class _Walk:
    """Each method takes the places where something may begin, and gives those where it may have ended."""

    def __init__(self, words: Sequence[bytes], found: Expected) -> None:
        self._words = [word.upper() for word in words]
        self._found = found

    def sequence(self, arguments: Sequence[Argument], places: set[int]) -> set[int]:
        at = 0
        while at < len(arguments) and places:
            options = at
            while options < len(arguments) and arguments[options].optional:
                options += 1
            if options > at:
                places = self._any_order(arguments[at:options], places)
                at = options
            else:
                places = self._argument(arguments[at], places)
                at += 1
        return places

    def _any_order(self, options: Sequence[Argument], places: set[int]) -> set[int]:
        """Each of the options at most once, in any order."""
        reached, fresh = set(places), {frozenset[int](): set(places)}
        for _ in options:
            following: dict[frozenset[int], set[int]] = {}
            for used, starts in fresh.items():
                for number, option in enumerate(options):
                    if number not in used and (ends := self._argument(option, starts) - starts):
                        following.setdefault(used | {number}, set()).update(ends)
                        reached |= ends
            fresh = following
        return reached

    def _argument(self, argument: Argument, places: set[int]) -> set[int]:
        ends = fresh = self._once(argument, places)
        while argument.multiple and fresh:
            # Some have their token once, some each time that they are repeated.
            fresh = (self._body(argument, fresh) | self._once(argument, fresh)) - ends
            ends = ends | fresh
        return ends

    def _once(self, argument: Argument, places: set[int]) -> set[int]:
        return self._body(argument, self._token(argument.token, places) if argument.token else places)

    def _body(self, argument: Argument, places: set[int]) -> set[int]:
        if argument.kind == "pure-token":
            return places
        if argument.kind == "oneof":
            return set[int]().union(*(self._argument(part, places) for part in argument.parts))
        if argument.kind == "block":
            return self.sequence(argument.parts, places)
        if len(self._words) in places:
            self._found.key |= argument.kind == "key"
            self._found.names.add(argument.name)
        return {place + 1 for place in places if place < len(self._words)}

    def _token(self, token: str, places: set[int]) -> set[int]:
        if len(self._words) in places:
            self._found.tokens.add(token)
        name = token.upper().encode("utf-8", "surrogateescape")
        return {place + 1 for place in places if place < len(self._words) and self._words[place] == name}
