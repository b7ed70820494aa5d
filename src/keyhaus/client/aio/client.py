"""The client: plain commands, each on any connection, and transactions, each on one of its own."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from keyhaus.client.address import DEFAULT_URL, parse_url
from keyhaus.client.aio.connections import Connections
from keyhaus.client.aio.driver import sleep
from keyhaus.client.aio.transaction import AsyncTransaction, final_outcome
from keyhaus.client.errors import ConnectionLost, OutcomeUnknown
from keyhaus.client.words import READS, command_name, refuse_stateful, request
from keyhaus.core.access.aio.access import AsyncDoor
from keyhaus.core.access.replies import Outcome
from keyhaus.core.access.words import Durability, Mode, begin_words
from keyhaus.core.errors import Error
from keyhaus.core.transactional import RETRIES, pause

T = TypeVar("T")

CONNECTIONS_MAX: Final = 64
_READ_TRIES: Final = 3


class AsyncClient(AsyncDoor):
    """A client of a keyhaus server.

    Args:
        url: `keyhaus://host:port/database`.
        timeout: Seconds to wait for a reply, or for one of the client's own connections. Locks are waited for on the
            server, so it has to be larger than that one's `lock-timeout`.
        connect_timeout: Seconds to wait for a connection to be made.
        max_connections: How many connections there may be at once. Each open transaction keeps one.

    Raises:
        ValueError: The URL is none.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
        max_connections: int = CONNECTIONS_MAX,
    ) -> None:
        self._connections = Connections(parse_url(url), timeout, connect_timeout, max_connections)
        self._block_ms_max = max(1, int(timeout * 500))  # a reply has to come within the time-out

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections; what is open on them is rolled back."""
        await self._connections.close()

    async def _ask(self, args: list[bytes]) -> Any:
        """Sends a command; a read is sent again if its connection breaks, a write never.

        Raises:
            ConnectionLost: Nothing has happened.
            OutcomeUnknown: The connection broke after the command was sent: it was executed once, or not at all.
            Error: The server's own answer.
        """
        name = command_name(args)
        refuse_stateful(name)
        asked = request(args)
        until = time.monotonic() + self._connections.timeout
        tries = 0
        while True:
            connection = await self._connections.take()
            try:
                return await connection.ask(asked)
            except OutcomeUnknown as error:
                tries += 1
                if name not in READS:
                    raise
                if tries == _READ_TRIES or time.monotonic() >= until:
                    raise ConnectionLost(error.raw) from error
            finally:
                await self._connections.give_back(connection)

    def transaction(
        self, mode: Mode = "pessimistic", *, durability: Durability | None = None, timeout_ms: int | None = None
    ) -> AsyncTransaction:
        """A transaction for an `async with` block: committed at its end, rolled back if it raises.

        Leaving the block raises `TransactionError` if it could not be committed, `ConnectionLost` if the connection
        broke and nothing of it happened, and `OutcomeUnknown` if nobody can say. If the task is cancelled just
        then, `kill` with the transaction's id tells what became of it.

        Args:
            mode: `pessimistic` waits for locks, `optimistic` is checked at its end, `readonly` reads one moment.
            durability: What its replies wait for; None: what the server has.
            timeout_ms: After how many milliseconds without a command it is ended; None: what the server has.

        Raises:
            UserError: There is no such mode.
        """
        return AsyncTransaction(self._connections, begin_words(mode, durability, timeout_ms))

    async def run(
        self,
        function: Callable[[AsyncTransaction], Awaitable[T]],
        *,
        retries: int = RETRIES,
        mode: Mode = "pessimistic",
        durability: Durability | None = None,
        timeout_ms: int | None = None,
    ) -> T:
        """Runs a function in a transaction, and again in another one for as long as that fails with a retryable error.

        What the function does elsewhere than in its transaction may so happen more than once.

        Args:
            function: What to do, given the transaction.
            retries: How often to try again.
            mode: See `transaction`.
            durability: See `transaction`.
            timeout_ms: See `transaction`.

        Returns:
            What the function has returned, once its transaction is committed.

        Raises:
            Error: It can't be retried, or was too often.
        """
        if retries < 0:
            raise ValueError("retries are counted from 0")
        failures = 0
        while True:
            try:
                async with self.transaction(mode, durability=durability, timeout_ms=timeout_ms) as transaction:
                    result = await function(transaction)
                return result
            except Error as error:
                failures += 1
                if not error.retryable or failures > retries:
                    raise
            await sleep(pause(failures))

    async def kill(self, transaction_id: str) -> Outcome:
        """Ends a transaction if it is still open, and says for good what became of it.

        It asks again where the connection is lost, for as long as a reply may take.

        Returns:
            The number of its commit; or `rolledback` or `unknown`, which promise that no write of it will ever appear;
            or `expired`, if it was begun too long ago to say.

        Raises:
            OutcomeUnknown: The server could not be asked.
        """
        return await final_outcome(self._connections, transaction_id)
