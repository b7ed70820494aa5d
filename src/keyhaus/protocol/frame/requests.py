"""Requests of the frame dialect: what a dict asks of the command table, and what its reply looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from keyhaus.core import objects
from keyhaus.core.errors import Error, StorageError, Syntax
from keyhaus.core.keys import pack_key, unpack_key
from keyhaus.core.reply import Attributed, NullArray
from keyhaus.core.request import Request

Shape = Callable[[Any], Any]
"""Makes the answer of a reply that is no error."""


class BadRequest(Syntax):
    """A dict that asks for nothing that there is."""


_CODES: Final = {
    "UNSAFEPICKLE": "UNSAFE_PICKLE",
    "BADPAYLOAD": "BAD_PAYLOAD",
    "UNKNOWNCOMMAND": "UNKNOWN_COMMAND",
    "INVALIDKEY": "INVALID_KEY",
    "WRONGTYPE": "WRONG_TYPE",
    "LIMIT": "LIMIT_EXCEEDED",
    "SNAPSHOTTOOOLD": "SNAPSHOT_TOO_OLD",
    "CONFLICT": "CONFLICT",
    "DEADLOCK": "DEADLOCK",
    "LOCKTIMEOUT": "LOCK_TIMEOUT",
    "NOTX": "NO_TRANSACTION",
    "READONLY": "READ_ONLY",
    "TXTOOLARGE": "TRANSACTION_TOO_LARGE",
    "TXTIMEOUT": "TRANSACTION_TIMEOUT",
    "NOAUTH": "NOT_PERMITTED",
    "NOPERM": "NOT_PERMITTED",
    "WRONGPASS": "NOT_PERMITTED",
    "INTERNAL": "INTERNAL",
}


def told_code(error: Error) -> str:
    """The code of an error in this dialect."""
    return _CODES.get(error.code) or ("STORAGE_ERROR" if isinstance(error, StorageError) else "BAD_REQUEST")


def parse_usual(command: str, key: str, value: str | None) -> tuple[Request, Shape] | None:
    """What `parse` gives for a GET or SET of texts; None where it is anything else."""
    if command == "GET" and value is None:
        return [b"TYPED", b"GET", key.encode()], _value
    if command == "SET" and value is not None:
        return [b"SET", key.encode(), value.encode()], _status
    return None


def parse(given: dict[Any, Any]) -> tuple[Request, Shape]:
    """The request that a dict is, and what its reply looks like. Raises UserError."""
    command = given.get("cmd")
    if type(command) is not str:
        raise BadRequest(f"expected a 'cmd', one of {', '.join(_COMMANDS)}, or any other with its args")
    own = None if "args" in given else _COMMANDS.get(command) or _COMMANDS.get(command.upper())
    if own is None:
        _check_fields(given, _WITH_ARGS)
        words = [command.encode("utf-8", "replace"), *_words(given.get("args", ()))]
        return _within(given, words), plain
    parser, fields = own
    if not given.keys() <= fields:
        _check_fields(given, fields)
    request, shape = parser(given)
    return request if "transaction_id" not in given or parser in _UNWRAPPED else _within(given, request), shape


def plain(reply: Any) -> Any:
    """A reply of the table as plain data: bytes are text where they are UTF-8."""
    if isinstance(reply, bytes):
        return objects.unpack(objects.TEXT, bytes(reply))
    if reply is None or isinstance(reply, bool | float):
        return reply
    if isinstance(reply, str):
        return str(reply)
    if isinstance(reply, int):
        return int(reply)
    if isinstance(reply, list):
        return [plain(item) for item in reply]
    if isinstance(reply, dict):
        return {plain(key): plain(value) for key, value in reply.items()}
    if isinstance(reply, Attributed):
        return plain(reply.reply)
    if isinstance(reply, NullArray):
        return None
    if isinstance(reply, Error):
        return {"error": told_code(reply), "message": reply.message}
    raise TypeError(f"{type(reply).__name__} is no reply")


def _check_fields(given: dict[Any, Any], fields: frozenset[str]) -> None:
    for field in given:
        if field not in fields:
            raise BadRequest(f"{field!r} is unknown to {given['cmd']}: expected {', '.join(sorted(fields - {'cmd'}))}")


def _fields(*names: str) -> frozenset[str]:
    return frozenset((*names, "cmd", "transaction_id", "wrapped"))


def _within(given: dict[Any, Any], request: Request) -> Request:
    name = _transaction(given)
    return request if name is None else [b"TX", name, *request]


def _transaction(given: dict[Any, Any]) -> bytes | None:
    name = given.get("transaction_id")
    if name is not None and not isinstance(name, str):
        raise BadRequest("a transaction_id is the text that BEGIN gave")
    return None if name is None else name.encode("utf-8", "replace")


def _words(args: Any) -> Request:
    if not isinstance(args, list | tuple):
        raise BadRequest("args is a list of texts, bytes or numbers")
    return [_word(word) for word in args]


def _word(word: Any) -> bytes:
    kind = type(word)
    if kind is bytes:
        data: bytes = word
        return data
    if kind is str:
        return objects.pack(word)[1]
    if kind is int or kind is float:
        return objects.number_text(word)
    raise BadRequest(f"an argument is a text, bytes or a number, not {kind.__name__}")


def _need(given: dict[Any, Any], field: str) -> Any:
    if field not in given:
        raise BadRequest(f"{given['cmd']} needs {field!r}")
    return given[field]


def _status(reply: Any) -> Any:
    return "OK" if reply == "OK" else plain(reply)


def _set(given: dict[Any, Any]) -> tuple[Request, Shape]:
    key, value = _need(given, "key"), _need(given, "value")
    kind, data = objects.pack(value)
    if type(key) is str and type(value) is str:
        return [b"SET", pack_key(key), data], _status
    return [b"TYPED", b"PUT", pack_key(key), kind.encode(), data], _status


def _get(given: dict[Any, Any]) -> tuple[Request, Shape]:
    return [b"TYPED", b"GET", pack_key(_need(given, "key"))], _value


def _value(reply: Any) -> Any:
    if reply.__class__ is not list:
        return plain(reply)
    row = reply[0]
    return None if row is None else objects.unpack(row[0].decode(), row[1])


def _delete(given: dict[Any, Any]) -> tuple[Request, Shape]:
    return [b"DEL", pack_key(_need(given, "key"))], _deleted


def _deleted(reply: Any) -> Any:
    return ("OK" if reply else "NOT_FOUND") if type(reply) is int else plain(reply)


def _exists(given: dict[Any, Any]) -> tuple[Request, Shape]:
    return [b"EXISTS", pack_key(_need(given, "key"))], _truth


def _truth(reply: Any) -> Any:
    return bool(reply) if type(reply) is int else plain(reply)


def _bulk_set(given: dict[Any, Any]) -> tuple[Request, Shape]:
    items = _need(given, "items")
    if isinstance(items, dict):
        items = list(items.items())
    if not isinstance(items, list | tuple) or not all(
        isinstance(item, list | tuple) and len(item) == 2 for item in items
    ):
        raise BadRequest("'items' is a list of pairs of a key and a value; nothing was stored")
    request = [b"TYPED", b"PUT"]
    for key, value in items:
        kind, data = objects.pack(value)
        request += (pack_key(key), kind.encode(), data)
    return request, _status


def _keys(given: dict[Any, Any]) -> tuple[Request, Shape]:
    return [b"TYPED", b"KEYS"], _key_list


def _key_list(reply: Any) -> Any:
    return [unpack_key(key) for key in reply] if isinstance(reply, list) else plain(reply)


def _begin(given: dict[Any, Any]) -> tuple[Request, Shape]:
    mode = given.get("mode", "pessimistic")
    if not isinstance(mode, str):
        raise BadRequest("'mode' is a text: pessimistic, optimistic or readonly")
    return [b"BEGIN", mode.encode("utf-8", "replace")], plain


def _ending(command: bytes) -> Callable[[dict[Any, Any]], tuple[Request, Shape]]:
    def parser(given: dict[Any, Any]) -> tuple[Request, Shape]:
        name = _transaction(given)
        return [command] if name is None else [command, name], _status

    return parser


_commit: Final = _ending(b"COMMIT")
_rollback: Final = _ending(b"ROLLBACK")
_UNWRAPPED: Final = frozenset((_commit, _rollback))
SHAPES: Final[tuple[Shape, ...]] = (plain, _status, _value, _deleted, _truth, _key_list)
"""Those of every reply: there are no others."""
_WITH_ARGS: Final = _fields("args")
_COMMANDS: Final[dict[str, tuple[Callable[[dict[Any, Any]], tuple[Request, Shape]], frozenset[str]]]] = {
    "SET": (_set, _fields("key", "value")),
    "GET": (_get, _fields("key")),
    "DELETE": (_delete, _fields("key")),
    "BULKSET": (_bulk_set, _fields("items")),
    "EXISTS": (_exists, _fields("key")),
    "KEYS": (_keys, _fields()),
    "BEGIN": (_begin, _fields("mode")),
    "START": (_begin, _fields("mode")),
    "COMMIT": (_commit, _fields()),
    "ROLLBACK": (_rollback, _fields()),
}
