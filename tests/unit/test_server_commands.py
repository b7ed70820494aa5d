"""The commands about the server and its databases, and those that tell about keys, slow commands and the table."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from keyhaus.commands import configuration, introspection
from keyhaus.commands.server import is_local
from keyhaus.commands.spec import TABLE
from keyhaus.core import limits
from keyhaus.core.errors import Error, LimitExceeded
from keyhaus.core.reply import SetReply, Verbatim
from keyhaus.store import record as rec
from tests.support.surroundings import Surrounded


@pytest.fixture
def database() -> Surrounded:
    return Surrounded()


class Calls:
    """What functions were called with, from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def of(self, module: ModuleType, name: str) -> list[tuple[Any, ...]]:
        seen: list[tuple[Any, ...]] = []
        function = getattr(module, name)

        def noted(*args: Any, **options: Any) -> Any:
            seen.append(args)
            return function(*args, **options)

        self._monkeypatch.setattr(module, name, noted)
        return seen


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def durable(database: Surrounded, monkeypatch: pytest.MonkeyPatch, *, synced: int) -> None:
    """Makes the store look as if it had a journal that is synced up to there."""
    monkeypatch.setattr(database.store, "journal", object())
    monkeypatch.setattr(database.store, "synced", synced)


# databases


def test_flushall_empties_every_database(database: Surrounded) -> None:
    for number in (0, 3):
        database.tx.database = number
        database.run("SET", "k", "v")
    assert database.run("FLUSHALL", "SYNC") == "OK"
    assert [space.count for space in database.store.spaces] == [0] * 16


def test_swapdb_with_itself_is_no_commit(database: Surrounded) -> None:
    last = database.store.last
    assert database.run("SWAPDB", "2", "2") == "OK"
    assert database.store.last == last


def test_dbsize_depends_on_the_latest_commit(database: Surrounded) -> None:
    database.run("SET", "k", "v")
    assert database.run("DBSIZE") == 1
    assert database.tx.depends == database.store.last


def test_time_is_the_stores_clock_in_two_words(database: Surrounded) -> None:
    database.clock.ms = 2_000_000_000_123
    assert database.run("TIME") == [b"2000000000", b"123000"]
    database.clock.ms -= 5000
    assert database.run("TIME") == [b"2000000000", b"123000"]  # it never runs back


# waiting


def test_wait_waits_only_for_replicas_that_are_wanted(database: Surrounded) -> None:
    assert database.run("WAIT", "0", "50") == 0
    assert database.waited_ms == []
    assert database.run("WAIT", "1", "50") == 0
    assert database.waited_ms == [50]


def test_nothing_waits_inside_exec(database: Surrounded, monkeypatch: pytest.MonkeyPatch) -> None:
    durable(database, monkeypatch, synced=0)
    database.client.in_multi = True
    assert database.run("WAIT", "1", "0") == 0
    assert database.run("WAITAOF", "1", "1", "0") == [1, 0]
    database.server.settings.put("enable-debug-command", "yes")
    assert database.run("DEBUG", "SLEEP", "1") == "OK"
    assert database.waited_ms == []


def test_waitaof_holds_its_reply_until_all_before_it_is_synced(
    database: Surrounded, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.run("SET", "k", "v")
    durable(database, monkeypatch, synced=0)
    assert database.run("WAITAOF", "1", "0", "0") == [1, 0]
    assert database.tx.depends == database.store.last
    assert database.tx.waits_for_sync


def test_waitaof_for_nothing_says_what_is_synced_now(database: Surrounded, monkeypatch: pytest.MonkeyPatch) -> None:
    assert database.run("WAITAOF", "0", "0", "0") == [0, 0]
    database.run("SET", "k", "v")
    durable(database, monkeypatch, synced=0)
    assert database.run("WAITAOF", "0", "0", "0") == [0, 0]
    assert not database.tx.waits_for_sync
    durable(database, monkeypatch, synced=database.store.last)
    assert database.run("WAITAOF", "0", "1", "20") == [1, 0]
    assert database.waited_ms == [20]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("1 0 0", "WAITAOF cannot be used when numlocal is set but appendonly is disabled."),
        ("1 0 -5", "timeout is negative"),
        ("1 abc 100", "value is out of range, must be positive"),
        ("abc 0 0", "value is not an integer or out of range"),
        ("2 0 0", "value is out of range, value must between 0 and 1"),
        ("-1 0 0", "value is out of range, value must between 0 and 1"),
        ("0 -1 0", "value is out of range, must be positive"),
        ("0 0 abc", "timeout is not an integer or out of range"),
    ],
)
def test_waitaof_refuses_in_redis_words(database: Surrounded, words: str, message: str) -> None:
    assert str(database.run("WAITAOF", *words.split())) == message


