"""CommandSpec: the one declaration of a command, from which everything else about it is derived.

Dispatch, access control, COMMAND's replies, HTTP routes, shell completion and the reference page all read these. A new
command is one function with `@command(…)` above it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax
from keyhaus.core.reply import Reply
from keyhaus.core.wait import Wait
from keyhaus.store.transaction import Transaction

Handler: TypeAlias = Callable[[Transaction, list[bytes], Context], Coroutine[Wait, None, Reply]]


class Flag(enum.Flag):
    """What a command is, in Redis' words where Redis has them."""

    READ = enum.auto()  # readonly: reads data
    WRITE = enum.auto()  # write: may change data
    FAST = enum.auto()  # fast: takes O(1) or O(log n)
    ADMIN = enum.auto()  # admin: about the server
    DANGEROUS = enum.auto()  # the access category: may harm, or takes long
    NO_MULTI = enum.auto()  # no_multi: not allowed between MULTI and EXEC
    BLOCKING = enum.auto()  # blocking: may wait
    UNTOUCHED = enum.auto()  # looks at its keys without using them: eviction takes no note
    RANGES = enum.auto()  # walks keys in their order: EXEC puts them in order before it runs (T8)
    DENY_OOM = enum.auto()  # denyoom: needs memory
    NO_AUTH = enum.auto()  # no_auth: allowed before AUTH
    CONNECTION = enum.auto()  # about the connection: runs at once, outside any transaction
    NO_TRANSACTION = enum.auto()  # refused while a transaction is current: it would slip out of it, or reach beyond
    CONTROL = enum.auto()  # MULTI, EXEC, …: the session's own, never queued
    SKIP_SLOWLOG = enum.auto()


@dataclass(frozen=True)
class Keys:
    """Where a command's keys stand: the first and the last place (negative: from the end), and the step between."""

    first: int
    last: int
    step: int = 1

    def of(self, args: list[bytes]) -> list[bytes]:
        last = self.last if self.last >= 0 else len(args) + self.last
        return args[self.first : last + 1 : self.step]


@dataclass(frozen=True)
class CommandSpec:
    """One command, or one subcommand of a container such as CONFIG.

    Attributes:
        name: In upper case; a subcommand's is `CONFIG|GET`.
        arity: How many words it has, the name's included; negative: at least so many.
        flags: What it is.
        keys: Where its keys stand; None for none.
        summary: One sentence.
        since: The release of Redis that brought it, or of keyhaus (`keyhaus 0.1`).
        group: Its family, as the reference groups them.
        syntax: Its arguments, as help shows them.
        complexity: In the field's notation.
        handler: What runs it; None for a container, which only has subcommands.
        subcommands: By their names in upper case.
    """

    name: str
    arity: int
    flags: Flag
    keys: Keys | None
    summary: str
    since: str
    group: str
    syntax: str
    complexity: str
    handler: Handler | None
    subcommands: dict[str, CommandSpec] = field(default_factory=dict)

    @cached_property
    def wire_name(self) -> str:
        """The name as COMMAND and errors give it."""
        return self.name.lower()

    @cached_property
    def needs_memory(self) -> bool:
        """Whether it is refused where there is no memory left."""
        return bool(self.flags & Flag.DENY_OOM)

    @cached_property
    def refused_inside(self) -> bool:
        """Whether it is refused while a transaction is current."""
        blocks = self.flags & Flag.BLOCKING and not self.flags & Flag.ADMIN
        return bool(self.flags & Flag.NO_TRANSACTION or blocks)

    @cached_property
    def inside(self) -> bool:
        """Whether a transaction that is current runs it, since it reads or writes data."""
        return bool(self.flags & (Flag.READ | Flag.WRITE)) and not self.refused_inside

    @cached_property
    def writes(self) -> bool:
        """Whether it may change data."""
        return bool(self.flags & Flag.WRITE)

    @cached_property
    def controls(self) -> bool:
        """Whether it is the session's own, never queued."""
        return bool(self.flags & Flag.CONTROL)

    @cached_property
    def uses(self) -> Keys | None:
        """The keys that it uses, as eviction understands it."""
        return None if self.flags & Flag.UNTOUCHED else self.keys

    def accepts(self, words: int) -> bool:
        return words == self.arity if self.arity >= 0 else words >= -self.arity


TABLE: dict[str, CommandSpec] = {}
"""Every command by its name in upper case."""


def command(
    name: str,
    arity: int,
    flags: Flag,
    *,
    keys: Keys | None = None,
    summary: str,
    since: str,
    group: str,
    syntax: str = "",
    complexity: str = "O(1)",
) -> Callable[[Handler], Handler]:
    """Enters a handler into the table; `CONFIG|GET` is the subcommand GET of CONFIG, which must stand there already."""

    def enter(handler: Handler) -> Handler:
        container, _, sub = name.partition("|")
        spec = CommandSpec(name, arity, flags, keys, summary, since, group, syntax, complexity, handler)
        if sub:
            TABLE[container].subcommands[sub] = spec
        else:
            TABLE[name] = spec
        return handler

    return enter


def container(name: str, flags: Flag, *, summary: str, since: str, group: str, handler: Handler | None = None) -> None:
    """Enters a command that has subcommands; with a `handler` it can stand alone too (COMMAND, arity -1)."""
    TABLE[name] = CommandSpec(name, -1 if handler else -2, flags, None, summary, since, group, "", "", handler)


def integer(word: bytes, message: str = "value is not an integer or out of range") -> int:
    """A 64-bit integer as Redis reads it: no blanks, no plus sign, no leading zeros. Raises Syntax with `message`."""
    # A number that is not written the one way that Redis writes it is none; it has 20 characters at the most.
    if len(word) <= 20:
        try:
            number = int(word)
        except ValueError:
            raise Syntax(message) from None
        if b"%d" % number == word and -(1 << 63) <= number < 1 << 63:
            return number
    raise Syntax(message)


def option(word: bytes) -> bytes:
    """An option's name in upper case; like Redis, which compares C strings, it ends at a zero byte."""
    return word.partition(b"\0")[0].upper()
