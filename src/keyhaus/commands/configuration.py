"""CONFIG over the settings of `core/settings.py`.

Three kinds of names are answered: settings, other names of theirs (`maxmemory`), and what Redis' clients
and tools ask for and is the same here always (`save`), which may be set to the value that it has.
"""

from __future__ import annotations

from typing import Any, Final

from keyhaus.commands.glob import compiled
from keyhaus.commands.help import add_help
from keyhaus.commands.spec import Flag, command, container
from keyhaus.core import limits
from keyhaus.core.context import Context
from keyhaus.core.errors import LimitExceeded, Syntax, UserError
from keyhaus.core.reply import OK
from keyhaus.core.settings import ALIASES, TABLE, answers, check, parse, show
from keyhaus.store.transaction import Transaction

GROUP: Final = "server"
ADMIN: Final = Flag.CONNECTION | Flag.ADMIN
_WILD: Final = frozenset(b"*?[\\")

container("CONFIG", Flag.CONNECTION, summary="Commands about the settings.", since="2.0.0", group=GROUP)
add_help("CONFIG", group=GROUP, since="5.0.0")


def _values(context: Context) -> dict[str, str]:
    """Everything that CONFIG GET knows, by name."""
    settings, facts = context.server.settings, context.server.facts()
    values = {name: show(name, settings[name]) for name in TABLE}
    values |= {name: show(name, settings[alias.setting]) for name, alias in ALIASES.items()}
    values |= answers(settings)
    values["port"] = str(facts.get("tcp_port", 0))
    values["bind"] = str(facts.get("bind", ""))
    return values


@command(
    "CONFIG|GET",
    -3,
    ADMIN,
    summary="Answers the settings whose names match a pattern, with their values.",
    since="2.0.0",
    group=GROUP,
    syntax="pattern [pattern ...]",
    complexity="O(N * M) in the numbers of settings and of patterns",
)
async def config_get(tx: Transaction, args: list[bytes], context: Context) -> Any:
    patterns = list(dict.fromkeys(args[2:]))
    _check_patterns(patterns)
    values = _values(context)
    found: dict[str, bytes] = {}  # by the setting's name, the name as the reply gives it
    for pattern in patterns:
        if _WILD.isdisjoint(pattern):
            # A plain name comes back as it was asked for.
            name = _text(pattern).lower()
            if name in values:
                found.setdefault(name, pattern)
        else:
            matches = compiled(pattern, nocase=True)
            for name in values:
                if matches(name.encode()):
                    found.setdefault(name, name.encode())
    return {shown: values[name].encode("utf-8", "surrogateescape") for name, shown in found.items()}


def _check_patterns(patterns: list[bytes]) -> None:
    if len(patterns) > limits.CONFIG_PATTERNS_MAX:
        raise LimitExceeded("config-patterns", len(patterns), limits.CONFIG_PATTERNS_MAX, "patterns")
    if (size := sum(map(len, patterns))) > limits.CONFIG_PATTERN_BYTES_MAX:
        raise LimitExceeded("config-pattern-bytes", size, limits.CONFIG_PATTERN_BYTES_MAX)


def _text(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")


@command(
    "CONFIG|SET",
    -4,
    ADMIN,
    summary="Changes settings while the server runs: all that are named, or none.",
    since="2.0.0",
    group=GROUP,
    syntax="parameter value [parameter value ...]",
    complexity="O(N) in the number of settings named",
)
async def config_set(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) % 2:
        raise Syntax
    pairs = list(zip(args[2::2], map(_text, args[3::2]), strict=True))
    names = _checked_names(pairs, context)
    parsed: dict[str, Any] = {}
    for name, (_, text) in zip(names, pairs, strict=True):
        alias = ALIASES.get(name)
        if alias is not None or name in TABLE:
            try:
                value = parse(name, text)
                check(context.server.settings["engine"], {alias.setting if alias else name: value})
                parsed[alias.setting if alias else name] = value
            except UserError as error:
                raise _failed(name.encode(), error.message) from None
    for name, value in parsed.items():
        context.server.settings.put(name, value)
    return OK


def _checked_names(pairs: list[tuple[bytes, str]], context: Context) -> list[str]:
    """The names of the settings to be set. Raises UserError for the first that can't be."""
    constant = answers(context.server.settings)
    names: list[str] = []
    seen: set[str] = set()
    for word, text in pairs:
        name = _text(word).lower()
        alias = ALIASES.get(name)
        setting = alias.setting if alias else name
        if setting in TABLE:
            fixed = not TABLE[setting].mutable
        elif name in constant or name in ("port", "bind"):
            fixed = constant.get(name) != text.lower()
        else:
            shown = word.partition(b"\0")[0]
            raise UserError(b"Unknown option or number of arguments for CONFIG SET - '%s'" % shown)
        if fixed:
            raise _failed(word, "can't set immutable config")
        if setting in seen:
            raise _failed(word, "duplicate parameter")
        seen.add(setting)
        names.append(name)
    return names


def _failed(word: bytes, reason: str) -> UserError:
    return UserError(b"CONFIG SET failed (possibly related to argument '%s') - %s" % (word, reason.encode()))


@command(
    "CONFIG|RESETSTAT",
    2,
    ADMIN,
    summary="Sets the counters that INFO tells back to 0.",
    since="2.0.0",
    group=GROUP,
)
async def config_resetstat(tx: Transaction, args: list[bytes], context: Context) -> Any:
    context.server.statistics.reset()
    tx.store.reset_counters()
    return OK


@command(
    "CONFIG|REWRITE",
    2,
    ADMIN,
    summary="Is refused: the settings come from the command line and the environment, not from a file.",
    since="2.8.0",
    group=GROUP,
)
async def config_rewrite(tx: Transaction, args: list[bytes], context: Context) -> Any:
    raise UserError("The server is running without a config file")
