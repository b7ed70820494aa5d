"""The command table: each entry is whole and well-formed, and where Redis has the command too, it says the same."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import keyhaus.commands  # noqa: F401  (fills the table)
from keyhaus.commands.arguments import Argument, arguments_of
from keyhaus.commands.spec import TABLE, CommandSpec, Flag
from tests.support.processes import HOST, redis_server
from tests.support.wire import Wire, parsed

SPECS = {spec.wire_name: spec for top in TABLE.values() for spec in (top, *top.subcommands.values())}
LEAVES = {name: spec for name, spec in SPECS.items() if not spec.subcommands}
# Brought by releases of Redis after the oracle's, or keyhaus' own.
NEWER = {"client|setinfo", "waitaof"}
GROUPS = {"string", "generic", "connection", "transactions", "server"}
SINCE = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+|keyhaus [0-9]+\.[0-9]+")


class Oracle:
    """A real redis-server's command table."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def call(self, *words: str) -> Any:
        return parsed(self._wire.call(*(word.encode() for word in words)))[0].plain()


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port, Wire(HOST, port) as wire:
        yield Oracle(wire)


def shortest(arguments: list[Argument]) -> int:
    """How many words a syntax has at the least."""
    return sum(fewest_of(argument) for argument in arguments if not argument.optional)


def fewest_of(argument: Argument) -> int:
    if argument.kind == "oneof":
        return bool(argument.token) + min(fewest_of(part) for part in argument.parts)
    if argument.kind == "block":
        return bool(argument.token) + shortest(list(argument.parts))
    return 1 if argument.kind == "pure-token" else 1 + bool(argument.token)


def is_open(arguments: list[Argument]) -> bool:
    """Whether a syntax has words that may be left out or repeated."""
    return any(argument.optional or argument.multiple or argument.kind == "oneof" for argument in arguments)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_each_command_is_described(name: str) -> None:
    spec = SPECS[name]
    assert spec.name == spec.name.upper() == name.upper()
    assert spec.summary.endswith(".")
    assert spec.summary[0].isupper()
    assert SINCE.fullmatch(spec.since), spec.since
    assert spec.group in GROUPS or spec.since.startswith("keyhaus")
    assert spec.complexity or spec.subcommands
    assert (spec.handler is None) == (bool(spec.subcommands) and name != "command")
    assert spec.handler is None or inspect.iscoroutinefunction(spec.handler)


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_the_arity_is_what_the_syntax_says(name: str) -> None:
    spec = LEAVES[name]
    arguments = arguments_of(spec.syntax)
    words = len(name.split("|")) + shortest(arguments)
    assert abs(spec.arity) <= words
    assert spec.accepts(words)
    if spec.arity > 0:
        assert not is_open([argument for argument in arguments if argument.kind != "oneof"])


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_flags_fit_together(name: str) -> None:
    flags = SPECS[name].flags
    assert not (flags & Flag.READ and flags & Flag.WRITE)
    if flags & (Flag.CONNECTION | Flag.CONTROL):
        assert not flags & (Flag.READ | Flag.WRITE | Flag.DENY_OOM | Flag.RANGES)
    if flags & Flag.DENY_OOM:
        assert flags & Flag.WRITE


def test_only_what_walks_keys_in_their_order_wants_them_in_order() -> None:
    walking = {spec.name for spec in SPECS.values() if spec.flags & Flag.RANGES}
    assert walking == {"SCAN", "RANGE", "DELRANGE", "RANDOMKEY", "TYPED|RANGE"}


@pytest.mark.parametrize("name", [name for name, spec in sorted(SPECS.items()) if spec.keys])
def test_keys_stand_where_the_fewest_words_have_some(name: str) -> None:
    spec = SPECS[name]
    keys = spec.keys
    assert keys is not None
    assert keys.first >= len(name.split("|"))
    assert keys.step >= 1
    words = [b"%d" % place for place in range(max(abs(spec.arity), keys.first + abs(keys.step)))]
    assert keys.of(words)[0] == b"%d" % keys.first
    assert keys.last < 0 or keys.first <= keys.last < abs(spec.arity)
    assert spec.flags & (Flag.READ | Flag.WRITE | Flag.CONTROL)


@pytest.mark.parametrize("name", sorted(name for name, spec in SPECS.items() if spec.subcommands))
def test_each_container_has_help(name: str) -> None:
    subcommands = SPECS[name].subcommands
    assert "HELP" in subcommands
    assert all(sub.name == f"{SPECS[name].name}|{word}" for word, sub in subcommands.items())


def foreign(spec: CommandSpec) -> bool:
    return spec.since.startswith("keyhaus") or spec.wire_name in NEWER


@pytest.mark.parametrize("name", sorted(name for name, spec in SPECS.items() if not foreign(spec)))
def test_redis_says_the_same_of_arity_and_keys(name: str, oracle: Oracle) -> None:
    (info,) = oracle.call("COMMAND", "INFO", name)
    assert info is not None, f"redis-server has no {name}"
    spec = SPECS[name]
    keys = spec.keys
    mine = [name.encode(), spec.arity, *((keys.first, keys.last, keys.step) if keys else (0, 0, 0))]
    assert info[:2] + info[3:6] == mine
    assert words(info[2]) & {"readonly", "write"} == read_or_write(spec)


@pytest.mark.parametrize("name", sorted(name for name, spec in SPECS.items() if not foreign(spec)))
def test_redis_says_the_same_of_since_and_group(name: str, oracle: Oracle) -> None:
    pairs = oracle.call("COMMAND", "DOCS", name)[1]
    docs = {key.decode(): value for key, value in zip(pairs[::2], pairs[1::2], strict=True)}
    assert (docs["since"].decode(), docs["group"].decode()) == (SPECS[name].since, SPECS[name].group)
    assert docs["summary"].decode().rstrip(".").lower() != SPECS[name].summary.rstrip(".").lower()


def words(reply: list[bytes]) -> set[str]:
    return {word.decode() for word in reply}


def read_or_write(spec: CommandSpec) -> set[str]:
    return {word for flag, word in ((Flag.READ, "readonly"), (Flag.WRITE, "write")) if spec.flags & flag}


@pytest.mark.parametrize(
    ("syntax", "fewest", "kinds"),
    [
        ("", 0, []),
        ("key value", 2, ["key", "string"]),
        ("key [key ...]", 1, ["key"]),
        ("key value [key value ...]", 2, ["block"]),
        ("[EX seconds | PERSIST]", 0, ["oneof"]),
        ("<ON | OFF>", 1, ["oneof"]),
        ("<A b | C>", 1, ["oneof"]),
        ("[AUTH username password]", 0, ["block"]),
        ("COUNT count", 2, ["integer"]),
    ],
)
def test_a_syntax_becomes_a_tree_of_arguments(syntax: str, fewest: int, kinds: list[str]) -> None:
    arguments = arguments_of(syntax)
    assert shortest(arguments) == fewest
    assert [argument.kind for argument in arguments] == kinds


def test_a_token_belongs_to_the_value_behind_it() -> None:
    (choice,) = arguments_of("[EX seconds | AUTH username password | GET]")
    assert [(part.name, part.token, part.kind) for part in choice.parts] == [
        ("seconds", "EX", "integer"),
        ("auth", "AUTH", "block"),
        ("get", "GET", "pure-token"),
    ]
    assert [part.token for part in choice.parts[1].parts] == ["", ""]


@pytest.mark.parametrize("syntax", ["[", "[a", "a]", "<>", "[a |]", "a | b"])
def test_a_malformed_syntax_is_refused(syntax: str) -> None:
    with pytest.raises(ValueError):
        arguments_of(syntax)
