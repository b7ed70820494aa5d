"""JSON lines, without I/O: one object a line in, one out, in the order of the lines.

    request = {"command": "put", "key": key, "value": value}          | {"command": "get" | "delete", "key": key}
            | {"command": "get_range", "start_key"?: key, "end_key"?: key, "limit"?: n, "reverse"?: bool}
            | {"command": "batch_put", "keys": [key, …], "values": [value, …]}   | {"command": "ping"}
            | {"command": "begin" | "start", "mode"?: text, "durability"?: text, "timeout_ms"?: n}
            | {"command": "commit" | "rollback"}
            | {"command": name, "args": [text | number | bytes, …]}   any command of the table
    each with "id"?: any, which comes back, and "transaction_id"?: text
    key     = text | bytes        bytes = {"base64": …}        value = bytes | any JSON
    reply   = {"status": "ok" | "error", "message"?: …, "value"?: …, "data"?: …, "next"?: key, "result"?: …,
               "code"?: …, "transaction_id"?: …, "id"?: …}

A range is inclusive at both ends; a bound that is missing is open. Values that are no text keep their type. What is no
UTF-8 is told as `{"base64": …}`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from keyhaus.core import objects
from keyhaus.core.errors import Error, NotFound, Syntax, UserError
from keyhaus.core.request import Refused, Request
from keyhaus.protocol.json_replies import plain, stored_text
from keyhaus.protocol.lines import LineCodec, line_of, read_json

Shape = Callable[[Any], dict[str, Any]]
"""Makes of a reply that is no error what stands beside the status."""


_STORED: Final = {"message": "Key-value pair stored"}
_STORED_LINE: Final = line_of({"status": "ok", **_STORED})


class _Usual(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What most lines are: read without a dict."""

    command: str
    key: str
    value: str | msgspec.UnsetType = msgspec.UNSET
    id: Any = msgspec.UNSET


_read_usual: Final = msgspec.json.Decoder(_Usual).decode


class Mark(NamedTuple):
    """What a reply is made with: its shape, and what its request had as `id`, in a tuple; none where it had none."""

    shape: Shape
    id: tuple[Any, ...] = ()


def _result(reply: Any) -> dict[str, Any]:
    return {"result": plain(reply)}


