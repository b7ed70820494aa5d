"""The one tree of errors.

Every error that a client can be told of is an `Error`. A class carries a stable `code`, which each codec maps to its
own wire form once, and `retryable`: whether the same request may succeed if it is simply sent again.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final

QUOTED_BYTES_MAX: Final = 64


def quoted(word: bytes) -> str:
    """A word of a request as a message shows it: in quotes, with escapes, cut where it is long."""
    text = repr(word[:QUOTED_BYTES_MAX])[1:]
    return text if len(word) <= QUOTED_BYTES_MAX else f"{text}…"


class Error(Exception):
    """Anything that keyhaus reports to a client.

    Attributes:
        code: A stable word for programs; codecs map it to their wire form.
        retryable: Whether sending the same request (or running the same transaction) again may succeed.
        ends_transaction: Whether the interactive transaction that meets it can't go on: it is rolled back and gone.
        message: One sentence for people.
    """

    code: ClassVar[str] = "ERR"
    retryable: ClassVar[bool] = False
    ends_transaction: ClassVar[bool] = False

    def __init__(self, message: str | bytes) -> None:
        self.raw = message if isinstance(message, bytes) else message.encode("utf-8", "surrogateescape")
        super().__init__(self.message)

    @property
    def message(self) -> str:
        return self.raw.decode("utf-8", "backslashreplace")


class Internal(Error):
    """A fault of keyhaus itself; the log has its traceback. Nothing of the request was done."""

    code = "INTERNAL"
    ends_transaction = True

    def __init__(self) -> None:
        super().__init__("internal error: the request was not executed; the server's log says more")


class UserError(Error):
    """The request can't be done as it stands."""


class WrongType(UserError):
    code = "WRONGTYPE"

    def __init__(self, message: str = "Operation against a key holding the wrong kind of value") -> None:
        super().__init__(message)


class Syntax(UserError):
    code = "SYNTAX"

    def __init__(self, message: str | bytes = "syntax error") -> None:
        super().__init__(message)


class UnknownCommand(UserError):
    code = "UNKNOWNCOMMAND"


class LimitExceeded(UserError):
    """Something is larger than a limit of `core/limits.py`; the message names the limit."""

    code = "LIMIT"

    def __init__(self, limit: str, value: int, most: int, unit: str = "bytes") -> None:
        super().__init__(f"{limit} exceeded: {value} {unit}, at most {most} are allowed")


class NotFound(UserError):
    code = "NOTFOUND"


class NoAuth(UserError):
    code = "NOAUTH"


class WrongPass(UserError):
    code = "WRONGPASS"

    def __init__(self) -> None:
        super().__init__("invalid username-password pair or user is disabled.")


class NoPerm(UserError):
    code = "NOPERM"


class NoProto(UserError):
    code = "NOPROTO"


class BusyKey(UserError):
    code = "BUSYKEY"


class TransactionError(Error):
    """A transaction could not go on; it is rolled back and gone."""


class ExecAborted(TransactionError):
    code = "EXECABORT"


class TransactionTooLarge(TransactionError):
    """A transaction, or a single command, writes more than `max-transaction-bytes`; or it has read too much."""

    code = "TXTOOLARGE"
    ends_transaction = True

    def __init__(
        self, size: int, most: int, what: str = "the write has {} bytes", limit: str = "max-transaction-bytes"
    ) -> None:
        super().__init__(f"{what.format(size)}, at most {most} are allowed ({limit})")


class SnapshotTooOld(TransactionError):
    """What a snapshot reads could not be kept any longer."""

    code = "SNAPSHOTTOOOLD"
    retryable = True
    ends_transaction = True


class Conflict(TransactionError):
    """What a transaction rests on was changed, or has expired, before it was committed."""

    code = "CONFLICT"
    retryable = True
    ends_transaction = True


class Deadlock(TransactionError):
    """Transactions wait for each other in a circle, and this one was chosen to die."""

    code = "DEADLOCK"
    retryable = True
    ends_transaction = True


class LockTimeout(TransactionError):
    """A lock was not to be had within `lock-timeout`."""

    code = "LOCKTIMEOUT"
    retryable = True
    ends_transaction = True


class TransactionTimeout(TransactionError):
    """A transaction was idle for too long, or open for too long."""

    code = "TXTIMEOUT"
    retryable = True
    ends_transaction = True


class UnknownTransaction(TransactionError):
    """There is no such open transaction on this connection."""

    code = "NOTX"


class ReadOnly(TransactionError):
    """A write in a READONLY transaction; the transaction goes on."""

    code = "READONLY"

    def __init__(self) -> None:
        super().__init__("the transaction is READONLY: begin a PESSIMISTIC or an OPTIMISTIC one to write")


class ProtocolError(Error):
    """The stream of bytes can't be followed any more: the connection is closed after the reply."""

    code = "PROTOCOL"


class StorageError(Error):
    """The data can't be read or written as it should."""


class InUse(StorageError):
    """Somebody has a directory open, and it is one's alone.

    Attributes:
        directory: Which.
    """

    def __init__(self, directory: Path, problem: str) -> None:
        super().__init__(f"{directory} {problem}")
        self.directory = directory


class Corruption(StorageError):
    """Bytes that were synced are missing or damaged. Names the file and the offset."""

    code = "CORRUPTION"

    def __init__(self, message: str, file: str, offset: int) -> None:
        super().__init__(f"{file} at offset {offset}: {message}")
        self.file, self.offset = file, offset


class OtherFormat(StorageError):
    """A file has a format that this release doesn't read; nothing is wrong with it. Names the file and both versions.

    Attributes:
        file: The file.
        found, expected: The version that it has, and the one that this release reads.
        newer: Whether a later release wrote it.
    """

    def __init__(self, file: str, found: int, expected: int) -> None:
        self.file, self.found, self.expected = file, found, expected
        self.newer = found > expected
        whose = "a newer release wrote it" if self.newer else "no release wrote it, only a version in development"
        super().__init__(f"{file} has format {found}, this release reads format {expected}: {whose}")


class Poisoned(StorageError):
    """A write or sync of the journal failed: the outcome of what was not yet confirmed is unknown until a restart."""

    code = "POISONED"
    ends_transaction = True


class DiskFull(StorageError):
    """There is no prepared room for the commit; nothing was done, and it goes on once there is room."""

    code = "DISKFULL"
    retryable = True


class OutOfMemory(StorageError):
    """The data takes more than `max-memory`, and nothing can be evicted."""

    code = "OOM"

    def __init__(self) -> None:
        super().__init__("command not allowed when used memory > 'maxmemory'.")


class ChangesTooOld(StorageError):
    """What comes right after the seqno that was asked for is no longer kept."""

    code = "TOOOLD"


class ChangesLost(StorageError):
    """The seqno that was asked for is none of this history: a crash took it back, or it is another history's."""

    code = "LOST"


class Closed(StorageError):
    """The database is closed or closing."""

    code = "CLOSED"
