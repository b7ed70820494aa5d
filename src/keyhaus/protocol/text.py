"""Text, without I/O: lines of UTF-8 in, one JSON object a line out, in the order of the lines.

    line   = PUT key " " value [" " id] | PUT json          json = {"key": …, "value": …, "transaction_id"?: …}
           | (GET | DEL | DELETE) key [" " id] | (GET | DEL | DELETE) json
           | (BEGIN | START) [option …] | (COMMIT | ROLLBACK) [id]
           | words, quoted as redis-cli quotes: any command of the table
    reply  = {"status": "Ok" | "Error", "result"?: …, "message"?: …, "code"?: …, "transaction_id"?: …}

A value is all that follows the one blank behind its key, but for a last word that has the form of a transaction id.
Values of the JSON form that are no text keep their type. What is no UTF-8 is told as `{"base64": …}`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from keyhaus.core import objects
from keyhaus.core.errors import Error, NotFound, Syntax, UserError
from keyhaus.core.ids import SHOWN_LETTERS, read_id
from keyhaus.core.request import Refused, Request
from keyhaus.protocol.inline import split_words
from keyhaus.protocol.json_replies import stored_text, to_json, told
from keyhaus.protocol.lines import LineCodec, read_json

Shape = Callable[[Any], dict[str, Any] | bytes]
"""Makes the object of a reply that is no error, or its whole line."""

_BLANK: Final = b" "
_BRACE: Final = ord("{")
_PAIR: Final = b'{"status": "Ok", "result": {"key": %b, "value": %b}}\n'


class TextCodec(LineCodec[Shape]):
    """One connection's codec."""

    no_mark = staticmethod(told)

    def parse(self, line: bytes) -> tuple[Request, Shape]:
        try:
            return parse(line)
        except Error as error:
            return Refused(error), told

    def answer(self, reply: Any, mark: Shape) -> dict[str, Any] | bytes:
        return _failure(reply) if isinstance(reply, Error) else mark(reply)


def _failure(error: Error) -> dict[str, Any]:
    failure = {"status": "Error", "message": error.message}
    # A missing key is told as the seeds tell it, to the letter.
    return failure if isinstance(error, NotFound) else {**failure, "code": error.code}


# lines


def parse(line: bytes) -> tuple[Request, Shape]:
    """The request of a line, and what its reply looks like. Raises UserError."""
    try:
        line.decode()
    except UnicodeDecodeError:
        raise UserError("the line is no UTF-8") from None
    word, _, rest = line.lstrip(b" \t").partition(_BLANK)
    parser = _PARSERS.get(word.upper())
    if parser is not None:
        return parser(rest)
    words = split_words(line)
    if words is None:
        raise Syntax("unbalanced quotes: expected words as redis-cli quotes them")
    return words, told


def _put(rest: bytes) -> tuple[Request, Shape]:
    if rest.lstrip().startswith(b"{"):
        return _put_json(rest)
    key, blank, behind = rest.partition(_BLANK)
    if not key or not blank:
        raise Syntax('expected PUT key value, or PUT {"key": …, "value": …}')
    value, name = _without_id(behind)
    if value is None:
        raise Syntax("expected a value between the key and the transaction id; an empty one takes the JSON form")
    request, shape = [b"SET", key, value], _pair(key.decode(), value.decode())
    return _within(name, request), shape


def _put_json(rest: bytes) -> tuple[Request, Shape]:
    given = _json(rest, ("key", "value", "transaction_id"))
    if "value" not in given:
        raise Syntax('expected {"key": …, "value": …}')
    key, value = _key(given), objects.from_json(given["value"])
    kind, data = objects.pack(value)
    request = [b"TYPED", b"PUT", key, kind.encode(), data]
    return _within(_name(given), request), _pair(given["key"], given["value"])


def _pair(key: Any, value: Any) -> Shape:
    def shape(reply: Any) -> dict[str, Any] | bytes:
        return _PAIR % (to_json(key), to_json(value)) if reply == "OK" else told(reply)

    return shape


