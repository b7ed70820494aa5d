"""What the Python doors have in common: `@transactional`, how long to wait before another try, `TransactionEnded`.

After FoundationDB's `@fdb.transactional`: given a client or a database, a function of a transaction runs in one of its
own, again after retryable errors; given a transaction, it joins that one. So such functions can call each other.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, overload

from keyhaus.core.errors import UnknownTransaction

RETRIES: Final = 20  # of `run`, where nothing else is said
FIRST_SECONDS: Final = 0.01
SECONDS_MAX: Final = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class TransactionEnded(UnknownTransaction):
    """A `NOTX` of a transaction that was begun: its time was over, or somebody killed it. Nothing of it happened."""

    retryable = True


def pause(failures: int, first: float = FIRST_SECONDS, most: float = SECONDS_MAX) -> float:
    """Seconds to wait after so many failures, from 1 on: twice as many each time, up to a bound, times a random share.

    After M. Brooker, "Exponential Backoff And Jitter" (2015), "full jitter": those who met once do not meet again.
    """
    return random.uniform(0, min(most, first * 2.0 ** min(failures - 1, 30)))


@overload
def transactional(function: Callable[Concatenate[Any, P], T], /) -> Callable[Concatenate[Any, P], T]: ...


@overload
def transactional(
    *,
    retries: int | None = None,
    mode: str = "pessimistic",
    durability: str | None = None,
    timeout_ms: int | None = None,
) -> Callable[[Callable[Concatenate[Any, P], T]], Callable[Concatenate[Any, P], T]]: ...


def transactional(
    function: Callable[..., Any] | None = None,
    /,
    *,
    retries: int | None = None,
    mode: str = "pessimistic",
    durability: str | None = None,
    timeout_ms: int | None = None,
) -> Any:
    """Makes a function whose first argument is a transaction one that takes a client or a database, too.

        @keyhaus.transactional(retries=5)
        def move(tx, giver, taker, amount): ...

        move(client, "account:a", "account:b", 10)

    Each call with a client or a database is a `run` of it: in a transaction of its own, with retries. A call that gives
    it a transaction runs in that one, and whoever began it retries. Coroutine functions go with an `AsyncClient`.

    Args:
        function: Where it is used without parentheses.
        retries: How often to try again; None: as often as `run` does.
        mode, durability, timeout_ms: Those of the transaction.
    """
    options: dict[str, Any] = {"mode": mode, "durability": durability, "timeout_ms": timeout_ms}
    if retries is not None:
        options["retries"] = retries

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(within: Any, args: Any, kwargs: Any) -> Any:
            if hasattr(within, "run"):
                return within.run(lambda transaction: function(transaction, *args, **kwargs), **options)
            return function(within, *args, **kwargs)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def within_async(within: Any, /, *args: Any, **kwargs: Any) -> Any:
                return await call(within, args, kwargs)

            return within_async

        @functools.wraps(function)
        def within_blocking(within: Any, /, *args: Any, **kwargs: Any) -> Any:
            return call(within, args, kwargs)

        return within_blocking

    return decorate if function is None else decorate(function)
