"""What differs between asyncio and threads beyond the words `async` and `await`. Its twin is `blocking/driver.py`."""

from __future__ import annotations

import asyncio
from asyncio import Lock, Semaphore, sleep
from asyncio import timeout as limited

from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.maint_notifications import MaintNotificationsConfig

from keyhaus import __version__
from keyhaus.client.address import Address

__all__ = ["ConnectionPool", "Lock", "Semaphore", "acquire", "limited", "make_pool", "sleep"]


def make_pool(address: Address, timeout: float, connect_timeout: float, most: int) -> ConnectionPool:
    """A pool that opens connections and never sends anything twice.

    Replies are waited for under `limited` alone: with a time-out of its own redis-py would send under
    `asyncio.wait_for`, which may keep a cancellation to itself.
    """
    return ConnectionPool(
        host=address.host,
        port=address.port,
        db=address.database,
        protocol=3,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        socket_timeout=None,
        socket_connect_timeout=connect_timeout,
        retry=Retry(NoBackoff(), 0),
        max_connections=most,
        driver_info=DriverInfo(name="keyhaus", lib_version=__version__),
    )


async def acquire(semaphore: Semaphore, seconds: float) -> bool:
    """Takes one of a semaphore's places; whether there was one within the time."""
    if not semaphore.locked():
        return await semaphore.acquire()
    try:
        async with asyncio.timeout(seconds):
            return await semaphore.acquire()
    except TimeoutError:
        return False
