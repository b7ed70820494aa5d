"""INFO: Redis' format and names, and no number about data that is not synced yet."""

from __future__ import annotations

from typing import Any

import pytest

from keyhaus import __version__
from keyhaus.commands.information import SECTIONS, human_bytes
from keyhaus.core.reply import Verbatim
from tests.support.sessions import Caller, Sessions
from tests.support.surroundings import PlainClient, Surrounded


class Asker:
    """A database in memory and a client that asks for INFO."""

    def __init__(self) -> None:
        self.database = Surrounded(engine="memory")
        self.client = self.database.client

    def ask(self, *sections: str) -> dict[str, dict[str, str]]:
        """The fields by section."""
        reply = self.text(*sections)
        found: dict[str, dict[str, str]] = {}
        for part in reply.split("\r\n\r\n") if reply else ():
            title, *lines = part.removesuffix("\r\n").split("\r\n")
            assert title.startswith("# ")
            found[title[2:].lower()] = dict(line.split(":", 1) for line in lines)
        return found

    def text(self, *sections: str) -> str:
        reply: Any = self.database.run("INFO", *sections)
        assert type(reply) is Verbatim
        return reply.decode()


@pytest.fixture
def asker() -> Asker:
    return Asker()


def test_the_default_leaves_out_the_statistics_of_each_command(asker: Asker) -> None:
    assert list(asker.ask()) == [name for name in SECTIONS if name != "commandstats"]
    assert list(asker.ask()) == list(asker.ask("DEFAULT"))


@pytest.mark.parametrize("word", ["all", "everything", "ALL"])
def test_all_is_every_section(asker: Asker, word: str) -> None:
    assert list(asker.ask(word)) == list(SECTIONS)


def test_sections_come_in_their_own_order_and_once(asker: Asker) -> None:
    assert list(asker.ask("keyspace", "CLUSTER", "cluster")) == ["cluster", "keyspace"]
    assert asker.text("cluster", "keyspace") == "# Cluster\r\ncluster_enabled:0\r\n\r\n# Keyspace\r\n"


def test_an_unknown_section_is_empty(asker: Asker) -> None:
    assert asker.text("nothing") == ""


def test_the_server_says_what_it_is_compatible_with_and_what_it_is(asker: Asker) -> None:
    told = asker.ask("server", "keyhaus")
    assert told["server"]["redis_version"] == "7.0.15"
    assert told["server"]["redis_mode"] == "standalone"
    assert told["server"]["arch_bits"] == "64"
    assert told["server"]["tcp_port"] == "19272"
    assert told["server"]["process_id"] == "4711"
    assert told["server"]["uptime_in_seconds"] == "90"
    assert told["server"]["run_id"] == "0" * 40
    assert told["keyhaus"]["keyhaus_version"] == __version__
    assert told["keyhaus"]["engine"] == "memory"
    assert told["keyhaus"]["durability"] == "none"
    assert told["keyhaus"]["history"] == asker.database.store.history
    assert told["keyhaus"]["fast_lane"] == "none"


def test_the_time_is_that_of_the_store(asker: Asker) -> None:
    assert asker.ask("server")["server"]["server_time_usec"] == str(asker.database.clock.ms * 1000)


def test_clients_are_counted(asker: Asker) -> None:
    PlainClient(asker.client.server, 2).letters = "xb"
    clients = asker.ask("clients")["clients"]
    assert (clients["connected_clients"], clients["blocked_clients"], clients["maxclients"]) == ("2", "1", "10000")


def test_memory_is_measured(asker: Asker) -> None:
    asker.database.run("SET", "a", "x" * 2_000_000)
    memory = asker.ask("memory")["memory"]
    assert 2_000_000 < int(memory["used_memory"]) < 2_001_000
    assert int(memory["used_memory"]) == int(memory["used_memory_dataset"]) + int(memory["used_memory_overhead"])
    assert int(memory["used_memory"]) <= int(memory["used_memory_rss"]) <= int(memory["used_memory_peak"])
    assert memory["used_memory_human"] == "1.91M"
    stats = asker.database.run("MEMORY", "STATS")
    assert stats[b"total.allocated"] == stats[b"keys.bytes-per-key"] == int(memory["used_memory"])
    assert abs(asker.database.run("MEMORY", "USAGE", "a") - stats[b"dataset.bytes"]) < 100
    assert memory["maxmemory_policy"] == "noeviction"


def test_the_keyspace_lists_databases_with_keys(asker: Asker) -> None:
    asker.database.run("MSET", "a", "1", "b", "2")
    asker.database.run("SET", "c", "3", "PX", "100000")
    assert asker.ask("keyspace")["keyspace"] == {"db0": "keys=3,expires=1,avg_ttl=0"}


def test_the_counters_are_told_and_resetstat_clears_them(asker: Asker) -> None:
    statistics = asker.client.server.statistics
    statistics.commands, statistics.hits, statistics.misses = 7, 5, 3
    statistics.count_error("SYNTAX")
    statistics.calls["config|get"] = [4, 0, 2, 10]
    asker.database.store.expired_keys = 9
    told = asker.ask("stats", "errorstats", "commandstats")
    assert told["stats"]["total_commands_processed"] == "7"
    assert (told["stats"]["keyspace_hits"], told["stats"]["keyspace_misses"]) == ("5", "3")
    assert told["stats"]["expired_keys"] == "9"
    assert told["stats"]["total_error_replies"] == "1"
    assert told["errorstats"] == {"errorstat_SYNTAX": "count=1"}
    assert told["commandstats"] == {
        "cmdstat_config|get": "calls=4,usec=10,usec_per_call=2.50,rejected_calls=0,failed_calls=2"
    }
    assert asker.database.run("CONFIG", "RESETSTAT") == "OK"
    told = asker.ask("stats", "commandstats")
    assert told["stats"]["total_commands_processed"] == told["stats"]["expired_keys"] == "0"
    assert told["commandstats"] == {}


