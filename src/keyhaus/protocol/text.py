"""Text, without I/O: lines of UTF-8 in, one JSON object a line out, in the order of the lines.

    line   = PUT key " " value [" " id] | PUT json          json = {"key": …, "value": …, "transaction_id"?: …}
           | (GET | DEL | DELETE) key [" " id] | (GET | DEL | DELETE) json
           | (BEGIN | START) [option …] | (COMMIT | ROLLBACK) [id]
           | words, quoted as redis-cli quotes: any command of the table
    reply  = {"status": "Ok" | "Error", "result"?: …, "message"?: …, "code"?: …, "transaction_id"?: …}

A value is all that follows the one blank behind its key, but for a last word that has the form of a transaction id.
Values of the JSON form that are no text keep their type. What is no UTF-8 is told as `{"base64": …}`.

Invariants: every line that is not empty has one reply. A line that makes no sense has an error for it, and the next one
is read all the same; only a line without an end, or HTTP, ends the stream. Time is linear in the bytes however they are
dribbled, memory bounded by `max-request-bytes`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from keyhaus.core import limits, objects
from keyhaus.core.errors import Error, LimitExceeded, NotFound, ProtocolError, Syntax, UserError
from keyhaus.core.ids import read_id
from keyhaus.core.request import NEED_DATA, NeedData, Refused, Request
from keyhaus.protocol.inline import is_http, split_words
from keyhaus.protocol.json_replies import told

Shape = Callable[[Any], dict[str, Any]]
"""Makes the object of a reply that is no error."""

_BLANK: Final = b" "
_ID_LETTERS: Final = 29


class TextCodec:
    """One connection's codec.

    Attributes:
        ready: Requests that are parsed already; `next_request` gives them first.
        mark: How the last reply was made, for `encode_late`.
    """

    version = 2

    def __init__(self, *, max_request_bytes: int = limits.REQUEST_BYTES_MAX) -> None:
        self.max_request_bytes = self.max_bulk_bytes = max_request_bytes
        self.max_reply_bytes = limits.REPLY_BYTES_MAX
        self.ready: deque[Request] = deque()
        self.mark: Shape = told
        self._shapes: deque[Shape] = deque()
        self._rest = bytearray()
        self._searched = 0  # up to where no line feed was found
        self._error: Error | None = None

    # reading

    def feed(self, data: bytes) -> None:
        """Takes what was received."""
        if self._error is None:
            self._rest += data

    def buffered(self) -> int:
        """How many bytes wait for the end of their line."""
        return len(self._rest)

    def end_line(self) -> None:
        """What waits is a whole line: its client ends none (seed 002)."""
        if self._rest:
            self._rest += b"\n"

    def next_request(self) -> Request | NeedData:
        """The next request. Raises ProtocolError, LimitExceeded for good."""
        if self.ready:
            return self.ready.popleft()
        if self._error is not None:
            raise self._error
        self._cut()
        if self.ready:
            return self.ready.popleft()
        if len(self._rest) > self.max_request_bytes:
            self._fail(LimitExceeded("max-request-bytes", len(self._rest), self.max_request_bytes))
        if self._error is not None:
            raise self._error
        return NEED_DATA

    def _cut(self) -> None:
        """Makes requests of the lines that are complete."""
        end = self._rest.rfind(b"\n", self._searched)
        self._searched = len(self._rest)
        if end < 0:
            return
        lines = bytes(self._rest[:end]).split(b"\n")
        del self._rest[: end + 1]
        self._searched = len(self._rest)
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line.strip():
                continue
            if is_http(line):
                return self._fail(ProtocolError("this is HTTP; the connection is closed"))
            try:
                if len(line) > self.max_request_bytes:
                    raise LimitExceeded("max-request-bytes", len(line), self.max_request_bytes)
                request, shape = parse(line)
            except Error as error:
                request, shape = Refused(error), told
            self.ready.append(request)
            self._shapes.append(shape)

    def _fail(self, error: Error) -> None:
        self._error = error
        self._rest = bytearray()

    # writing

    def encode(self, reply: Any) -> bytes:
        """The line of a reply; one that is too large becomes the error that says so."""
        self.mark = self._shapes.popleft() if self._shapes else told
        return self.encode_late(reply, self.mark)

    def skip(self) -> None:
        """A reply is not sent."""
        if self._shapes:
            self._shapes.popleft()

    def encode_late(self, reply: Any, mark: Shape) -> bytes:
        """The same for a reply that takes the place of an earlier one, whose `mark` it was."""
        try:
            answer = _failure(reply) if isinstance(reply, Error) else mark(reply)
        except Error as error:
            answer = _failure(error)
        line = _line(answer)
        if len(line) > self.max_reply_bytes:
            line = _line(_failure(LimitExceeded("max-reply-bytes", len(line), self.max_reply_bytes)))
        return line


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, ensure_ascii=False).encode() + b"\n"


def _failure(error: Error) -> dict[str, Any]:
    return {"status": "Error", "message": error.message, "code": error.code}


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
    def shape(reply: Any) -> dict[str, Any]:
        return told(reply) if reply != "OK" else {"status": "Ok", "result": {"key": key, "value": value}}

    return shape


def _get(rest: bytes) -> tuple[Request, Shape]:
    key, shown, name = _one_key("GET", rest)

    def shape(reply: Any) -> dict[str, Any]:
        if not isinstance(reply, list):
            return told(reply)
        if reply[0] is None:
            raise NotFound(f"Key not found: {shown}")
        kind, data = reply[0]
        value = objects.unpack(kind.decode(), data)
        return {"status": "Ok", "result": {"key": shown, "value": objects.jsonable(value)}}

    return _within(name, [b"TYPED", b"GET", key]), shape


def _delete(rest: bytes) -> tuple[Request, Shape]:
    key, shown, name = _one_key("DEL", rest)

    def shape(reply: Any) -> dict[str, Any]:
        if type(reply) is not int:
            return told(reply)
        if not reply:
            raise NotFound(f"Key not found: {shown}")
        return {"status": "Ok", "result": {"key": shown}}

    return _within(name, [b"DEL", key]), shape


def _one_key(command: str, rest: bytes) -> tuple[bytes, Any, bytes | None]:
    """The key that a line names, as it was given, and the transaction."""
    if rest.lstrip().startswith(b"{"):
        given = _json(rest, ("key", "transaction_id"))
        return _key(given), given["key"], _name(given)
    words = rest.split()
    name = words.pop() if len(words) == 2 and read_id(words[1]) is not None else None
    if len(words) != 1:
        raise Syntax(f'expected {command} key, {command} key id, or {command} {{"key": …}}')
    return words[0], words[0].decode(), name


def _begin(rest: bytes) -> tuple[Request, Shape]:
    def shape(reply: Any) -> dict[str, Any]:
        if type(reply) is not bytes:
            return told(reply)
        return {"status": "Ok", "result": "Transaction started", "transaction_id": reply.decode()}

    return [b"BEGIN", *rest.split()], shape


def _ending(command: bytes, sentence: str) -> Callable[[bytes], tuple[Request, Shape]]:
    def shape(reply: Any) -> dict[str, Any]:
        return {"status": "Ok", "result": sentence} if reply == "OK" else told(reply)

    return lambda rest: ([command, *rest.split()], shape)


def _within(name: bytes | None, request: Request) -> Request:
    return request if name is None else [b"TX", name, *request]


def _without_id(value: bytes) -> tuple[bytes | None, bytes | None]:
    """A value without the id that it ends with; None for both where there is none."""
    if len(value) >= _ID_LETTERS and read_id(value[-_ID_LETTERS:]) is not None:
        if len(value) == _ID_LETTERS:
            return None, value
        if value[-_ID_LETTERS - 1 : -_ID_LETTERS] == _BLANK:
            return value[: -_ID_LETTERS - 1], value[-_ID_LETTERS:]
    return value, None


# the JSON form


def _json(text: bytes, known: tuple[str, ...]) -> dict[str, Any]:
    try:
        given = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Syntax("the JSON argument is broken or incomplete") from None
    if not isinstance(given, dict) or "key" not in given:
        raise Syntax(f"expected a JSON object with {', '.join(known)}")
    for name in given:
        if name not in known:
            raise Syntax(f"{name!r} is unknown: expected {', '.join(known)}")
    return given


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


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
