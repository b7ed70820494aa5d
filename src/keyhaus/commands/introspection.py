"""COMMAND: the command table, told in Redis 7's shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from keyhaus.commands.arguments import Argument, arguments_of
from keyhaus.commands.glob import compiled
from keyhaus.commands.help import add_help
from keyhaus.commands.lookup import by_full_name, by_name
from keyhaus.commands.spec import TABLE, CommandSpec, Flag, Keys, command, container
from keyhaus.core import limits
from keyhaus.core.context import Context
from keyhaus.core.errors import LimitExceeded, Syntax, UserError
from keyhaus.core.reply import SetReply
from keyhaus.store.transaction import Transaction

GROUP: Final = "server"

# Both in Redis' order, so that what both say alike is alike byte for byte.
_WIRE_FLAGS: Final = {
    Flag.WRITE: "write",
    Flag.READ: "readonly",
    Flag.DENY_OOM: "denyoom",
    Flag.ADMIN: "admin",
    Flag.BLOCKING: "blocking",
    Flag.SKIP_SLOWLOG: "skip_slowlog",
    Flag.FAST: "fast",
    Flag.NO_AUTH: "no_auth",
    Flag.NO_MULTI: "no_multi",
}
_CATEGORIES: Final = (
    *("keyspace", "read", "write", "string", "admin", "fast", "slow", "blocking", "dangerous", "connection"),
    "transaction",
)
_GROUP_CATEGORIES: Final = {
    "string": "string",
    "generic": "keyspace",
    "connection": "connection",
    "transactions": "transaction",
}
_FLAG_CATEGORIES: Final = {
    Flag.READ: "read",
    Flag.WRITE: "write",
    Flag.ADMIN: "admin",
    Flag.ADMIN | Flag.DANGEROUS: "dangerous",
    Flag.BLOCKING: "blocking",
    Flag.FAST: "fast",
}


def categories(spec: CommandSpec) -> list[str]:
    """A command's categories as access control names them, without the @."""
    found = {category for flags, category in _FLAG_CATEGORIES.items() if spec.flags & flags}
    if not spec.flags & Flag.FAST:
        found.add("slow")
    if spec.group in _GROUP_CATEGORIES:
        found.add(_GROUP_CATEGORIES[spec.group])
    elif spec.flags & (Flag.READ | Flag.WRITE) and spec.keys is None:
        found.add("keyspace")  # DBSIZE, FLUSHALL, …: about all keys
    return [category for category in _CATEGORIES if category in found]


def _info(spec: CommandSpec) -> list[Any]:
    keys = spec.keys or Keys(0, 0, 0)
    flags = SetReply(word for flag, word in _WIRE_FLAGS.items() if spec.flags & flag)
    subcommands = [_info(sub) for sub in spec.subcommands.values()]
    return [
        spec.wire_name.encode(),
        spec.arity,
        flags,
        keys.first,
        keys.last,
        keys.step,
        SetReply(f"@{category}" for category in categories(spec)),
        SetReply(),
        SetReply([_key_spec(spec, keys)] if spec.keys else []),
        subcommands or SetReply(),
    ]


def _key_spec(spec: CommandSpec, keys: Keys) -> dict[bytes, Any]:
    last = keys.last - keys.first if keys.last >= 0 else keys.last
    return {
        b"flags": SetReply(["RW", "access", "update"] if spec.flags & Flag.WRITE else ["RO", "access"]),
        b"begin_search": {b"type": b"index", b"spec": {b"index": keys.first}},
        b"find_keys": {b"type": b"range", b"spec": {b"lastkey": last, b"keystep": keys.step, b"limit": 0}},
    }


def _docs(spec: CommandSpec) -> dict[bytes, Any]:
    docs: dict[bytes, Any] = {
        b"summary": spec.summary.encode(),
        b"since": spec.since.encode(),
        b"group": spec.group.encode(),
        b"complexity": (spec.complexity or "that of the subcommand").encode(),
    }
    if spec.syntax:
        docs[b"arguments"] = [_argument(argument) for argument in arguments_of(spec.syntax)]
    if spec.subcommands:
        docs[b"subcommands"] = {sub.wire_name.encode(): _docs(sub) for sub in spec.subcommands.values()}
    return docs


