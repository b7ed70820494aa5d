"""A row, and how JSON expresses its parts so that nothing is lost.

    key   = text | base64                   ; base64: what is no UTF-8
    value = text                            ; TEXT
          | base64                          ; BYTES, and TEXT that is no UTF-8
          | any other JSON value            ; OBJECT, where that says all of it; bytes within are base64 too
          | {"msgpack": "…"}                ; OBJECT, as it is stored, in base64
    base64 = {"base64": "…"}
    row   = {"database": 0, "key": key, "kind": "TEXT", "value": value, "expires": 1767225600000}

Only key and value must be there: database is 0 otherwise, kind follows from the value, and without expires a row stays.
An OBJECT is written as JSON only if reading that gives exactly what is stored, byte for byte.
"""

from __future__ import annotations

import base64
from typing import Any, Final, NamedTuple

import msgspec

from keyhaus.core import limits
from keyhaus.core.errors import Error, LimitExceeded, UserError
from keyhaus.core.objects import BYTES, OBJECT, TEXT, decode, from_json, jsonable, pack

KINDS: Final = (TEXT, BYTES, OBJECT)
FIELDS: Final = frozenset(("database", "key", "kind", "value", "expires"))
_EXPIRES_END: Final = 1 << 63


class Row(NamedTuple):
    """What a key holds.

    Attributes:
        database: The number of its database.
        key: The key.
        kind: TEXT, BYTES or OBJECT.
        value: The value's bytes, as `core.objects.pack` has them.
        expires: When it ends, in milliseconds since 1970; 0 for never.
    """

    database: int
    key: bytes
    kind: str
    value: bytes
    expires: int = 0


class Read(NamedTuple):
    """What was read of one row.

    Attributes:
        line: Where it begins, counted from 1.
        row: The row; None where it is none.
        problem: Why it is none, with the place.
    """

    line: int
    row: Row | None
    problem: str = ""


class BrokenFile(UserError):
    """The rest of a file can't be read; the message says where it breaks, and what was expected."""


# writing


def text_form(data: bytes) -> Any:
    """A key, or a value of kind TEXT."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64_form(data)


def base64_form(data: bytes, name: str = "base64") -> Any:
    """Any bytes: `{name: "…"}`, in base64."""
    return {name: base64.b64encode(data).decode()}


def value_form(kind: str, value: bytes) -> Any:
    """A value as msgspec encodes it to JSON."""
    if kind == TEXT:
        return text_form(value)
    if kind == BYTES:
        return base64_form(value)
    try:
        text = msgspec.json.encode(jsonable(decode(value)))
        if read_value(msgspec.json.decode(text)) == (kind, value):
            return msgspec.Raw(text)
    except (Error, msgspec.MsgspecError, ValueError, RecursionError):
        pass  # JSON has no word for some part of it
    return base64_form(value, "msgpack")


def row_form(row: Row) -> dict[str, Any]:
    """A row as msgspec encodes it to JSON."""
    form = {
        "database": row.database,
        "key": text_form(row.key),
        "kind": row.kind,
        "value": value_form(row.kind, row.value),
    }
    return form | {"expires": row.expires} if row.expires else form


# reading


def read_key(form: Any) -> bytes:
    """The bytes of a key.

    Args:
        form: JSON, decoded: a str, or `{"base64": str}`.

    Raises:
        UserError: It is something else, or the key is too long.
    """
    key = _utf8(form) if isinstance(form, str) else _decoded(form, "base64")
    if key is None:
        raise UserError('a key is a text, or {"base64": …}')
    return checked_key(key)


def checked_key(key: bytes) -> bytes:
    """The same key, where it is no longer than keys may be. Raises LimitExceeded."""
    if len(key) > limits.KEY_BYTES_MAX:
        raise LimitExceeded("max-key-bytes", len(key), limits.KEY_BYTES_MAX)
    return key


def read_value(form: Any, kind: str | None = None) -> tuple[str, bytes]:
    """The kind of a value, and its bytes as `core.objects.pack` has them.

    Args:
        form: JSON, decoded: a str, `{"base64": str}`, `{"msgpack": str}`, or anything else for an OBJECT.
        kind: TEXT, BYTES or OBJECT; None: whichever it shows.

    Raises:
        UserError: It is none of that kind.
    """
    if isinstance(form, str) and kind in (None, TEXT):
        return TEXT, _utf8(form)
    data = _decoded(form, "base64")
    if data is not None and kind in (None, TEXT, BYTES):
        return kind or BYTES, data
    if kind not in (None, OBJECT):
        expected = 'a text, or {"base64": …}' if kind == TEXT else '{"base64": …}'
        raise UserError(f"a value of kind {kind} is {expected}")
    packed = _decoded(form, "msgpack")
    if packed is not None:
        decode(packed)  # what nobody could read is refused
        return OBJECT, packed
    try:
        found, data = pack(from_json(form))
    except RecursionError:
        raise UserError("the value is nested too deeply") from None
    if found != OBJECT:
        raise UserError('a value of kind OBJECT is {"msgpack": …}, or any JSON but a text or {"base64": …}')
    return OBJECT, data


def read_row(form: Any) -> Row:
    """A row.

    Args:
        form: JSON, decoded: a dict of FIELDS, key and value at least.

    Raises:
        UserError: It is something else, or one of its fields is no such thing.
    """
    if not isinstance(form, dict):
        raise UserError('a row is an object: {"key": …, "value": …}')
    unknown = sorted(form.keys() - FIELDS)
    if unknown:
        raise UserError(f"a row has no field {unknown[0]!r}: its fields are database, key, kind, value and expires")
    for name in ("key", "value"):
        if name not in form:
            raise UserError(f"the row has no {name}")
    kind = form.get("kind")
    if kind is not None and kind not in KINDS:
        raise UserError(f"a kind is TEXT, BYTES or OBJECT, not {kind!r}")
    database, expires = form.get("database") or 0, form.get("expires")
    return Row(
        checked_database(database),
        read_key(form["key"]),
        *read_value(form["value"], kind),
        0 if expires is None else checked_expiry(expires),
    )


def checked_database(number: Any) -> int:
    """The same number, where it is an int from 0. Raises UserError."""
    if type(number) is not int or number < 0:
        raise UserError(f"a database is a number from 0, not {number!r}")
    return number


def checked_expiry(number: Any) -> int:
    """The same number, where it is an int above 0: milliseconds since 1970. Raises UserError."""
    if type(number) is not int or not 0 < number < _EXPIRES_END:
        raise UserError(f"expires is in milliseconds since 1970, not {number!r}")
    return number


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UserError("it is no UTF-8") from None


def _decoded(form: Any, name: str) -> bytes | None:
    """The bytes of `{name: "base64"}`; None for anything else."""
    if not isinstance(form, dict) or form.keys() != {name} or not isinstance(form[name], str):
        return None
    try:
        return base64.b64decode(form[name], validate=True)
    except ValueError:
        raise UserError(f'{{"{name}": …}} has to hold base64 as RFC 4648 has it') from None
