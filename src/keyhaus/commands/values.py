"""What the string commands share: reading a record as a string, deadlines as arguments, the sizes that are allowed.

Each check raises Redis' own error, in Redis' words.
"""

from __future__ import annotations

from typing import Final

from keyhaus.commands.spec import integer
from keyhaus.core.errors import LimitExceeded, TransactionTooLarge, UserError, WrongType
from keyhaus.core.limits import MIB
from keyhaus.core.objects import decode, json_text
from keyhaus.store import record as rec
from keyhaus.store.record import EXPIRES, OBJECT, Record
from keyhaus.store.transaction import Transaction

INTEGER_MAX: Final = (1 << 63) - 1
INTEGER_MIN: Final = -(1 << 63)

SECOND: Final = 1000
MILLISECOND: Final = 1


def string(record: Record) -> bytes:
    """The value of a record that has to be a string; raises WrongType for a typed object."""
    kind = record[7]
    if not kind:
        return record[8:]
    if kind & OBJECT:
        raise WrongType
    return record[16:] if kind & EXPIRES else record[8:]


def shown(record: Record) -> bytes:
    """The value of a record as a string; of a typed object its JSON text."""
    if record[7] & OBJECT:
        return json_text(decode(rec.value_of(record)))
    return record[16:] if record[7] & EXPIRES else record[8:]


def string_bytes(record: Record) -> int:
    """The length of a value that has to be a string, without copying it; raises WrongType for a typed object."""
    if record[7] & OBJECT:
        raise WrongType
    return rec.value_bytes(record)


def change(tx: Transaction, key: bytes, value: bytes, record: Record | None) -> None:
    """Puts a value in the place of an earlier one: what kind it was and when it ends stays."""
    if record is None or not record[7]:
        tx.put(key, value)
    else:
        tx.put(key, value, rec.expires_of(record), rec.flags_of(record))


def deadline(tx: Transaction, name: str, word: bytes, unit: int, *, relative: bool) -> int:
    """When a key shall expire, in milliseconds since 1970.

    Args:
        tx: The transaction, whose time counts.
        name: The command, for the error.
        word: The argument: a positive number.
        unit: Of how many milliseconds (`SECOND`, `MILLISECOND`).
        relative: Whether it counts from now.
    """
    number = integer(word)
    if 0 < number <= INTEGER_MAX // unit:
        number *= unit
        if relative:
            number += tx.now()
        if number <= INTEGER_MAX:
            return number
    raise invalid_expire_time(name)


def invalid_expire_time(name: str) -> UserError:
    return UserError(f"invalid expire time in '{name}' command")


def check_string_bytes(tx: Transaction, size: int) -> None:
    """Refuses a string that would be too long, before it is made."""
    # No setting can be smaller than this, and the commit looks at the size again.
    if size <= MIB:
        return
    settings = tx.store.settings
    if size > settings.integer("proto-max-bulk-len"):
        raise UserError("string exceeds maximum allowed size (proto-max-bulk-len)")
    most = settings.integer("max-transaction-bytes")
    if size > most:
        raise TransactionTooLarge(size, most)


def check_reply_bytes(tx: Transaction, size: int) -> None:
    """Refuses a reply that would be too large, before its values are copied."""
    if size > MIB and size > (most := tx.store.settings.integer("max-reply-bytes")):
        raise LimitExceeded("max-reply-bytes", size, most)
