"""What differs between threads and asyncio beyond the words `async` and `await`. Its twin is `aio/driver.py`."""

from __future__ import annotations

import contextlib
from threading import Lock, Semaphore
from time import sleep

from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.driver_info import DriverInfo
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from keyhaus import __version__
from keyhaus.client.address import Address

__all__ = ["ConnectionPool", "Lock", "Semaphore", "acquire", "limited", "make_pool", "sleep"]


def limited(seconds: float) -> contextlib.AbstractContextManager[None]:
    """Nothing: the sockets have time-outs of their own."""
    return contextlib.nullcontext()


def make_pool(address: Address, timeout: float, connect_timeout: float, most: int) -> ConnectionPool:
    """A pool that opens connections and never sends anything twice."""
    return ConnectionPool(
        host=address.host,
        port=address.port,
        db=address.database,
        protocol=3,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        socket_timeout=timeout,
        socket_connect_timeout=connect_timeout,
        retry=Retry(NoBackoff(), 0),
        max_connections=most,
        driver_info=DriverInfo(name="keyhaus", lib_version=__version__),
    )


def acquire(semaphore: Semaphore, seconds: float) -> bool:
    """Takes one of a semaphore's places; whether there was one within the time."""
    return semaphore.acquire(timeout=seconds)
