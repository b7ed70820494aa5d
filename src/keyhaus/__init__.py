"""keyhaus: a key/value database server, durable before it answers, and the same database within a Python process.

What is exported is imported when it is first used, so that a server starts without it. `__init__.pyi` says the same to
type checkers.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0.dev0"

_ERRORS = (
    *("ChangesLost", "ChangesTooOld", "Closed", "Conflict", "Deadlock", "DiskFull", "Error", "LimitExceeded"),
    *("LockTimeout", "Poisoned", "ReadOnly", "SnapshotTooOld", "StorageError", "TransactionError"),
    *("TransactionTimeout", "TransactionTooLarge", "UnknownTransaction", "UserError", "WrongType"),
)
_LAZY = {
    "AsyncClient": "keyhaus.client.aio.client",
    "AsyncTransaction": "keyhaus.client.aio.transaction",
    "Client": "keyhaus.client.blocking.client",
    "Transaction": "keyhaus.client.blocking.transaction",
    "Database": "keyhaus.embedded.database",
    "StorageEngine": "keyhaus.embedded.storage_engine",
    "TypedMapping": "keyhaus.core.access.mapping",
    **dict.fromkeys(("Change", "Operation", "Position"), "keyhaus.core.access.replies"),
    "TransactionEnded": "keyhaus.core.transactional",
    "transactional": "keyhaus.core.transactional",
    "ConnectionLost": "keyhaus.client.errors",
    "OutcomeUnknown": "keyhaus.client.errors",
    **dict.fromkeys(_ERRORS, "keyhaus.core.errors"),
}


def __getattr__(name: str) -> object:
    if name == "open":  # under its own name it would hide the built-in one there
        return _import_module("keyhaus.embedded.database").open_database
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(_import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "open"})
