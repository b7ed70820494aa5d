"""INFO: the server's state, in Redis' format and with Redis' names, and keyhaus' own sections.

Only sections whose fields mean something here are told; a client that looks for a field that is missing finds nothing,
as with an older Redis. Numbers about data are those of the synced state (C2).
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from keyhaus import __version__
from keyhaus.commands.connection import COMPATIBLE_VERSION
from keyhaus.commands.process import process_memory
from keyhaus.commands.spec import Flag, command
from keyhaus.core.context import Context
from keyhaus.core.reply import Verbatim
from keyhaus.store.transaction import Transaction

Fields: TypeAlias = dict[str, Any]


class View:
    """What the sections are made from, each thing looked up once.

    Attributes:
        store: The numbers about the data.
        transactions: Those about interactive transactions and locks.
        facts: What only the process knows.
    """

    def __init__(self, tx: Transaction, context: Context) -> None:
        self.server = context.server
        self.settings = context.server.settings
        self.statistics = context.server.statistics
        self.store = tx.store.statistics()
        self.transactions = tx.store.transactions.statistics()
        self.expired_keys = self.store["expired_keys"]
        self.facts = context.server.facts()
        self.durable = self.store["engine"] != "memory"
        self.unix_ms = tx.now()


def _server(view: View) -> Fields:
    uptime = (view.server.monotonic_ns() - view.server.started_ns) // 1_000_000_000
    system = os.uname()
    return {
        "redis_version": COMPATIBLE_VERSION,
        "redis_mode": "standalone",
        "os": f"{system.sysname} {system.release} {system.machine}",
        "arch_bits": 64,
        "process_id": view.facts.get("process_id", os.getpid()),
        "run_id": view.server.run_id,
        "tcp_port": view.facts.get("tcp_port", 0),
        "server_time_usec": view.unix_ms * 1000,
        "uptime_in_seconds": uptime,
        "uptime_in_days": uptime // 86_400,
        "python_version": platform.python_version(),
        "executable": view.facts.get("executable", ""),
        "config_file": "",
    }


def _clients(view: View) -> Fields:
    clients = view.server.clients()
    buffers = [client.buffers() for client in clients]
    return {
        "connected_clients": len(clients),
        "maxclients": view.settings["maxclients"],
        "client_recent_max_input_buffer": max((sizes.get("input", 0) for sizes in buffers), default=0),
        "client_recent_max_output_buffer": max((sizes.get("output", 0) for sizes in buffers), default=0),
        "blocked_clients": sum("b" in client.flag_letters() for client in clients),
    }


def _memory(view: View) -> Fields:
    memory = process_memory()
    used, overhead = view.store["used_bytes"], view.store["overhead_bytes"]
    fields: Fields = {}
    for name, count in (
        ("used_memory", used),
        ("used_memory_rss", memory.resident),
        ("used_memory_peak", memory.peak),
        ("total_system_memory", memory.total),
        ("maxmemory", view.settings["max-memory"]),
    ):
        fields[name] = count
        fields[f"{name}_human"] = human_bytes(count)
    return fields | {
        "used_memory_overhead": overhead,
        "used_memory_dataset": used - overhead,
        "used_memory_dataset_perc": f"{100 * (used - overhead) / max(1, used):.2f}%",
        "maxmemory_policy": view.settings["max-memory-policy"],
        "mem_fragmentation_ratio": f"{memory.resident / max(1, used):.2f}",
        "mem_fragmentation_bytes": memory.resident - used,
        "mem_clients_normal": sum(client.buffers().get("total", 0) for client in view.server.clients()),
        "mem_allocator": "python",
    }


def human_bytes(count: int) -> str:
    """A number of bytes as Redis shortens it: `512B`, `1.50K`, `3.00G`."""
    if count < 1024:
        return f"{count}B"
    size = float(count)
    for unit in "KMGT":
        size /= 1024
        if size < 1024:
            return f"{size:.2f}{unit}"
    return f"{size / 1024:.2f}P"


def _persistence(view: View) -> Fields:
    status = "err" if view.store["poisoned"] else "ok"
    backups = view.store["backups"]
    return {
        "loading": 0,
        "rdb_changes_since_last_save": backups.get("commits_since", 0),
        "rdb_bgsave_in_progress": backups.get("running", 0),
        "rdb_last_save_time": backups.get("last_ms", 0) // 1000,
        "rdb_last_bgsave_status": "err" if backups.get("last_error") else "ok",
        "rdb_last_bgsave_time_sec": backups.get("last_seconds", -1),
        "rdb_current_bgsave_time_sec": backups.get("current_seconds", -1),
        "rdb_saves": backups.get("made", 0),
        "aof_enabled": int(view.durable),
        "aof_rewrite_in_progress": 0,
        "aof_last_bgrewrite_status": "ok",
        "aof_last_write_status": status,
        "aof_current_size": view.store["journal_bytes"],
    }


def _stats(view: View) -> Fields:
    statistics = view.statistics
    return {
        "total_connections_received": statistics.connections,
        "total_commands_processed": statistics.commands,
        "total_net_input_bytes": statistics.input_bytes,
        "total_net_output_bytes": statistics.output_bytes,
        "rejected_connections": statistics.rejected_connections,
        "expired_keys": view.expired_keys,
        "evicted_keys": view.store["evicted_keys"],
        "keyspace_hits": statistics.hits,
        "keyspace_misses": statistics.misses,
        "total_error_replies": sum(statistics.errors.values()),
        "protocol_errors": statistics.protocol_errors,
    }


def _replication(view: View) -> Fields:
    return {"role": "master", "connected_slaves": 0, "master_replid": view.server.run_id, "master_repl_offset": 0}


def _cpu(view: View) -> Fields:
    mine = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "used_cpu_sys": f"{mine.ru_stime:.6f}",
        "used_cpu_user": f"{mine.ru_utime:.6f}",
        "used_cpu_sys_children": f"{children.ru_stime:.6f}",
        "used_cpu_user_children": f"{children.ru_utime:.6f}",
    }


def _modules(view: View) -> Fields:
    return {}


def _commandstats(view: View) -> Fields:
    fields: Fields = {}
    for name, (calls, _, failed, microseconds) in sorted(view.statistics.calls.items()):
        mean = microseconds / calls if calls else 0.0
        # Calls that are rejected before they run count among the errors; the field is there for clients that parse it.
        fields[f"cmdstat_{name}"] = (
            f"calls={calls},usec={microseconds},usec_per_call={mean:.2f},rejected_calls=0,failed_calls={failed}"
        )
    return fields


def _errorstats(view: View) -> Fields:
    return {f"errorstat_{code}": f"count={count}" for code, count in sorted(view.statistics.errors.items())}


def _cluster(view: View) -> Fields:
    return {"cluster_enabled": 0}


def _keyspace(view: View) -> Fields:
    return {
        f"db{database}": f"keys={keys},expires={expires},avg_ttl=0"
        for database, (keys, expires) in sorted(view.store["keyspace"].items())
        if keys
    }


def _keyhaus(view: View) -> Fields:
    store = view.store
    return {
        "keyhaus_version": __version__,
        "engine": store["engine"],
        "durability": view.settings["durability"] if view.durable else "none",
        "history": store["history"],
        "synced_seqno": store["synced"],
        "changes_oldest_seqno": store["changes_oldest"],
        "archived_seqno": store["archived"],
        "archive_error": " ".join(str(store["archive_error"]).split()),
        "journal_bytes": store["journal_bytes"],
        "journal_bytes_retained": store["journal_bytes_retained"],
        "journal_bytes_max": store["journal_bytes_max"],
        "journal_segments": store["journal_segments"],
        "journal_groups": store["groups"],
        "journal_syncs": store["syncs"],
        "backup_error": " ".join(str(store["backups"].get("last_error", "")).split()),
        "state_file": view.facts.get("state_file", ""),
        "state_saved_unix_ms": view.facts.get("state_saved_unix_ms", 0),
        "state_error": view.facts.get("state_error", ""),
        "poisoned": " ".join(str(store["poisoned"]).split()),
        "no_further_segment": int(store["full"]),  # writes go on while they fit into the prepared ones
        **store["keeping"],
        "fast_lane": view.facts.get("fast_lane", "none"),
    }


def _transactions(view: View) -> Fields:
    return view.transactions


SECTIONS: Final[dict[str, Callable[[View], Fields]]] = {
    "server": _server,
    "clients": _clients,
    "memory": _memory,
    "persistence": _persistence,
    "stats": _stats,
    "replication": _replication,
    "cpu": _cpu,
    "modules": _modules,
    "commandstats": _commandstats,
    "errorstats": _errorstats,
    "cluster": _cluster,
    "keyspace": _keyspace,
    "keyhaus": _keyhaus,
    "transactions": _transactions,
}
"""Every section by its name, in the order in which they are told."""

BY_DEFAULT: Final = frozenset(SECTIONS) - {"commandstats"}
_GROUPS: Final = {"default": BY_DEFAULT, "all": frozenset(SECTIONS), "everything": frozenset(SECTIONS)}


@command(
    "INFO",
    -1,
    Flag.CONNECTION,
    summary="Tells about the server, in sections.",
    since="1.0.0",
    group="server",
    syntax="[section [section ...]]",
    complexity="O(N) in the number of clients",
)
async def info(tx: Transaction, args: list[bytes], context: Context) -> Any:
    wanted: set[str] = set()
    for word in args[1:] or [b"default"]:
        name = word.decode("latin-1").lower()
        wanted |= _GROUPS.get(name, {name})
    view = View(tx, context)
    parts = [_section(name, make(view)) for name, make in SECTIONS.items() if name in wanted]
    return Verbatim("\r\n".join(parts).encode("utf-8", "surrogateescape"))


def _section(name: str, fields: Fields) -> str:
    title = "CPU" if name == "cpu" else name.capitalize()
    return f"# {title}\r\n" + "".join(f"{field}:{value}\r\n" for field, value in fields.items())
