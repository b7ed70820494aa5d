"""Frames, without I/O: a length and a payload in, the same out, in the order of the requests.

    frame   = length:u32 payload                  ; big-endian, of the payload
    payload = pickle | MessagePack                ; of a dict: told apart by the first byte, answered in kind
    request = {"cmd": "SET", "key": key, "value": value}      | {"cmd": "GET" | "DELETE" | "EXISTS", "key": key}
            | {"cmd": "BULKSET", "items": [(key, value), …]}  | {"cmd": "KEYS"}
            | {"cmd": "BEGIN" | "START", "mode"?: text}       | {"cmd": "COMMIT" | "ROLLBACK"}
            | {"cmd": name, "args"?: [text | bytes | number, …]}     any other command of the table
    each with "transaction_id"?: text, and "wrapped"?: bool
    reply   = "OK" | "NOT_FOUND" | value | None | bool | [key, …] | {"error": code}

MessagePack begins with 0x81–0x8f, 0xde or 0xdf, a map that is not empty; its extension types are those of
`core/objects.py`. Replies that are pickles have protocol 4 and hold plain data. A wrapped
reply is {"result": reply}, or {"error": code, "message": sentence}: no value that was stored looks like an error then.

Invariants: every frame has one reply. One that makes no sense has an error for it, and the next one is read all the
same; only a length over the limit ends the stream. No pickle is ever executed (`pickles.py`). Time is linear in the
bytes however they are dribbled, memory bounded by `max-request-bytes`.
"""

from __future__ import annotations

import logging
import pickle
from collections import deque
from typing import Any, Final, NamedTuple

import msgspec

from keyhaus.core import limits, objects
from keyhaus.core.errors import Error, Internal, LimitExceeded, UserError
from keyhaus.core.request import NEED_DATA, REQUESTS_AT_ONCE, NeedData, Refused, Request
from keyhaus.protocol.frame.pickles import read_pickle, read_usual
from keyhaus.protocol.frame.plain_data import BadPayload
from keyhaus.protocol.frame.requests import SHAPES, BadRequest, Shape, parse, parse_usual, plain, told_code

log = logging.getLogger("keyhaus.connection")

LENGTH_BYTES: Final = 4
_MESSAGE_PACK: Final = frozenset((*range(0x81, 0x90), 0xDE, 0xDF))
_PICKLE_PROTOCOL: Final = 4


class Mark(NamedTuple):
    """What a reply is made with: its shape, whether it is MessagePack, and whether it is wrapped."""

    shape: Shape
    packed: bool
    wrapped: bool


# By whether it is wrapped, whether it is MessagePack, and its shape: there are but few.
_MARKS: Final = {
    wrapped: {packed: {shape: Mark(shape, packed, wrapped) for shape in SHAPES} for packed in (False, True)}
    for wrapped in (False, True)
}