def _argument(argument: Argument) -> dict[bytes, Any]:
    told: dict[bytes, Any] = {b"name": argument.name.encode(), b"type": argument.kind.encode()}
    if argument.kind == "key":
        told[b"key_spec_index"] = 0
    if argument.token:
        told[b"token"] = argument.token.encode()
    flags = [word for word, holds in (("optional", argument.optional), ("multiple", argument.multiple)) if holds]
    if flags:
        told[b"flags"] = SetReply(flags)
    if argument.parts:
        told[b"arguments"] = [_argument(part) for part in argument.parts]
    return told


async def bare_command(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return [_info(spec) for spec in TABLE.values()]


container(
    "COMMAND",
    Flag.CONNECTION,
    summary="Tells about all commands.",
    since="2.8.13",
    group=GROUP,
    handler=bare_command,
)
add_help("COMMAND", group=GROUP, since="5.0.0")


@command(
    "COMMAND|COUNT", 2, Flag.CONNECTION, summary="Answers how many commands there are.", since="2.8.13", group=GROUP
)
async def command_count(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return len(TABLE)


@command(
    "COMMAND|INFO",
    -2,
    Flag.CONNECTION,
    summary="Tells about the named commands, or about all: arity, flags, keys, categories.",
    since="2.8.13",
    group=GROUP,
    syntax="[command-name [command-name ...]]",
    complexity="O(N) in the number of commands named",
)
async def command_info(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) == 2:
        return await bare_command(tx, args, context)
    names = args[2:]
    if len(names) > limits.COMMAND_NAMES_MAX:
        raise LimitExceeded("command-names", len(names), limits.COMMAND_NAMES_MAX, "names")
    # What is named again is told again, as in Redis, but made once.
    told = {name: None if spec is None else _info(spec) for name, spec in _found(names).items()}
    return [told[name] for name in names]


def _found(names: list[bytes]) -> dict[bytes, CommandSpec | None]:
    """The commands by the names that ask for them, each name looked up once."""
    return {name: by_full_name(name) for name in dict.fromkeys(names)}


@command(
    "COMMAND|DOCS",
    -2,
    Flag.CONNECTION,
    summary="Describes the named commands, or all: summary, arguments, cost.",
    since="7.0.0",
    group=GROUP,
    syntax="[command-name [command-name ...]]",
    complexity="O(N) in the number of commands named",
)
async def command_docs(tx: Transaction, args: list[bytes], context: Context) -> Any:
    named = _found(args[2:]).values() if len(args) > 2 else TABLE.values()
    # `GET` and `get` are one command, and the reply is a map.
    specs = {spec.wire_name: spec for spec in named if spec is not None}
    return {name.encode(): _docs(spec) for name, spec in specs.items()}


@command(
    "COMMAND|GETKEYS",
    -4,
    Flag.CONNECTION,
    summary="Answers which of a whole command's words are keys.",
    since="2.8.13",
    group=GROUP,
    syntax="command arg [arg ...]",
    complexity="O(N) in the number of words",
)
async def command_getkeys(tx: Transaction, args: list[bytes], context: Context) -> Any:
    words = args[2:]
    spec = by_name(words)
    if spec is None:
        raise UserError("Invalid command specified")
    if spec.keys is None:
        raise UserError("The command has no key arguments")
    if not spec.accepts(len(words)):
        raise UserError("Invalid number of arguments specified for command")
    return spec.keys.of(words)


@command(
    "COMMAND|LIST",
    -2,
    Flag.CONNECTION,
    summary="Answers the names of all commands, or of those of a module, a category or a pattern.",
    since="7.0.0",
    group=GROUP,
    syntax="[FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]",
    complexity="O(N) in the number of commands",
)
async def command_list(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) == 2:
        return [spec.wire_name.encode() for spec in _with_subcommands()]
    if len(args) != 5 or args[2].upper() != b"FILTERBY":
        raise Syntax
    passes = _filter(args[3].upper(), args[4])
    return [spec.wire_name.encode() for spec in _with_subcommands() if passes(spec)]


def _filter(kind: bytes, word: bytes) -> Callable[[CommandSpec], bool]:
    if kind == b"MODULE":
        return lambda spec: False
    if kind == b"ACLCAT":
        category = word.decode("latin-1").lower()
        return lambda spec: category in categories(spec)
    if kind == b"PATTERN":
        matches = compiled(word, nocase=True)
        return lambda spec: matches(spec.wire_name.encode())
    raise Syntax


def _with_subcommands() -> Iterator[CommandSpec]:
    for spec in TABLE.values():
        yield spec
        yield from spec.subcommands.values()
