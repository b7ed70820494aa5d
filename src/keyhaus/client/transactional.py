"""`@transactional`: a function of a transaction that its callers give a client.

After FoundationDB's `@fdb.transactional`: given a transaction instead, the function joins that one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from keyhaus.client.aio.client import RETRIES, AsyncClient
from keyhaus.client.aio.transaction import AsyncTransaction
from keyhaus.client.blocking.client import Client
from keyhaus.client.blocking.transaction import Transaction
from keyhaus.client.words import Durability, Mode

P = ParamSpec("P")
T = TypeVar("T")


class Decorator(Protocol):
    """What `transactional` gives: for coroutine functions, and for functions that block."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[AsyncTransaction, P], Coroutine[Any, Any, T]], /
    ) -> Callable[Concatenate[AsyncClient | AsyncTransaction, P], Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[Transaction, P], T], /
    ) -> Callable[Concatenate[Client | Transaction, P], T]: ...


def transactional(
    *,
    retries: int = RETRIES,
    mode: Mode = "pessimistic",
    durability: Durability | None = None,
    timeout_ms: int | None = None,
) -> Decorator:
    """Makes a function whose first argument is a transaction one whose first argument is a client.

    Each call is a `client.run`: in a transaction of its own, with retries. A call that gives it a transaction runs in
    that one, and whoever began it retries.

        @keyhaus.transactional(retries=5)
        def move(tx, giver, taker, amount): ...

        move(client, "account:a", "account:b", 10)

    Args:
        retries: How often to try again.
        mode: See `Client.transaction`.
        durability: See `Client.transaction`.
        timeout_ms: See `Client.transaction`.
    """
    options: dict[str, Any] = {"retries": retries, "mode": mode, "durability": durability, "timeout_ms": timeout_ms}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(within: AsyncClient | AsyncTransaction, *args: Any, **kwargs: Any) -> Any:
                if isinstance(within, AsyncTransaction):
                    return await function(within, *args, **kwargs)
                return await within.run(lambda transaction: function(transaction, *args, **kwargs), **options)

            return run_async

        @functools.wraps(function)
        def run(within: Client | Transaction, *args: Any, **kwargs: Any) -> Any:
            if isinstance(within, Transaction):
                return function(within, *args, **kwargs)
            return within.run(lambda transaction: function(transaction, *args, **kwargs), **options)

        return run

    return decorate