class JsonLinesCodec(LineCodec[Mark]):
    """One connection's codec."""

    no_mark = Mark(_result)

    def parse(self, line: bytes) -> tuple[Request, Mark]:
        try:
            usual = _read_usual(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self.parse_any(line)
        if usual.command == "get" and usual.value is msgspec.UNSET:
            request, mark = [b"TYPED", b"GET", usual.key.encode()], _GOT
        elif usual.command == "put" and usual.value is not msgspec.UNSET:
            request, mark = [b"SET", usual.key.encode(), usual.value.encode()], _PUT
        else:
            return self.parse_any(line)
        return request, mark if usual.id is msgspec.UNSET else Mark(mark.shape, (usual.id,))

    def parse_any(self, line: bytes) -> tuple[Request, Mark]:
        """What `parse` does, of any line."""
        try:
            given = read_json(line)
        except ValueError:
            return Refused(Syntax("the line is no JSON: expected one object a line")), self.no_mark
        if type(given) is not dict:
            return Refused(Syntax('expected an object, such as {"command": "get", "key": …}')), self.no_mark
        shape: Shape = _result
        try:
            request, shape = _parse(given)
        except Error as error:
            request = Refused(error)
        if "id" in given:
            return request, Mark(shape, (given["id"],))
        return request, _MARKS.get(shape) or Mark(shape)

    def encode_late(self, reply: Any, mark: Mark) -> bytes:
        if mark is _GOT and reply.__class__ is list and (row := reply[0]) is not None:
            line = b'{"status": "ok", "value": %b}\n' % stored_text(*row)
            if len(line) <= self.max_reply_bytes:
                return line
        elif mark is _PUT and reply == "OK":
            return _STORED_LINE
        return super().encode_late(reply, mark)

    def answer(self, reply: Any, mark: Mark) -> dict[str, Any]:
        told = _failure(reply) if isinstance(reply, Error) else {"status": "ok", **mark.shape(reply)}
        if mark.id:
            told["id"] = mark.id[0]
        return told


def _failure(error: Error) -> dict[str, Any]:
    failure = {"status": "error", "message": error.message}
    # A missing key is told as the seed tells it, to the letter.
    return failure if isinstance(error, NotFound) else {**failure, "code": error.code}


def _parse(given: dict[str, Any]) -> tuple[Request, Shape]:
    command = given.get("command")
    if type(command) is not str:
        raise Syntax('expected {"command": …}, one of ' + ", ".join(_COMMANDS) + ", or any other with its args")
    own = None if "args" in given else _COMMANDS.get(command) or _COMMANDS.get(command.lower())
    if own is None:
        _check_fields(given, _WITH_ARGS)
        return _within(given, [command.encode("utf-8", "replace"), *_words(given.get("args", []))]), _result
    parser, fields = own
    if not given.keys() <= fields:
        _check_fields(given, fields)
    request, shape = parser(given)
    return request if "transaction_id" not in given or parser in _UNWRAPPED else _within(given, request), shape


def _check_fields(given: dict[str, Any], fields: frozenset[str]) -> None:
    for field in given:
        if field not in fields:
            expected = ", ".join(sorted(fields - {"command"}))
            raise Syntax(f"{field!r} is unknown to {given['command']!r}: expected {expected}")


def _fields(*names: str) -> frozenset[str]:
    return frozenset((*names, "command", "id", "transaction_id"))


def _within(given: dict[str, Any], request: Request) -> Request:
    name = _transaction(given)
    return request if name is None else [b"TX", name, *request]


def _transaction(given: dict[str, Any]) -> bytes | None:
    name = given.get("transaction_id")
    if name is not None and not isinstance(name, str):
        raise UserError("a transaction_id is the text that begin gave")
    return None if name is None else name.encode("utf-8", "replace")


def _words(args: Any) -> Request:
    if not isinstance(args, list):
        raise Syntax("args is a list of texts, numbers or bytes as base64")
    return [_word(word) for word in args]


def _word(word: Any) -> bytes:
    kind = type(word)
    if kind is str:
        return objects.pack(word)[1]
    if kind is int or kind is float:
        return objects.number_text(word)
    data = objects.from_json(word)
    if isinstance(data, bytes):
        return data
    raise UserError('an argument is a text, a number, or bytes as {"base64": …}')


def _key(given: dict[str, Any]) -> bytes:
    if "key" not in given:
        raise Syntax(f"{given['command']!r} needs 'key'")
    return _as_key(given["key"])


def _as_key(key: Any) -> bytes:
    if type(key) is str:
        return key.encode()
    data = objects.from_json(key)
    if isinstance(data, bytes):
        return data
    raise UserError('a key is a text, or bytes as {"base64": …}')


# the commands of the seed


def _put(given: dict[str, Any]) -> tuple[Request, Shape]:
    key = _key(given)
    if "value" not in given:
        raise Syntax("'put' needs 'value'")
    value = given["value"]
    if type(value) is str:
        return [b"SET", key, value.encode()], _stored
    kind, data = objects.pack(objects.from_json(value))
    return [b"TYPED", b"PUT", key, kind.encode(), data], _stored


def _stored(reply: Any) -> dict[str, Any]:
    return _STORED if reply == "OK" else _result(reply)


def _get(given: dict[str, Any]) -> tuple[Request, Shape]:
    return [b"TYPED", b"GET", _key(given)], _got


def _got(reply: Any) -> dict[str, Any]:
    if not isinstance(reply, list):
        return _result(reply)
    if reply[0] is None:
        raise _missing()
    return {"value": _value(*reply[0])}


def _missing() -> NotFound:
    return NotFound("Key not found")


def _value(kind: bytes, data: bytes) -> Any:
    return objects.jsonable(objects.unpack(kind.decode(), data))


def _delete(given: dict[str, Any]) -> tuple[Request, Shape]:
    return [b"DEL", _key(given)], _deleted


def _deleted(reply: Any) -> dict[str, Any]:
    if type(reply) is not int:
        return _result(reply)
    if not reply:
        raise _missing()
    return {"message": "Key deleted"}


def _batch_put(given: dict[str, Any]) -> tuple[Request, Shape]:
    keys, values = given.get("keys"), given.get("values")
    if not isinstance(keys, list) or not isinstance(values, list):
        raise Syntax("'batch_put' needs 'keys' and 'values', two lists")
    if len(keys) != len(values):
        raise UserError(f"there are {len(keys)} keys and {len(values)} values: as many are needed; nothing was stored")
    request = [b"TYPED", b"PUT"]
    for key, value in zip(keys, values, strict=True):
        kind, data = objects.pack(objects.from_json(value))
        request += (_as_key(key), kind.encode(), data)

    message = f"{len(keys)} key-value pairs stored"  # made here, so that a reply that is held keeps no keys

    def shape(reply: Any) -> dict[str, Any]:
        return {"message": message} if reply == "OK" else _result(reply)

    return request, shape


def _get_range(given: dict[str, Any]) -> tuple[Request, Shape]:
    start, end = given.get("start_key"), given.get("end_key")
    request = [b"TYPED", b"RANGE", b"" if start is None else _as_key(start)]
    request.append(b"" if end is None else _as_key(end) + b"\0")
    reverse, limit = given.get("reverse", False), given.get("limit")
    if not isinstance(reverse, bool):
        raise UserError("'reverse' is true or false")
    if reverse:
        request.append(b"REV")
    if limit is not None:
        if type(limit) is not int or limit < 1:
            raise UserError("'limit' is a number of rows, 1 at least")
        request += (b"LIMIT", b"%d" % limit)
    return [*request, b"ALL"], _rows


def _rows(reply: Any) -> dict[str, Any]:
    if not isinstance(reply, list):
        return _result(reply)
    following, words = reply
    data = [
        [plain(key), _value(kind, value)] for key, kind, value in zip(words[::3], words[1::3], words[2::3], strict=True)
    ]
    return {"data": data} if following is None else {"data": data, "next": plain(following)}


def _ping(given: dict[str, Any]) -> tuple[Request, Shape]:
    return [b"PING"], lambda reply: {"message": "pong"} if reply == "PONG" else _result(reply)


def _begin(given: dict[str, Any]) -> tuple[Request, Shape]:
    request = [b"BEGIN"]
    for field, kind, option in _BEGIN_OPTIONS:
        if field in given:
            if type(given[field]) is not kind:
                raise UserError(f"{field!r} is a {'text' if kind is str else 'number'}")
            request += (*option, str(given[field]).encode("utf-8", "replace"))
    return request, _begun


def _begun(reply: Any) -> dict[str, Any]:
    if type(reply) is not bytes:
        return _result(reply)
    return {"message": "Transaction started", "transaction_id": reply.decode()}


def _ending(command: bytes, sentence: str) -> Callable[[dict[str, Any]], tuple[Request, Shape]]:
    def parser(given: dict[str, Any]) -> tuple[Request, Shape]:
        name = _transaction(given)
        return [command] if name is None else [command, name], shape

    def shape(reply: Any) -> dict[str, Any]:
        return {"message": sentence} if reply == "OK" else _result(reply)

    return parser


_BEGIN_OPTIONS: Final = (
    ("mode", str, ()),
    ("durability", str, (b"DURABILITY",)),
    ("timeout_ms", int, (b"TIMEOUT",)),
)
_GOT: Final = Mark(_got)
_PUT: Final = Mark(_stored)
_MARKS: Final = {mark.shape: mark for mark in (_GOT, _PUT, Mark(_deleted), Mark(_rows), Mark(_result))}
_commit: Final = _ending(b"COMMIT", "Transaction committed")
_rollback: Final = _ending(b"ROLLBACK", "Transaction rolled back")
_UNWRAPPED: Final = frozenset((_commit, _rollback))
_WITH_ARGS: Final = _fields("args")
_COMMANDS: Final[dict[str, tuple[Callable[[dict[str, Any]], tuple[Request, Shape]], frozenset[str]]]] = {
    "put": (_put, _fields("key", "value")),
    "get": (_get, _fields("key")),
    "get_range": (_get_range, _fields("start_key", "end_key", "limit", "reverse")),
    "batch_put": (_batch_put, _fields("keys", "values")),
    "delete": (_delete, _fields("key")),
    "ping": (_ping, _fields()),
    "begin": (_begin, _fields("mode", "durability", "timeout_ms")),
    "start": (_begin, _fields("mode", "durability", "timeout_ms")),
    "commit": (_commit, _fields()),
    "rollback": (_rollback, _fields()),
}
