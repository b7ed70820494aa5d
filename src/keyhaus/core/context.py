"""What a command may see of its surroundings: its session, the other clients, the settings, the statistics.

Most handlers never look. Those that do (CLIENT, CONFIG, INFO, SLOWLOG, MULTI, …) see these narrow protocols and no
more, so that they run the same in the server, embedded, and in a test without either.
"""

from __future__ import annotations

from typing import Any, Protocol

from keyhaus.core.settings import Durability, Settings
from keyhaus.core.statistics import Statistics


class ClientView(Protocol):
    """One client, as CLIENT LIST and CLIENT KILL see it."""

    name: bytes
    library_name: bytes
    library_version: bytes
    no_evict: bool

    @property
    def id(self) -> int: ...

    @property
    def user(self) -> str: ...

    @property
    def database(self) -> int: ...

    @property
    def protocol(self) -> int: ...

    @property
    def address(self) -> str: ...

    @property
    def local_address(self) -> str: ...

    @property
    def descriptor(self) -> int: ...

    @property
    def connected_ns(self) -> int:
        """When it was connected, on the server's monotonic clock."""
        ...

    @property
    def active_ns(self) -> int:
        """When its last command ran, on the same clock."""
        ...

    @property
    def last_command(self) -> str: ...

    def flag_letters(self) -> str:
        """CLIENT LIST's flags: N for none, x in MULTI, b blocked, …"""
        ...

    def queued_commands(self) -> int:
        """How many commands wait for EXEC; -1 outside MULTI."""
        ...

    def watched_keys(self) -> int: ...

    def buffers(self) -> dict[str, int]:
        """Bytes by buffer: `input`, `input_free`, `queued`, `output`, `total`."""
        ...

    def close(self, *, after_reply: bool = False) -> None: ...


class Server(Protocol):
    """The process around a command."""

    settings: Settings
    statistics: Statistics

    @property
    def run_id(self) -> str: ...

    @property
    def started_ns(self) -> int: ...

    def clients(self) -> list[ClientView]: ...

    def monotonic_ns(self) -> int: ...

    def facts(self) -> dict[str, Any]:
        """What only the process knows, by INFO's names: `tcp_port`, `process_id`, `fast_lane`, `bind`, …"""
        ...


class Context(ClientView, Protocol):
    """The session that runs a command; it is itself a client."""

    @property
    def server(self) -> Server: ...

    def select(self, database: int) -> None: ...

    def authenticate(self, user: str, password: bytes) -> bool: ...

    def set_protocol(self, version: int) -> None: ...

    def set_reply_mode(self, mode: str) -> None:
        """What CLIENT REPLY asks for.

        `ON`: replies are sent again, this command's own included. `OFF`: none is, from this command's own on. `SKIP`:
        neither this command's nor the next one's; it changes nothing while they are off.
        """
        ...

    def reset(self) -> None:
        """RESET: as if just connected; what MULTI queued and WATCH marked is gone."""
        ...

    def quit(self) -> None:
        """Closes the connection once the reply has left."""
        ...

    # BEGIN, COMMIT, ROLLBACK, TX
    def begin_transaction(self, mode: str, durability: Durability | None, timeout_ms: int | None) -> str:
        """Begins a transaction, which becomes the current one; its id."""
        ...

    async def commit_transaction(self, name: bytes | None) -> int:
        """Commits a transaction, None for the current one; the seqno of its serial point."""
        ...

    def rollback_transaction(self, name: bytes | None) -> None: ...

    async def run_in_transaction(self, name: bytes, args: list[bytes]) -> Any:
        """The reply of a command that is run inside a transaction."""
        ...

    # MULTI, EXEC, DISCARD, WATCH
    @property
    def in_multi(self) -> bool:
        """Between MULTI and the end of EXEC: a command that could be queued and sees it may not wait for anything."""
        ...

    def begin_multi(self) -> None: ...

    def discard(self) -> None: ...

    async def execute_queued(self) -> Any:
        """Runs what MULTI queued as one transaction; the reply of EXEC."""
        ...

    def watch(self, keys: list[bytes]) -> None: ...

    def unwatch(self) -> None: ...
