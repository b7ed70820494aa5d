"""RESP 2 and 3, without I/O: bytes in, requests out; replies in, bytes out.

    request  = "*" count CRLF (length-line argument CRLF){count}        ; count <= 0 is skipped
             | inline                                                   ; only where inline commands are allowed
    length-line = "$" length CRLF

Invariants: `next_request` returns requests in the order of their bytes, NEED_DATA, or raises the one `ProtocolError`,
after which nothing more is parsed. Time is linear in the bytes however they are dribbled: what was searched is not
searched again. Memory is bounded by `max-request-bytes` and the limits on lines and arguments.

A read usually holds whole requests, with short arguments. Those are cut out by one `split` and checked against their
length lines (`_read_whole`). Everything else (a request that is not complete, an argument with CRLF in it, anything
odd) goes through the exact reader (`_read_exactly`), which keeps its place between two feeds. Once that has finished a
request that a read had cut in two, what the next read brought behind it is cut out by one `split` again.

Written after the protocol's public specification; error texts are those of redis-server 7.0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from keyhaus.core import limits
from keyhaus.core.errors import Error, LimitExceeded, ProtocolError
from keyhaus.core.reply import Attributed, BigNumber, NullArray, Push, SetReply, Verbatim
from keyhaus.core.request import NEED_DATA, NeedData, Request
from keyhaus.protocol.inline import is_http, split_words

_WHOLE_BYTES_MAX: Final = 256 * 1024  # one read; less than the least that the limits on requests can be set to
_COUNTS: Final = {b"*%d" % count: count for count in range(1, 65)}
_LENGTHS: Final = [b"$%d" % length for length in range(4096)]
_length_line: Final = _LENGTHS.__getitem__
_LINE_BYTES_MAX: Final = limits.INLINE_BYTES_MAX
_EMPTY_LINES: Final = (b"\r", b"")  # redis-cli --pipe sends one; they are no commands, so they are spoken everywhere
_INTEGER_MIN: Final = -(1 << 63)


class RespCodec:
    """One connection's codec.

    Attributes:
        version: 2 or 3; what `encode` speaks.
        ready: Requests that are parsed already; `next_request` gives them first, and so may who is in a hurry.
        mark: What `encode_late` has to know of the last reply: nothing, all are made alike.
    """

    def __init__(
        self,
        *,
        inline: bool = True,
        max_bulk_bytes: int = limits.BULK_BYTES_MAX,
        max_request_bytes: int = limits.REQUEST_BYTES_MAX,
        max_reply_bytes: int = limits.REPLY_BYTES_MAX,
    ) -> None:
        self.version = 2
        self.mark = None
        self.max_bulk_bytes = max_bulk_bytes
        self.max_request_bytes = max_request_bytes
        self.max_reply_bytes = max_reply_bytes
        self._inline = inline
        self.ready: deque[Request] = deque()
        self._fed = b""  # what the whole reader has not looked at yet; only while nothing is pending
        self._rest = bytearray()  # what the exact reader works on, from `_at` on
        self._unsplit = 0  # of these, how many bytes the whole reader has never looked at
        self._at = 0
        self._searched = 0  # up to where no CR was found
        self._arguments: Request | None = None
        self._missing = 0  # arguments that are to come
        self._bulk = -1  # the length of the argument that is to come; -1 where its length line is
        self._request_bytes = 0
        self._error: Error | None = None

    # reading

    def feed(self, data: bytes) -> None:
        """Takes what was received."""
        if self._error is not None:
            return
        if self._rest:
            self._rest += data
            self._unsplit += len(data)
        elif self._fed:
            self._rest += self._fed + data
            self._fed = b""
            self._unsplit = len(data)
        else:
            self._fed = data

    def buffered(self) -> int:
        """How many bytes wait to be parsed, requests that are complete aside."""
        return len(self._fed) + len(self._rest) - self._at

    def next_request(self) -> Request | NeedData:
        """The next request. Raises ProtocolError (or LimitExceeded for a request that is too large) for good."""
        if self.ready:
            return self.ready.popleft()
        if self._fed:
            fed, self._fed = self._fed, b""
            if len(fed) > _WHOLE_BYTES_MAX or self._arguments is not None:
                self._rest += fed
                self._unsplit = len(fed)
            else:
                self._read_whole(fed)
                if self.ready:
                    return self.ready.popleft()
        if self._error is not None:
            raise self._error
        if len(self._rest) == self._at:
            return NEED_DATA
        try:
            return self._read_exactly()
        except Error as error:
            self._error = error
            self._rest = bytearray()
            self._arguments = None
            self._at = 0
            raise

    def _read_whole(self, data: bytes) -> None:
        """Cuts out the requests that are complete and plain; the exact reader gets what is left."""
        lines = data.split(b"\r\n")
        at, end = 0, len(lines) - 1
        count = _COUNTS.get(lines[0])
        if count is not None and end > 4 * count:
            at = self._read_alike(lines, count, end // (2 * count + 1))
        ready, counts = self.ready, _COUNTS
        while at < end:
            count = counts.get(lines[at])
            if count is None:
                break
            behind = at + 2 * count + 1
            if behind > end:
                break
            arguments = lines[at + 2 : behind : 2]
            try:
                if [*map(_length_line, map(len, arguments))] != lines[at + 1 : behind : 2]:
                    break
            except IndexError:
                break
            ready.append(arguments)
            at = behind
        if at < end or lines[end]:
            self._rest += data[sum(map(len, lines[:at])) + 2 * at :]
            self._unsplit = 0

    def _read_alike(self, lines: list[bytes], count: int, requests: int) -> int:
        """Cuts out a pipeline of requests with `count` words each, column by column; how many lines that took."""
        step = 2 * count + 1
        end = requests * step
        if lines[0:end:step].count(lines[0]) != requests:
            return 0
        columns = []
        for word in range(count):
            column = lines[2 + 2 * word : end : step]
            try:
                if [*map(_length_line, map(len, column))] != lines[1 + 2 * word : end : step]:
                    return 0
            except IndexError:
                return 0
            columns.append(column)
        self.ready.extend(map(list, zip(*columns, strict=True)))
        return end

    def _read_exactly(self) -> Request | NeedData:
        while True:
            if self._arguments is None:
                request = self._begin()
                if request is not None:
                    return request
                if self._arguments is None:
                    continue
            request = self._next_arguments()
            if request is not None:
                return request

    def _begin(self) -> Request | NeedData | None:
        """Reads what a request begins with; None where that is settled and one should go on."""
        rest = self._rest
        if self._at == len(rest):
            self._compact()
            return NEED_DATA
        if rest[self._at] != 0x2A:
            return self._read_inline()
        line = self._line("too big mbulk count string")
        if line is None:
            return NEED_DATA
        count = _number(line[1:])
        if count is None or count > 0x7FFFFFFF:
            raise ProtocolError("Protocol error: invalid multibulk length")
        if count > limits.ARGUMENTS_MAX:
            raise LimitExceeded("max-arguments", count, limits.ARGUMENTS_MAX, "arguments")
        if count > 0:
            self._arguments, self._missing, self._bulk, self._request_bytes = [], count, -1, 0
        return None

    def _next_arguments(self) -> Request | NeedData | None:
        """Reads arguments as far as they are there; the request once it is whole."""
        rest = self._rest
        arguments = self._arguments
        assert arguments is not None
        while self._missing:
            if self._bulk < 0:
                mark = bytes(rest[self._at : self._at + 1])
                line = self._line("too big bulk count string")
                if line is None:
                    return NEED_DATA
                if mark != b"$":
                    raise ProtocolError(b"Protocol error: expected '$', got '%b'" % mark)
                length = _number(line[1:])
                if length is None or not 0 <= length <= self.max_bulk_bytes:
                    raise ProtocolError("Protocol error: invalid bulk length")
                self._request_bytes += length
                if self._request_bytes > self.max_request_bytes:
                    raise LimitExceeded("max-request-bytes", self._request_bytes, self.max_request_bytes)
                self._bulk = length
            # Like Redis, the two bytes behind an argument are passed over, whatever they are.
            end = self._at + self._bulk
            if len(rest) < end + 2:
                self._compact()
                return NEED_DATA
            arguments.append(bytes(rest[self._at : end]))
            self._at = self._searched = end + 2
            self._bulk = -1
            self._missing -= 1
        self._arguments = None
        if 0 < len(rest) - self._at <= min(self._unsplit, _WHOLE_BYTES_MAX):
            # Back to the whole reader; never twice with the same bytes, or time would not be linear.
            self._fed = bytes(rest[self._at :])
            self._rest = bytearray()
            self._at = self._searched = 0
        else:
            self._compact()
        return arguments

    def _line(self, too_long: str) -> bytes | None:
        """The line that begins here, without its end; None where that has not come."""
        rest = self._rest
        found = rest.find(b"\r", max(self._at, self._searched))
        if (found if found >= 0 else len(rest)) - self._at > _LINE_BYTES_MAX:
            raise ProtocolError(f"Protocol error: {too_long}")
        if found < 0:
            self._searched = len(rest)
            self._compact()
            return None
        if found + 2 > len(rest):
            self._searched = found
            return None
        line = bytes(rest[self._at : found])
        self._at = self._searched = found + 2
        return line

    def _read_inline(self) -> Request | NeedData | None:
        rest = self._rest
        found = rest.find(b"\n", max(self._at, self._searched))
        if (found if found >= 0 else len(rest)) - self._at > _LINE_BYTES_MAX:
            raise ProtocolError("Protocol error: too big inline request")
        if found < 0:
            self._searched = len(rest)
            self._compact()
            return NEED_DATA
        line = bytes(rest[self._at : found])
        self._at = self._searched = found + 1
        if is_http(line):
            raise ProtocolError("Protocol error: this is HTTP; the connection is closed")
        if not self._inline and line not in _EMPTY_LINES:
            raise ProtocolError("Protocol error: inline commands are spoken on a resp port only")
        if b"\0" in line:
            # Redis never finds the end of such a line, and waits for it until it is too long.
            raise ProtocolError("Protocol error: NUL byte in inline request")
        words = split_words(line)
        if words is None:
            raise ProtocolError("Protocol error: unbalanced quotes in request")
        self._compact()
        return words or None

    def _compact(self) -> None:
        """Lets go of what was read, once that is most of it."""
        at = self._at
        if at and (at > 65536 or at == len(self._rest)):
            del self._rest[:at]
            self._at = 0
            self._searched = max(0, self._searched - at)

    # writing

    def encode(self, reply: Any) -> bytes:
        """A reply's bytes in the version that is spoken; one that is too large becomes the error that says so."""
        kind = type(reply)
        if kind is bytes and len(reply) <= self.max_reply_bytes:
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        if kind is int:
            return b":%d\r\n" % reply
        if reply is None:
            return b"$-1\r\n" if self.version == 2 else b"_\r\n"
        if kind is str:
            return b"+%b\r\n" % reply.encode()
        out: list[bytes] = []
        try:
            self._encode(reply, out, self.max_reply_bytes)
        except LimitExceeded as error:
            return _encode_error(error)
        return b"".join(out)

    def encode_late(self, reply: Any, mark: Any) -> bytes:
        """A reply in place of an earlier one."""
        return self.encode(reply)

    def skip(self) -> None:
        """A reply is not sent."""

    def _encode(self, reply: Any, out: list[bytes], room: int) -> int:
        """Appends a reply's bytes to `out`; how much room is left. Raises LimitExceeded."""
        kind = type(reply)
        if kind is bytes:
            data = b"$%d\r\n%b\r\n" % (len(reply), reply)
        elif kind is list:
            return self._encode_list(b"*", len(reply), reply, out, room)
        elif kind is int or reply is None or kind is str:
            data = self.encode(reply)
        elif kind in _NESTED:
            return _NESTED[kind](self, reply, out, room)
        elif kind in _PLAIN:
            data = _PLAIN[kind](self, reply)
        elif isinstance(reply, Error):
            data = _encode_error(reply)
        else:
            raise TypeError(f"{kind.__name__} is no reply")
        out.append(data)
        return self._left(room - len(data))

    def _left(self, room: int) -> int:
        if room < 0:
            raise LimitExceeded("max-reply-bytes", self.max_reply_bytes - room, self.max_reply_bytes)
        return room

    def _encode_list(self, mark: bytes, count: int, items: Any, out: list[bytes], room: int) -> int:
        head = b"%b%d\r\n" % (mark, count)
        out.append(head)
        room = self._left(room - len(head))
        for item in items:
            room = self._encode(item, out, room)
        return room

    def _encode_set(self, reply: SetReply, out: list[bytes], room: int) -> int:
        return self._encode_list(b"*" if self.version == 2 else b"~", len(reply), reply, out, room)

    def _encode_push(self, reply: Push, out: list[bytes], room: int) -> int:
        return self._encode_list(b"*" if self.version == 2 else b">", len(reply), reply, out, room)

    def _encode_map(self, reply: dict[Any, Any], out: list[bytes], room: int) -> int:
        items = [part for pair in reply.items() for part in pair]
        if self.version == 2:
            return self._encode_list(b"*", len(items), items, out, room)
        return self._encode_list(b"%", len(reply), items, out, room)

    def _encode_attributed(self, reply: Attributed, out: list[bytes], room: int) -> int:
        if self.version == 3:
            items = [part for pair in reply.attributes.items() for part in pair]
            room = self._encode_list(b"|", len(reply.attributes), items, out, room)
        return self._encode(reply.reply, out, room)

    def _encode_bool(self, reply: bool) -> bytes:
        return b":%d\r\n" % reply if self.version == 2 else b"#t\r\n" if reply else b"#f\r\n"

    def _encode_float(self, reply: float) -> bytes:
        text = b"%d" % reply if reply.is_integer() and abs(reply) < 1e17 else repr(reply).encode()
        return b"$%d\r\n%b\r\n" % (len(text), text) if self.version == 2 else b",%b\r\n" % text

    def _encode_big(self, reply: BigNumber) -> bytes:
        text = b"%d" % reply
        return b"$%d\r\n%b\r\n" % (len(text), text) if self.version == 2 else b"(%b\r\n" % text

    def _encode_verbatim(self, reply: Verbatim) -> bytes:
        if self.version == 2:
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        return b"=%d\r\n%b:%b\r\n" % (len(reply) + 4, reply.format, reply)

    def _encode_null_array(self, reply: NullArray) -> bytes:
        return b"*-1\r\n" if self.version == 2 else b"_\r\n"


