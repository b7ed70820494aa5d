"""The one command table, one file a family.

Importing the package fills `spec.TABLE`: each module named here enters its commands.
"""

from keyhaus.commands import (
    changes,
    clients,
    configuration,
    connection,
    counters,
    diagnosis,
    expiry,
    information,
    introspection,
    keys,
    lcs,
    memory,
    scanning,
    server,
    strings,
    transactions,
)

__all__ = [
    "changes",
    "clients",
    "configuration",
    "connection",
    "counters",
    "diagnosis",
    "expiry",
    "information",
    "introspection",
    "keys",
    "lcs",
    "memory",
    "scanning",
    "server",
    "strings",
    "transactions",
]