@pytest.mark.parametrize(
    ("setting", "address", "allowed"),
    [
        ("no", "127.0.0.1:5", False),
        ("yes", "10.0.0.1:5", True),
        ("local", "127.0.0.1:5", True),
        ("local", "10.0.0.1:5", False),
    ],
)
def test_debug_sleeps_only_where_it_may(setting: str, address: str, allowed: bool) -> None:
    database = Surrounded(enable_debug_command=setting)
    database.client.address = address
    reply = database.run("DEBUG", "SLEEP", "0.25")
    if allowed:
        assert reply == "OK"
        assert database.waited_ms == [250]
    else:
        assert isinstance(reply, Error)
        assert reply.message.startswith("DEBUG command not allowed.")
        assert database.waited_ms == []


@pytest.mark.parametrize("seconds", ["x", "-1", "0", "nan", "inf", ""])
def test_debug_sleep_takes_what_is_no_time_for_none(seconds: str) -> None:
    database = Surrounded(enable_debug_command="yes")
    assert database.run("DEBUG", "SLEEP", seconds) == "OK"
    assert database.waited_ms == []


def test_debug_has_nothing_but_sleep() -> None:
    database = Surrounded(enable_debug_command="yes")
    for words in (("SLEEP",), ("SLEEP", "1", "2"), ("SEGFAULT",), ("SET-ACTIVE-EXPIRE", "0")):
        message = f"unknown subcommand or wrong number of arguments for '{words[0]}'. Try DEBUG HELP."
        assert str(database.run("DEBUG", *words)) == message


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1:1", True), ("[::1]:1", True), ("::1:1", True), ("/run/s:0", True), ("10.1.1.1:1", False), ("", False)],
)
def test_local_addresses_are_known(address: str, local: bool) -> None:
    assert is_local(address) is local


# configuration


def test_config_set_changes_all_or_nothing(database: Surrounded) -> None:
    settings = database.server.settings
    assert isinstance(database.run("CONFIG", "SET", "timeout", "5", "maxclients", "x"), Error)
    assert settings["timeout"] == 0
    assert database.run("CONFIG", "SET", "Timeout", "5", "appendfsync", "no") == "OK"
    assert (settings["timeout"], settings["durability"]) == (5, "none")


def test_a_setting_and_its_other_name_are_one(database: Surrounded) -> None:
    assert "duplicate parameter" in str(database.run("CONFIG", "SET", "durability", "always", "appendfsync", "always"))
    assert database.run("CONFIG", "GET", "durability", "appendfsync") == {
        b"durability": b"always",
        b"appendfsync": b"always",
    }


def test_what_is_always_so_may_be_set_to_what_it_is(database: Surrounded) -> None:
    assert database.run("CONFIG", "SET", "save", "", "daemonize", "No", "appendonly", "yes") == "OK"
    for name, value in (("save", "60 1"), ("daemonize", "yes"), ("port", "1")):
        assert "can't set immutable config" in str(database.run("CONFIG", "SET", name, value))


def test_config_get_knows_every_setting_and_the_port(database: Surrounded) -> None:
    everything = database.run("CONFIG", "GET", "*")
    assert everything[b"port"] == b"19272"
    assert everything[b"bind"] == b"127.0.0.1"
    assert everything[b"maxclients"] == b"10000"
    assert everything[b"appendonly"] == b"yes"
    assert Surrounded(engine="memory").run("CONFIG", "GET", "append*") == {
        b"appendfsync": b"always",
        b"appendonly": b"no",
    }


@pytest.mark.parametrize("name", ["proto-max-bulk-len", "max-request-bytes", "max-reply-bytes"])
def test_the_limits_of_requests_and_replies_can_be_set(database: Surrounded, name: str) -> None:
    heard: list[int] = []
    database.server.settings.observe(name, heard.append)
    assert database.run("CONFIG", "SET", name, "2mb") == "OK"
    assert database.run("CONFIG", "GET", name) == {name.encode(): b"2097152"}
    assert heard[1:] == [2 << 20]