def _told(caller: Caller) -> dict[str, str]:
    """The fields of INFO's section on transactions."""
    title, *lines = caller("INFO", "transactions").decode().removesuffix("\r\n").split("\r\n")
    assert title == "# Transactions"
    return dict(line.split(":") for line in lines)


def test_transactions_and_their_waits_are_counted_and_resetstat_clears_what_counts() -> None:
    sessions = Sessions()
    one, other, asker = sessions.connect(), sessions.connect(), sessions.connect()
    one("BEGIN")
    one("SET", "a", "1")
    one("SET", "b", "1")
    other("BEGIN", "OPTIMISTIC")
    other("GET", "c")
    pending = asker.send("SET", "a", "2")
    sessions.pass_ms(30)
    told = _told(sessions.connect())
    assert (told["transactions_open"], told["lock_waiters"], told["lock_waits"]) == ("2", "1", "1")
    assert told["lock_holders"] == "1"
    assert 1000 < int(told["transactions_bytes"]) < 2000, "two writes, three locks, and the c that was read"
    one("COMMIT")
    sessions.settle()
    assert pending.reply == "OK"
    asker("SET", "c", "3")
    other.raises("CONFLICT", "COMMIT")
    other("BEGIN", "READONLY")
    told = _told(asker)
    assert {name: told[f"transactions_{name}"] for name in ("begun", "committed", "rolled_back", "conflicts")} == {
        "begun": "3",
        "committed": "1",
        "rolled_back": "1",
        "conflicts": "1",
    }
    assert (told["transactions_open"], told["transaction_outcomes"], told["transactions_bytes"]) == ("1", "2", "0")
    assert (told["lock_holders"], told["lock_waiters"], told["lock_wait_ms"]) == ("0", "0", "30")
    assert "20=0,50=1,100=0" in told["lock_wait_histogram_ms"]
    assert asker("CONFIG", "RESETSTAT") == "OK"
    counted = [name for name in told if name not in ("transactions_open", "transaction_outcomes")]
    told = _told(asker)
    assert (told["transactions_open"], told["transaction_outcomes"]) == ("1", "2"), "what is there stays"
    assert {told[name] for name in counted if name != "lock_wait_histogram_ms"} == {"0"}
    assert {part.split("=")[1] for part in told["lock_wait_histogram_ms"].split(",")} == {"0"}


def test_what_was_waited_for_counts_as_what_was_to_be_had_at_once() -> None:
    sessions = Sessions()
    one, other = sessions.connect(), sessions.connect()
    keys = ["a", "b" * 30_000, "c" * 20_000]
    taken: list[str] = []
    for waits in (False, True):
        one("BEGIN")
        one("LOCK", *keys)
        other("BEGIN")
        if waits:
            other.send("MGET", *keys)
        one("ROLLBACK")
        sessions.settle()
        if not waits:
            other("MGET", *keys)
        taken.append(_told(one)["transactions_bytes"])
        other("ROLLBACK")
    assert taken[0] == taken[1]
    assert int(taken[0]) > 50_000


def test_a_key_within_a_locked_range_counts_no_more_than_the_range() -> None:
    sessions = Sessions()
    client = sessions.connect()
    client("MSET", "a", "1", "b", "2")
    client("BEGIN")
    client("RANGE", "", "")
    taken = _told(client)["transactions_bytes"]
    for _ in range(3):
        client("MGET", "a", "b")
    assert _told(client)["transactions_bytes"] == taken


def test_the_youngest_of_a_deadlock_dies_also_after_resetstat() -> None:
    sessions = Sessions()
    older, younger = sessions.connect(), sessions.connect()
    for _ in range(3):
        older("BEGIN")
        older("ROLLBACK")
    older("BEGIN")
    older("CONFIG", "RESETSTAT")
    younger("BEGIN")
    older("SET", "a", "1")
    younger("SET", "b", "1")
    waits = older.send("SET", "b", "2")
    younger.raises("DEADLOCK", "SET", "a", "2")
    sessions.settle()
    assert waits.reply == "OK"


def test_a_poisoned_store_is_told_of(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = asker.database.store.statistics()
    poisoned = {**facts, "engine": "rocksdb", "poisoned": "write failed:\r\nno such device", "full": True, "synced": 12}
    monkeypatch.setattr(asker.database.store, "statistics", lambda: poisoned)
    told = asker.ask("persistence", "keyhaus")
    assert told["persistence"]["aof_last_write_status"] == "err"
    assert told["persistence"]["aof_enabled"] == "1"
    assert told["keyhaus"]["poisoned"] == "write failed: no such device"
    assert told["keyhaus"]["no_further_segment"] == "1"
    assert told["keyhaus"]["synced_seqno"] == "12"
    assert told["keyhaus"]["durability"] == "always"


def test_info_depends_on_nothing(asker: Asker) -> None:
    asker.database.run("SET", "a", "1")
    asker.text()
    assert asker.database.tx.depends == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (512, "512B"), (1536, "1.50K"), (3 << 30, "3.00G"), (1 << 50, "1.00P"), (1 << 40, "1.00T")],
)
def test_bytes_are_shortened_as_redis_does(count: int, text: str) -> None:
    assert human_bytes(count) == text