def _get(rest: bytes) -> tuple[Request, Shape]:
    key, shown, name = _one_key("GET", rest)

    def shape(reply: Any) -> dict[str, Any] | bytes:
        if not isinstance(reply, list):
            return told(reply)
        if reply[0] is None:
            raise NotFound(f"Key not found: {shown}")
        return _PAIR % (to_json(shown), stored_text(*reply[0]))

    return _within(name, [b"TYPED", b"GET", key]), shape


def _delete(rest: bytes) -> tuple[Request, Shape]:
    key, shown, name = _one_key("DEL", rest)

    def shape(reply: Any) -> dict[str, Any] | bytes:
        if type(reply) is not int:
            return told(reply)
        if not reply:
            raise NotFound(f"Key not found: {shown}")
        return {"status": "Ok", "result": {"key": shown}}

    return _within(name, [b"DEL", key]), shape


def _one_key(command: str, rest: bytes) -> tuple[bytes, Any, bytes | None]:
    """The key that a line names, as it was given, and the transaction."""
    words = rest.split()
    if words and words[0][0] == _BRACE:
        given = _json(rest, ("key", "transaction_id"))
        return _key(given), given["key"], _name(given)
    name = words.pop() if len(words) == 2 and read_id(words[1]) is not None else None
    if len(words) != 1:
        raise Syntax(f'expected {command} key, {command} key id, or {command} {{"key": …}}')
    return words[0], words[0].decode(), name


def _begin(rest: bytes) -> tuple[Request, Shape]:
    def shape(reply: Any) -> dict[str, Any] | bytes:
        if type(reply) is not bytes:
            return told(reply)
        return {"status": "Ok", "result": "Transaction started", "transaction_id": reply.decode()}

    return [b"BEGIN", *rest.split()], shape


def _ending(command: bytes, sentence: str) -> Callable[[bytes], tuple[Request, Shape]]:
    def shape(reply: Any) -> dict[str, Any] | bytes:
        return {"status": "Ok", "result": sentence} if reply == "OK" else told(reply)

    return lambda rest: ([command, *rest.split()], shape)


def _within(name: bytes | None, request: Request) -> Request:
    return request if name is None else [b"TX", name, *request]


def _without_id(value: bytes) -> tuple[bytes | None, bytes | None]:
    """A value without the id that it ends with; None for both where there is none."""
    if len(value) >= SHOWN_LETTERS and read_id(value[-SHOWN_LETTERS:]) is not None:
        if len(value) == SHOWN_LETTERS:
            return None, value
        if value[-SHOWN_LETTERS - 1 : -SHOWN_LETTERS] == _BLANK:
            return value[: -SHOWN_LETTERS - 1], value[-SHOWN_LETTERS:]
    return value, None


# the JSON form


def _json(text: bytes, known: tuple[str, ...]) -> dict[str, Any]:
    try:
        given = read_json(text)
    except ValueError:
        raise Syntax("the JSON argument is broken or incomplete") from None
    if not isinstance(given, dict) or "key" not in given:
        raise Syntax(f"expected a JSON object with {', '.join(known)}")
    for name in given:
        if name not in known:
            raise Syntax(f"{name!r} is unknown: expected {', '.join(known)}")
    return given


def _key(given: dict[str, Any]) -> bytes:
    key = objects.from_json(given["key"])
    if isinstance(key, str):
        return objects.pack(key)[1]
    if isinstance(key, bytes):
        return key
    raise UserError('a key is a string, or {"base64": …}')


def _name(given: dict[str, Any]) -> bytes | None:
    name = given.get("transaction_id")
    if name is not None and not isinstance(name, str):
        raise UserError("a transaction_id is the string that BEGIN gave")
    return None if name is None else name.encode("utf-8", "replace")


_PARSERS: Final[dict[bytes, Callable[[bytes], tuple[Request, Shape]]]] = {
    b"PUT": _put,
    b"GET": _get,
    b"DEL": _delete,
    b"DELETE": _delete,
    b"BEGIN": _begin,
    b"START": _begin,
    b"COMMIT": _ending(b"COMMIT", "Transaction committed"),
    b"ROLLBACK": _ending(b"ROLLBACK", "Transaction rolled back"),
}
