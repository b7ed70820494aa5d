"""Replies as every Python door gives them: a client can't tell a status from bytes, so here it is bytes, too."""

from __future__ import annotations

from typing import Any, Final

from keyhaus.core.access.blocking.asking import Asking
from keyhaus.core.access.words import Word

_AS_THEY_ARE: Final = frozenset((bytes, int, float, bool, type(None)))


class PlainReplies(Asking):
    """An `execute` whose replies are those that a client gets."""

    def execute(self, *words: Word) -> Any:
        return plain(super().execute(*words))


PlainReplies.execute.__doc__ = Asking.execute.__doc__


def plain(reply: Any) -> Any:
    """A reply without the types that only codecs tell apart."""
    kind = reply.__class__
    if kind in _AS_THEY_ARE:
        return reply
    if kind is str:
        return reply.encode()
    if isinstance(reply, list):
        return [item if item.__class__ is bytes else plain(item) for item in reply]
    if isinstance(reply, dict):
        return {plain(key): plain(value) for key, value in reply.items()}
    if isinstance(reply, bytes | int):  # text for people, a number of any size
        return bytes(reply) if isinstance(reply, bytes) else int(reply)
    return reply  # an error among others
