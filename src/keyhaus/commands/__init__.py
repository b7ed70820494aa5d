"""The one command table, one file a family.

Importing the package fills `spec.TABLE`: each module named here enters its commands.
"""

from keyhaus.commands import (
    backup,
    changes,
    clients,
    configuration,
    connection,
    counters,
    diagnosis,
    expiry,
    information,
    interactive,
    introspection,
    keys,
    lcs,
    memory,
    scanning,
    server,
    strings,
    transactions,
    typed,
)

__all__ = [
    "backup",
    "changes",
    "clients",
    "configuration",
    "connection",
    "counters",
    "diagnosis",
    "expiry",
    "information",
    "interactive",
    "introspection",
    "keys",
    "lcs",
    "memory",
    "scanning",
    "server",
    "strings",
    "transactions",
    "typed",
]