_NESTED: Final[dict[type, Callable[[RespCodec, Any, list[bytes], int], int]]] = {
    SetReply: RespCodec._encode_set,
    Push: RespCodec._encode_push,
    dict: RespCodec._encode_map,
    Attributed: RespCodec._encode_attributed,
}
_PLAIN: Final[dict[type, Callable[[RespCodec, Any], bytes]]] = {
    bool: RespCodec._encode_bool,
    float: RespCodec._encode_float,
    BigNumber: RespCodec._encode_big,
    Verbatim: RespCodec._encode_verbatim,
    NullArray: RespCodec._encode_null_array,
}

# The words that Redis' clients know; every other code of core/errors.py goes out as itself.
_WIRE_CODES: Final = {
    "SYNTAX": b"ERR",
    "LIMIT": b"ERR",
    "NOTFOUND": b"ERR",
    "UNKNOWNCOMMAND": b"ERR",
    "PROTOCOL": b"ERR",
}
_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")


def _encode_error(error: Error) -> bytes:
    code = _WIRE_CODES.get(error.code) or error.code.encode()
    return b"-%b %b\r\n" % (code, error.raw.translate(_LINE_ENDS))


def _number(text: bytes) -> int | None:
    """An integer of 64 bits written the one way that it is written: no plus, no blanks, no leading zeros."""
    if len(text) > 20:
        return None
    try:
        number = int(text)
    except ValueError:
        return None
    return number if b"%d" % number == text and number >= _INTEGER_MIN else None
