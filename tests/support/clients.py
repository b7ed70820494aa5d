"""The Python doors under one interface, the asynchronous client's: so a story about them is told once.

Under it what blocks still blocks: none of its coroutines ever waits for the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

from keyhaus import AsyncClient, Client
from tests.support.processes import HOST

AnyClient: TypeAlias = Any  # an AsyncClient, or what looks like one
ITERATORS: Final = frozenset(("changes", "range", "range_objects", "scan"))
Story: TypeAlias = Callable[[AnyClient], Awaitable[None]]


def driven(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits for the loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a coroutine of the client that blocks waited for the loop")


class Blocking:
    """A client or a database that blocks, or a transaction of one, with the asynchronous one's methods."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.real, name)
        if not callable(attribute):
            return attribute
        if name in ITERATORS:
            return lambda *args, **kwargs: _steps(attribute(*args, **kwargs))

        async def call(*args: Any, **kwargs: Any) -> Any:
            return attribute(*args, **kwargs)

        return call

    async def __aenter__(self) -> Blocking:
        self.real.__enter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self.real.__exit__(*exception)

    def transaction(self, *args: Any, **kwargs: Any) -> Blocking:
        return Blocking(self.real.transaction(*args, **kwargs))

    async def run(self, function: Callable[[Any], Coroutine[Any, Any, Any]], **options: Any) -> Any:
        return self.real.run(lambda transaction: driven(function(Blocking(transaction))), **options)


async def _steps(iterator: Iterator[Any]) -> AsyncIterator[Any]:
    for item in iterator:
        yield item


class Flavour:
    """One of the two clients."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, port: int, database: int = 0, **options: Any) -> AnyClient:
        """A client of a server on loopback, for an `async with` block."""
        url = f"keyhaus://{HOST}:{port}/{database}"
        return AsyncClient(url, **options) if self.name == "async" else Blocking(Client(url, **options))

    async def together(self, *coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
        """Runs coroutines at the same time: as tasks, or each in a thread of its own."""
        if self.name == "async":
            return await asyncio.gather(*coroutines)
        with ThreadPoolExecutor(len(coroutines)) as threads:
            return [*threads.map(driven, coroutines)]