class FrameCodec:
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
        self.mark = self._last = _MARKS[False][False][plain]
        self._marks: deque[Mark] = deque()
        self._rest = bytearray()
        self._needed = LENGTH_BYTES  # below it there is no whole frame
        self._error: Error | None = None

    # reading

    def feed(self, data: bytes) -> None:
        """Takes what was received."""
        if self._error is None:
            self._rest += data

    def buffered(self) -> int:
        """How many bytes wait for the end of their frame."""
        return len(self._rest)

    def next_request(self) -> Request | NeedData:
        """The next request. Raises LimitExceeded for good."""
        if not self.ready and self._error is None and len(self._rest) >= self._needed:
            self._cut()
        if self.ready:
            return self.ready.popleft()
        if self._error is not None:
            raise self._error
        return NEED_DATA

    def _cut(self) -> None:
        """Makes requests of the frames that are complete."""
        rest = self._rest
        at, end = 0, len(rest)
        self._needed = LENGTH_BYTES
        while end - at >= LENGTH_BYTES and len(self.ready) < REQUESTS_AT_ONCE:
            size = int.from_bytes(rest[at : at + LENGTH_BYTES], "big")
            if size > self.max_request_bytes:
                self._error = LimitExceeded("max-request-bytes", size, self.max_request_bytes)
                self._rest = bytearray()
                return
            behind = at + LENGTH_BYTES + size
            if behind > end:
                self._needed = LENGTH_BYTES + size
                break
            self._read(bytes(rest[at + LENGTH_BYTES : behind]))
            at = behind
        del rest[:at]

    def _read(self, payload: bytes) -> None:
        packed = bool(payload) and payload[0] in _MESSAGE_PACK
        self._last = _MARKS[False][packed][plain]
        usual = _usual_map(payload) if packed else _usual_pickle(payload)
        if usual is not None:
            self.ready.append(usual[0])
            self._marks.append(usual[1])
            return
        shape: Shape = plain
        wrapped = False
        try:
            given = _decoded(payload) if packed else read_pickle(payload)
            if type(given) is not dict:
                raise BadRequest('a request is a dict, such as {"cmd": "GET", "key": …}')
            wrapped = given.get("wrapped") is True
            request, shape = parse(given)
        except Error as error:
            request = Refused(error)
        self.ready.append(request)
        self._marks.append(_MARKS[wrapped][packed][shape])

    # writing

    def encode(self, reply: Any) -> bytes:
        """The frame of a reply; one that is too large becomes the error that says so."""
        self.mark = self._marks.popleft() if self._marks else self._last
        return self.encode_late(reply, self.mark)

    def skip(self) -> None:
        """A reply is not sent."""
        if self._marks:
            self._marks.popleft()

    def encode_late(self, reply: Any, mark: Mark) -> bytes:
        """The same for a reply that takes the place of an earlier one, whose `mark` it was."""
        if not mark.wrapped and reply.__class__ is str and reply in _SENTENCES:
            return _SENTENCES[reply][mark.packed]
        try:
            payload = _payload(reply, mark)
        except Error as error:
            payload = _payload(error, mark)
        except Exception:
            log.exception("a reply could not be told")
            payload = _payload(Internal(), mark)
        if len(payload) > self.max_reply_bytes:
            payload = _payload(LimitExceeded("max-reply-bytes", len(payload), self.max_reply_bytes), mark)
        return _frame(payload)


class _Usual(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What most requests in MessagePack are: read without a dict."""

    cmd: str
    key: str
    value: str | msgspec.UnsetType = msgspec.UNSET
    wrapped: bool = False


def _usual_map(payload: bytes) -> tuple[Request, Mark] | None:
    try:
        given = _read_usual_map(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    value = None if given.value is msgspec.UNSET else given.value
    usual = parse_usual(given.cmd, given.key, value)
    return None if usual is None else (usual[0], _MARKS[given.wrapped][True][usual[1]])


def _usual_pickle(payload: bytes) -> tuple[Request, Mark] | None:
    words = read_usual(payload)
    if words is None:
        return None
    command, key, value = words
    try:
        usual = parse_usual(command.decode(), key.decode(), None if value is None else value.decode())
    except UnicodeDecodeError:
        return None
    return None if usual is None else (usual[0], _MARKS[False][False][usual[1]])


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def _decoded(payload: bytes) -> Any:
    try:
        return objects.decode(payload)
    except LimitExceeded:
        raise
    except UserError as error:
        raise BadPayload(error.raw) from None


def _payload(reply: Any, mark: Mark) -> bytes:
    """Raises Error where the reply says that the request has failed."""
    failed = isinstance(reply, Error)
    answer: Any = _failure(reply, mark) if failed else mark.shape(reply)
    wraps = mark.wrapped and not failed
    if not mark.packed:
        return _pickled({"result": answer} if wraps else answer)
    payload = _encode_text(answer) if answer.__class__ is str else objects.encode(answer)
    return _WRAPPED + payload if wraps else payload  # by hand, since a value may be nested as deeply as values may be


def _pickled(answer: Any) -> bytes:
    return pickle.dumps(answer, _PICKLE_PROTOCOL)


_read_usual_map: Final = msgspec.msgpack.Decoder(_Usual).decode

_encode_text: Final = msgspec.msgpack.Encoder().encode
_WRAPPED: Final = b"\x81" + objects.encode("result")  # a map of one pair, the first half of it
# What is said most often, as a pickle and as MessagePack.
_SENTENCES: Final = {word: (_frame(_pickled(word)), _frame(objects.encode(word))) for word in ("OK",)}


def _failure(error: Error, mark: Mark) -> dict[str, str]:
    code = told_code(error)
    return {"error": code, "message": error.message} if mark.wrapped else {"error": code}