def test_config_get_looks_at_each_pattern_once(database: Surrounded, calls: Calls) -> None:
    made = calls.of(configuration, "compiled")
    once = database.run("CONFIG", "GET", "max*", "timeout", "t*")
    assert database.run("CONFIG", "GET", *["max*", "timeout", "t*"] * 5000) == once
    assert len(made) == 4


def test_config_get_takes_so_many_patterns(database: Surrounded) -> None:
    most = limits.CONFIG_PATTERNS_MAX
    assert database.run("CONFIG", "GET", *[f"{number}*" for number in range(most)]) == {}
    error = database.run("CONFIG", "GET", *[f"{number}*" for number in range(most + 1)])
    assert isinstance(error, LimitExceeded)
    assert error.message == f"config-patterns exceeded: {most + 1} patterns, at most {most} are allowed"
    error = database.run("CONFIG", "GET", "*", "[a]" * limits.CONFIG_PATTERN_BYTES_MAX)
    assert isinstance(error, LimitExceeded)
    assert error.message.startswith("config-pattern-bytes exceeded")


# what keys and the process take


def test_memory_usage_grows_with_the_value(database: Surrounded) -> None:
    database.run("SET", "small", "x")
    database.run("SET", "large", "x" * 10_000)
    small = database.run("MEMORY", "USAGE", "small")
    large = database.run("MEMORY", "USAGE", "large", "SAMPLES", "0")
    assert 100 < small < 1000
    assert large - small == 9_999


def test_memory_stats_and_doctor_speak(database: Surrounded) -> None:
    database.run("SET", "k", "v", "EX", "100")
    told = database.run("MEMORY", "STATS")
    assert 0 < told[b"total.allocated"] <= told[b"peak.allocated"]
    assert told[b"db.0"] == {b"keys.count": 1, b"expires.count": 1}
    assert type(database.run("MEMORY", "DOCTOR")) is Verbatim


def test_a_typed_object_has_its_own_encoding(database: Surrounded) -> None:
    database.tx.begin()
    database.tx.put(b"o", b"1", flags=rec.OBJECT)
    database.tx.commit()
    assert database.run("OBJECT", "ENCODING", "o") == b"msgpack"
    assert database.run("OBJECT", "REFCOUNT", "o") == 1
    assert database.run("OBJECT", "IDLETIME", "o") == 0


def test_an_expired_key_is_none(database: Surrounded) -> None:
    database.run("SET", "k", "v", "PX", "5")
    database.clock.ms += 10
    assert database.run("OBJECT", "ENCODING", "k") is None
    assert database.run("MEMORY", "USAGE", "k") is None


# what took long


def test_slowlog_gives_the_newest_first(database: Surrounded) -> None:
    for number in range(12):
        database.server.statistics.note_slow(100, number, [b"GET", b"k"], "1.2.3.4:5", b"me")
    entries = database.run("SLOWLOG", "GET")
    assert len(entries) == 10
    assert entries[0] == [11, 100, 11, [b"GET", b"k"], b"1.2.3.4:5", b"me"]
    assert len(database.run("SLOWLOG", "GET", "-1")) == database.run("SLOWLOG", "LEN") == 12
    assert [entry[0] for entry in database.run("SLOWLOG", "GET", "2")] == [11, 10]
    assert database.run("SLOWLOG", "GET", str((1 << 63) - 1))
    assert database.run("SLOWLOG", "RESET") == "OK"
    assert database.run("SLOWLOG", "LEN") == 0


def test_latency_tells_events_until_they_are_reset(database: Surrounded) -> None:
    assert b"latency-monitor-threshold" in database.run("LATENCY", "DOCTOR")
    database.run("CONFIG", "SET", "latency-monitor-threshold", "5")
    assert b"No event" in database.run("LATENCY", "DOCTOR")
    statistics = database.server.statistics
    statistics.note_latency("command", 100, 20)
    statistics.note_latency("command", 101, 10)
    statistics.note_latency("a", 102, 7)
    assert database.run("LATENCY", "LATEST") == [[b"a", 102, 7, 7], [b"command", 101, 10, 20]]
    assert database.run("LATENCY", "HISTORY", "command") == [[100, 20], [101, 10]]
    assert b"command: 2 times, 15 ms on average, 20 ms at the worst." in database.run("LATENCY", "DOCTOR")
    assert database.run("LATENCY", "RESET", "command", "x") == 1
    assert database.run("LATENCY", "RESET") == 1
    assert database.run("LATENCY", "LATEST") == []


