"""The settings: one table, from which CONFIG, the command line and the reference page are derived."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from keyhaus.core import limits
from keyhaus.core.errors import UserError


class Durability(enum.StrEnum):
    """When a reply may leave: once its commit is on disk (`always`), or in the kernel's hands (the others)."""

    ALWAYS = "always"
    EVERYSEC = "everysec"
    NONE = "none"


class Policy(enum.StrEnum):
    """What is given up once the data takes more than `max-memory`."""

    NOEVICTION = "noeviction"
    ALLKEYS_LRU = "allkeys-lru"
    ALLKEYS_LFU = "allkeys-lfu"
    VOLATILE_TTL = "volatile-ttl"


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: As CONFIG and the command line (`--name`) spell it.
        default: Its value where nothing else is said; its type is the setting's type.
        summary: One sentence.
        mutable: Whether CONFIG SET may change it while the server runs.
        least: The smallest number allowed.
        most: The largest number allowed.
        choices: The words allowed, each with the word that it means.
        memory: Whether it is a number of bytes, which may be written as `64mb`.
    """

    name: str
    default: int | str | bool
    summary: str
    mutable: bool = False
    least: int = 0
    most: int = (1 << 63) - 1
    choices: dict[str, str] | None = None
    memory: bool = False


INT_MAX: Final = (1 << 31) - 1
_DURABILITIES: Final = {"always": "always", "everysec": "everysec", "none": "none", "no": "none"}

TABLE: Final = {
    setting.name: setting
    for setting in (
        Setting(
            "durability",
            "always",
            "When a write is confirmed: always (on disk), everysec, none",
            mutable=True,
            choices=_DURABILITIES,
        ),
        Setting("databases", limits.DATABASES, "How many databases SELECT knows", least=1, most=256),
        Setting(
            "maxclients",
            limits.CLIENTS_MAX,
            "How many clients may be connected",
            mutable=True,
            least=1,
            most=(1 << 32) - 1,
        ),
        Setting(
            "timeout",
            0,
            "Seconds after which an idle client is disconnected; 0 for never",
            mutable=True,
            most=INT_MAX,
        ),
        Setting(
            "tcp-keepalive",
            300,
            "Seconds of silence after which TCP asks whether a client is still there; 0 for never",
            most=INT_MAX,
        ),
        Setting(
            "proto-max-bulk-len",
            limits.BULK_BYTES_MAX,
            "The longest argument that a client may announce",
            mutable=True,
            least=1 << 20,
            memory=True,
        ),
        Setting(
            "max-request-bytes",
            limits.REQUEST_BYTES_MAX,
            "The largest request, all arguments together",
            mutable=True,
            least=1 << 20,
            memory=True,
        ),
        Setting(
            "max-reply-bytes",
            limits.REPLY_BYTES_MAX,
            "The largest reply",
            mutable=True,
            least=1 << 16,
            memory=True,
        ),
        Setting(
            "max-transaction-bytes",
            limits.TRANSACTION_BYTES_MAX,
            "How much one transaction or command may write",
            mutable=True,
            least=1024,
            most=1 << 30,
            memory=True,
        ),
        Setting(
            "max-transactions",
            limits.TRANSACTIONS_MAX,
            "How many transactions may be open at once",
            mutable=True,
        ),
        Setting(
            "transactions-max-bytes",
            limits.TRANSACTIONS_BYTES_MAX,
            "How much memory all open transactions may take",
            mutable=True,
            least=limits.MIB,
            memory=True,
        ),
        Setting(
            "lock-timeout",
            limits.LOCK_TIMEOUT_MS,
            "Milliseconds that a command waits for a lock before it is refused; 0 for no limit",
            mutable=True,
            most=INT_MAX,
        ),
        Setting(
            "transaction-idle-ms",
            limits.TRANSACTION_IDLE_MS,
            "Milliseconds without a command after which a transaction is rolled back, where BEGIN has no TIMEOUT",
            mutable=True,
            least=1,
            most=INT_MAX,
        ),
        Setting(
            "transaction-max-ms",
            limits.TRANSACTION_AGE_MS,
            "Milliseconds from its begin after which a transaction is rolled back",
            mutable=True,
            least=1,
            most=INT_MAX,
        ),
        Setting(
            "transaction-outcome-ms",
            limits.OUTCOME_KEPT_MS,
            "For how many milliseconds TRANSACTION STATUS can say what became of a transaction",
            mutable=True,
            most=INT_MAX,
        ),
        Setting(
            "slowlog-log-slower-than",
            10_000,
            "Microseconds from which a command is logged as slow; -1 for none",
            mutable=True,
            least=-1,
        ),
        Setting("slowlog-max-len", limits.SLOWLOG_ENTRIES_MAX, "How many slow commands are kept", mutable=True),
        Setting(
            "latency-monitor-threshold",
            0,
            "Milliseconds from which an event is kept by LATENCY; 0 for off",
            mutable=True,
        ),
        Setting(
            "enable-debug-command",
            "no",
            "Whether DEBUG SLEEP is allowed: no, local, yes",
            choices={"no": "no", "local": "local", "yes": "yes"},
        ),
        Setting(
            "engine",
            "rocksdb",
            "What keeps the data: rocksdb or memory",
            choices={"rocksdb": "rocksdb", "memory": "memory"},
        ),
        Setting("dir", "./data", "The directory of the data"),
        Setting(
            "journal-segment-bytes",
            limits.SEGMENT_BYTES,
            "The size of one file of the journal",
            least=limits.SEGMENT_BYTES_MIN,
            most=1 << 32,
            memory=True,
        ),
        Setting(
            "journal-max-bytes",
            limits.JOURNAL_BYTES_MAX,
            "How large the journal may grow before writes are refused",
            least=limits.SEGMENT_BYTES_MIN,
            memory=True,
        ),
        Setting(
            "journal-retain-bytes",
            limits.JOURNAL_RETAIN_BYTES,
            "How much of the journal is kept for CHANGES once it is no longer needed",
            memory=True,
        ),
        Setting("archive-dir", "", "Where closed segments of the journal are kept for ever; empty for nowhere"),
        Setting(
            "backup-dir", "", "Where BGSAVE and BACKUP CREATE make backups; empty for backups in the data directory"
        ),
        Setting(
            "backup-keep",
            limits.BACKUPS_KEPT,
            "How many backups are kept in a directory that the server makes them in; 0 for all",
            mutable=True,
        ),
        Setting(
            "feed-bytes",
            limits.FEED_BYTES,
            "How much of what was committed CHANGES can tell in memory mode",
            mutable=True,
            memory=True,
        ),
        Setting(
            "memtable-bytes",
            limits.MEMTABLE_BYTES,
            "How much memory new data takes before it is flushed",
            mutable=True,
            least=limits.MIB,
            memory=True,
        ),
        Setting(
            "memtable-size",
            0,
            "After how many entries new data is flushed, whatever its bytes are; 0 for no such limit",
            mutable=True,
        ),
        Setting(
            "cache-bytes",
            limits.ROW_CACHE_BYTES,
            "How much memory the cache of single rows may take",
            mutable=True,
            memory=True,
        ),
        Setting(
            "block-cache-bytes",
            limits.BLOCK_CACHE_BYTES,
            "How much memory RocksDB's cache of blocks may take",
            least=limits.MIB,
            memory=True,
        ),
        Setting("bloom-bits", 10, "Bits a key of RocksDB's Bloom filters; 0 for none", most=64),
        Setting(
            "compression",
            "lz4",
            "How RocksDB packs blocks: none, lz4, zstd",
            choices={"none": "none", "lz4": "lz4", "zstd": "zstd"},
        ),
        Setting(
            "bottommost-compression",
            "zstd",
            "How RocksDB packs the blocks of its last level: none, lz4, zstd",
            choices={"none": "none", "lz4": "lz4", "zstd": "zstd"},
        ),
        Setting("direct-reads", False, "Whether RocksDB reads past the operating system's page cache"),
        Setting(
            "snapshot-max-ms",
            limits.SNAPSHOT_MS_MAX,
            "How old a snapshot may become before it is ended",
            mutable=True,
            least=1,
        ),
        Setting(
            "snapshot-max-bytes",
            limits.SNAPSHOT_BYTES_MAX,
            "How much memory old versions may take before the oldest snapshot is ended",
            mutable=True,
            memory=True,
        ),
        Setting(
            "state-file",
            "",
            "In memory mode: the JSON file that the data is loaded from, and kept in; empty for none",
        ),
        Setting(
            "max-memory",
            0,
            "In memory mode: how much memory the data may take; 0 for no limit",
            mutable=True,
            memory=True,
        ),
        Setting(
            "max-memory-policy",
            "noeviction",
            "What is given up at max-memory: noeviction, allkeys-lru, allkeys-lfu, volatile-ttl",
            mutable=True,
            choices={policy.value: policy.value for policy in Policy},
        ),
        Setting(
            "max-memory-samples",
            5,
            "How many keys of each database are looked at to find the one that goes",
            mutable=True,
            least=1,
            most=limits.EVICTION_SAMPLES_MAX,
        ),
        Setting(
            "lfu-log-factor",
            10,
            "How slowly the counter of a key's uses grows under allkeys-lfu; 0: with each use",
            mutable=True,
            most=INT_MAX,
        ),
        Setting(
            "lfu-decay-time",
            1,
            "After how many minutes that counter falls by one; 0: never",
            mutable=True,
            most=INT_MAX,
        ),
    )
}


@dataclass(frozen=True)
class Alias:
    """Another name of a setting, perhaps with words of its own.

    Attributes:
        setting: The setting that it names.
        choices: The words that it takes, with the setting's word for each; None where they are the setting's own.
    """

    setting: str
    choices: dict[str, str] | None = None


ALIASES: Final = {
    "appendfsync": Alias("durability", {"everysec": "everysec", "always": "always", "no": "none"}),
    "maxmemory": Alias("max-memory"),
    "maxmemory-policy": Alias("max-memory-policy"),
    "maxmemory-samples": Alias("max-memory-samples"),
}


def answers(settings: Settings) -> dict[str, str]:
    """What clients and tools of Redis ask CONFIG for and what is no setting here, since it is always so."""
    return {
        "appendonly": "no" if settings["engine"] == "memory" else "yes",
        "save": "",
        "notify-keyspace-events": "",
        "cluster-enabled": "no",
        "requirepass": "",
        "replicaof": "",
        "daemonize": "no",
    }


class Settings:
    """The values in force."""

    def __init__(self, **values: int | str | bool) -> None:
        self._values: dict[str, Any] = {name: setting.default for name, setting in TABLE.items()}
        self._observers: dict[str, list[Callable[[Any], None]]] = {}
        for name, value in values.items():
            self._values[name.replace("_", "-")] = value

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def integer(self, name: str) -> int:
        return int(self._values[name])

    def observe(self, name: str, observer: Callable[[Any], None]) -> None:
        """Calls `observer` with the value now, and with each new one."""
        observer(self._values[name])
        self._observers.setdefault(name, []).append(observer)

    def put(self, name: str, value: Any) -> None:
        """Sets a value that `parse` made."""
        self._values[name] = value
        for observer in self._observers.get(name, ()):
            observer(value)


_UNITS: Final = {"": 1, "b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
_MEMORY: Final = re.compile(r"([0-9]{0,30})([a-z]*)", re.ASCII)


def parse(name: str, text: str) -> int | str | bool:
    """The value that a text means for a setting or an alias of one.

    Raises:
        UserError: Says what was expected, in Redis' words.
    """
    alias = ALIASES.get(name)
    setting = TABLE[alias.setting if alias else name]
    choices = alias.choices if alias and alias.choices else setting.choices
    if choices is not None:
        try:
            return choices[text.lower()]
        except KeyError:
            raise UserError(f"argument(s) must be one of the following: {', '.join(choices)}") from None
    if isinstance(setting.default, bool):
        if text.lower() not in ("yes", "no"):
            raise UserError("argument must be 'yes' or 'no'")
        return text.lower() == "yes"
    if isinstance(setting.default, str):
        return text
    number = _memory(text) if setting.memory else _integer(text)
    if not setting.least <= number <= setting.most:
        raise UserError(f"argument must be between {setting.least} and {setting.most} inclusive")
    return number


def check(engine: str, changes: Mapping[str, Any]) -> None:
    """Whether settings go together with an engine.

    Raises:
        UserError: Says which one does not, and what to use instead.
    """
    if engine != "memory" and changes.get("max-memory"):
        raise UserError(
            f"max-memory is for the memory engine: with {engine} the data need not fit into memory, and cache-bytes, "
            "block-cache-bytes and memtable-bytes say how much of it is kept there"
        )
    if engine != "memory" and changes.get("state-file"):
        raise UserError(
            f"state-file is for the memory engine: with {engine} the data is on the disk as it is, and keyhaus import "
            "and keyhaus export move such a file in and out"
        )


def _integer(text: str) -> int:
    if _INTEGER.fullmatch(text) and -(1 << 63) <= int(text) < 1 << 63:
        return int(text)
    raise UserError("argument couldn't be parsed into an integer")


def _memory(text: str) -> int:
    match = _MEMORY.fullmatch(text.lower())
    if match is None or match[2] not in _UNITS:
        raise UserError("argument must be a memory value")
    return int(match[1] or 0) * _UNITS[match[2]]


def show(name: str, value: Any) -> str:
    """A value of a setting as CONFIG GET gives it under that name, which may be an alias."""
    choices = ALIASES[name].choices if name in ALIASES else None
    if choices is not None:
        return next(word for word, meaning in choices.items() if meaning == value)
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
