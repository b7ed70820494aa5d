"""What the dialects of lines share, without I/O: one line in, one line of JSON out, in the order of the lines.

Invariants: every line that is not empty has one reply. A line that makes no sense has an error for it, and the next one
is read all the same; only a line without an end, or HTTP, ends the stream. Time is linear in the bytes however they are
dribbled, memory bounded by `max-request-bytes`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

import msgspec

from keyhaus.core import limits
from keyhaus.core.budget import too_deep
from keyhaus.core.errors import Error, Internal, LimitExceeded, ProtocolError
from keyhaus.core.request import NEED_DATA, REQUESTS_AT_ONCE, NeedData, Refused, Request
from keyhaus.protocol.inline import is_http
from keyhaus.protocol.json_replies import to_json

log = logging.getLogger("keyhaus.connection")

Mark = TypeVar("Mark")
_TLS: Final = 0x16  # the first byte of each of its records


class LineCodec(ABC, Generic[Mark]):
    """One connection's codec.

    Attributes:
        ready: Requests that are parsed already; `next_request` gives them first.
        mark: How the last reply was made, for `encode_late`.
    """

    version = 2
    no_mark: Mark
    """What a reply is made with that answers no line: an error of the stream."""

    def __init__(self, *, max_request_bytes: int = limits.REQUEST_BYTES_MAX) -> None:
        self.max_request_bytes = self.max_bulk_bytes = max_request_bytes
        self.max_reply_bytes = limits.REPLY_BYTES_MAX
        self.ready: deque[Request] = deque()
        self.mark: Mark = self.no_mark
        self._marks: deque[Mark] = deque()
        self._rest = bytearray()
        self._searched = 0  # up to where no line feed was found
        self._lines: Iterator[bytes] = iter(())  # whole ones,
        self._some_left = False  # of which there may be some left
        self._begun = False
        self._error: Error | None = None

    @abstractmethod
    def parse(self, line: bytes) -> tuple[Request, Mark]:
        """The request of a line, `Refused` where it makes none, and what its reply is made with."""

    @abstractmethod
    def answer(self, reply: Any, mark: Mark) -> dict[str, Any] | bytes:
        """The object of a reply, or its whole line. Raises Error where the reply says that the request has failed."""

    # reading

    def feed(self, data: bytes) -> None:
        """Takes what was received."""
        if self._error is None:
            self._rest += data

    def buffered(self) -> int:
        """How many bytes wait for the end of their line; lines that wait to be parsed count as one."""
        return len(self._rest) + self._some_left

    def end_line(self) -> None:
        """What waits is a whole line: its client ends none."""
        if self._rest:
            self._rest += b"\n"

    def next_request(self) -> Request | NeedData:
        """The next request. Raises ProtocolError, LimitExceeded for good."""
        if self.ready:
            return self.ready.popleft()
        if self._error is not None:
            raise self._error
        if self._cut_some() or (self._cut() and self._cut_some()):
            return self.ready.popleft()
        if len(self._rest) > self.max_request_bytes:
            self._fail(LimitExceeded("max-request-bytes", len(self._rest), self.max_request_bytes))
        if self._error is not None:
            raise self._error
        return NEED_DATA

    def _cut(self) -> bool:
        """Cuts off the lines that are complete; whether there are any."""
        if not self._begun and self._rest:
            self._begun = True
            if self._rest[0] == _TLS:  # some of it is its client's to choose, and might look like lines
                self._fail(ProtocolError("this is TLS; the connection is closed"))
        end = self._rest.rfind(b"\n", self._searched)
        self._searched = len(self._rest)
        if end < 0:
            return False
        self._lines = iter(bytes(self._rest[:end]).split(b"\n"))
        del self._rest[: end + 1]
        self._searched = len(self._rest)
        self._some_left = True
        return True

    def _cut_some(self) -> bool:
        """Makes requests of the next few lines, so that thousands of small ones don't become objects at once; whether
        there are any."""
        ready = self.ready
        most, parse, add, mark_next = self.max_request_bytes, self.parse, ready.append, self._marks.append
        for line in self._lines:
            if line[-1:] == b"\r":
                line = line[:-1]
            if line[:1] != b"{":  # which begins neither HTTP nor a blank line
                if not line or line.isspace():
                    continue
                if (b"/1." in line or line[0] in b"hH") and is_http(line):
                    self._fail(ProtocolError("this is HTTP; the connection is closed"))
                    break
            if len(line) > most:
                add(Refused(LimitExceeded("max-request-bytes", len(line), most)))
                mark_next(self.no_mark)
                continue
            try:
                request, mark = parse(line)
            except RecursionError:
                request, mark = Refused(too_deep()), self.no_mark
            add(request)
            mark_next(mark)
            if len(ready) == REQUESTS_AT_ONCE:
                break
        else:
            self._some_left = False
        return bool(ready)

    def _fail(self, error: Error) -> None:
        self._error = error
        self._rest = bytearray()
        self._lines = iter(())
        self._some_left = False

    # writing

    def encode(self, reply: Any) -> bytes:
        """The line of a reply; one that is too large becomes the error that says so."""
        self.mark = self._marks.popleft() if self._marks else self.no_mark
        return self.encode_late(reply, self.mark)

    def skip(self) -> None:
        """A reply is not sent."""
        if self._marks:
            self._marks.popleft()

    def encode_late(self, reply: Any, mark: Mark) -> bytes:
        """The same for a reply that takes the place of an earlier one, whose `mark` it was."""
        try:
            line = self._line(reply, mark)
        except Error as error:
            line = self._line(error, mark)
        except Exception:
            log.exception("a reply could not be told")
            line = self._line(Internal(), mark)
        if len(line) > self.max_reply_bytes:
            line = self._line(LimitExceeded("max-reply-bytes", len(line), self.max_reply_bytes), mark)
        return line

    def _line(self, reply: Any, mark: Mark) -> bytes:
        answer = self.answer(reply, mark)
        return answer if isinstance(answer, bytes) else line_of(answer)


def line_of(answer: dict[str, Any]) -> bytes:
    """The line of an answer."""
    return to_json(answer) + b"\n"


def read_json(text: bytes) -> Any:
    """What JSON says. Raises ValueError where it is broken, or nested too deeply to be read."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None


_decode: Final = msgspec.json.Decoder().decode