# the table


def test_command_tells_of_every_command_in_redis_shape(database: Surrounded) -> None:
    infos = database.run("COMMAND")
    assert len(infos) == database.run("COMMAND", "COUNT") == len(TABLE)
    assert infos == database.run("COMMAND", "INFO")
    for info in infos:
        assert len(info) == 10
        assert info[6]
        assert all(type(info[place]) is SetReply for place in (2, 6, 7, 8))
    config = next(info for info in infos if info[0] == b"config")
    assert b"config|get" in [sub[0] for sub in config[9]]


def test_command_docs_describes_arguments_and_subcommands(database: Surrounded) -> None:
    docs = database.run("COMMAND", "DOCS")
    assert len(docs) == len(TABLE)
    client: dict[bytes, Any] = docs[b"client"]
    assert client[b"group"] == b"connection"
    reply = client[b"subcommands"][b"client|reply"]
    assert reply[b"arguments"][0][b"name"] == b"on_off_skip"
    assert [part[b"token"] for part in reply[b"arguments"][0][b"arguments"]] == [b"ON", b"OFF", b"SKIP"]
    assert database.run("COMMAND", "DOCS", "client|reply", "nothing") == {b"client|reply": reply}
    (key,) = docs[b"watch"][b"arguments"]
    assert key == {b"name": b"key", b"type": b"key", b"key_spec_index": 0, b"flags": ["multiple"]}


def test_what_command_info_is_asked_twice_is_made_once(database: Surrounded, calls: Calls) -> None:
    looked_up, made = calls.of(introspection, "by_full_name"), calls.of(introspection, "_info")
    get, nothing, client = database.run("COMMAND", "INFO", "get", "nothing", "client|id")
    told = database.run("COMMAND", "INFO", *["get", "nothing", "client|id"] * 300)
    assert told == [get, nothing, client] * 300
    assert nothing is None
    assert (len(looked_up), len(made)) == (6, 4)


def test_command_info_takes_so_many_names(database: Surrounded) -> None:
    most = limits.COMMAND_NAMES_MAX
    assert len(database.run("COMMAND", "INFO", *["get"] * most)) == most
    error = database.run("COMMAND", "INFO", *["get"] * (most + 1))
    assert isinstance(error, LimitExceeded)
    assert error.message == f"command-names exceeded: {most + 1} names, at most {most} are allowed"


def test_command_docs_describes_a_command_once_however_often_it_is_named(database: Surrounded, calls: Calls) -> None:
    looked_up, made = calls.of(introspection, "by_full_name"), calls.of(introspection, "_docs")
    assert list(database.run("COMMAND", "DOCS", *["get", "GET", "nothing", "set"] * 5000)) == [b"get", b"set"]
    assert (len(looked_up), len(made)) == (4, 2)


def test_command_list_lists_subcommands_too(database: Surrounded) -> None:
    everything = database.run("COMMAND", "LIST")
    assert {b"config", b"config|get", b"get"} <= set(everything)
    dangerous = set(database.run("COMMAND", "LIST", "FILTERBY", "ACLCAT", "Dangerous"))
    assert {b"flushall", b"config|set"} <= dangerous
    assert b"get" not in dangerous
    assert database.run("COMMAND", "LIST", "FILTERBY", "PATTERN", "CONFIG|?et") == [b"config|get", b"config|set"]


@pytest.mark.parametrize("name", [name for name, spec in TABLE.items() if spec.subcommands])
def test_help_lists_every_subcommand(database: Surrounded, name: str) -> None:
    lines = database.run(name, "HELP")
    assert all(type(line) is str for line in lines)
    named = {line.split(" ")[0] for line in lines[1:] if not line.startswith(" ")}
    assert named == set(TABLE[name].subcommands)


def test_lolwut_draws(database: Surrounded) -> None:
    reply = database.run("LOLWUT", "VERSION", "5")
    assert type(reply) is Verbatim
    assert reply.endswith(b"\n")
