"""keyhaus: a key/value database server, durable before it answers, and the same database within a Python process.

`keyhaus.open` and the other names below are there once they are asked for: who wants none of them does not wait for
what they import.
"""

from importlib import import_module

__version__ = "0.1.0.dev0"

_EXPORTED = {
    "Database": ("database", "Database"),
    "Transaction": ("transactions", "Transaction"),
    "open": ("database", "open_database"),
    "transactional": ("transactions", "transactional"),
}


def __getattr__(name: str) -> object:
    try:
        module, exported = _EXPORTED[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.embedded.{module}"), exported)


def __dir__() -> list[str]:
    return sorted((*globals(), *_EXPORTED))
