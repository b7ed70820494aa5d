"""A client's connections: taken for one command, or for a whole transaction, and given back.

Invariants: a request is sent once, on a connection that was open before, and its reply is read by whoever asked. If
anything else happens (the connection breaks, the time is over, the caller is cancelled), the connection is closed
before it is given back: nobody ever reads somebody else's reply.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError

from keyhaus.client.address import Address
from keyhaus.client.aio.driver import Semaphore, acquire, limited, make_pool
from keyhaus.client.errors import ConnectionLost, OutcomeUnknown, answered
from keyhaus.core.errors import Closed


class Connection:
    """One connection, from `take` to `give_back`."""

    def __init__(self, raw: Any, timeout: float) -> None:
        self.raw = raw
        self._timeout = timeout

    async def ask(self, request: bytes) -> Any:
        """A request's reply.

        Raises:
            ConnectionLost: Nothing was sent.
            OutcomeUnknown: The connection broke, or no reply came in time.
            Error: The server's own answer.
        """
        raw = self.raw
        if not raw.is_connected:
            raise ConnectionLost("the connection is closed")  # redis-py would open another one, and send
        try:
            async with limited(self._timeout):
                await raw.send_packed_command([request], check_health=False)
                return await raw.read_response()
        except RedisError as error:
            if (answer := answered(error)) is not None:
                raise answer from None
            await self.drop()
            raise OutcomeUnknown(f"the connection was lost: {error}") from error
        except TimeoutError as error:
            await self.drop()
            raise OutcomeUnknown(f"no reply came within {self._timeout} seconds") from error
        except BaseException:
            await self.drop()
            raise

    async def drop(self) -> None:
        """Closes it; the server rolls back what it had begun."""
        await self.raw.disconnect(nowait=True)


class Connections:
    """The connections of a client, up to a number; who wants more has to wait.

    Args:
        address: The server's.
        timeout: Seconds to wait for a reply, or for a connection that others use.
        connect_timeout: Seconds to wait for a connection to be made.
        most: How many there may be.
    """

    def __init__(self, address: Address, timeout: float, connect_timeout: float, most: int) -> None:
        self.timeout = timeout
        self._address, self._connect_timeout, self._most = address, connect_timeout, most
        self._pool = make_pool(address, timeout, connect_timeout, most)
        self._free = Semaphore(most)
        self._closed = False

    async def take(self) -> Connection:
        """A connection that is open. Raises ConnectionLost, Closed."""
        if self._closed:
            raise Closed("the client is closed")
        if not await acquire(self._free, self.timeout):
            raise ConnectionLost(f"all of the client's {self._most} connections were in use for {self.timeout} seconds")
        try:
            async with limited(self._connect_timeout):
                return Connection(await self._pool.get_connection(), self.timeout)
        except (RedisError, OSError) as error:
            self._free.release()
            if isinstance(error, RedisError) and (answer := answered(error)) is not None:
                raise answer from None
            raise ConnectionLost(f"no connection to {self._address}: {error}") from error
        except BaseException:
            self._free.release()
            raise

    async def give_back(self, connection: Connection) -> None:
        """Lets others have it."""
        try:
            await self._pool.release(connection.raw)
        finally:
            self._free.release()

    async def close(self) -> None:
        """Closes all of them, those in use too."""
        self._closed = True
        await self._pool.aclose()
