"""What a connection is in the middle of, told from its requests and their replies alone: the shell's prompt says it.

| after | state |
|---|---|
| BEGIN | a transaction is current; the one before it stays open by its id |
| COMMIT, ROLLBACK | none is current; a DISKFULL leaves it open |
| an error that ends transactions, `NOTX` | the current one has ended, and nothing runs before the client takes note |
| MULTI … EXEC, DISCARD | commands are queued; a SELECT among them counts once EXEC has run it |
| RESET, a lost connection | nothing |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from keyhaus.client.words import READS
from keyhaus.core import errors
from keyhaus.core.errors import Error, UnknownTransaction

_ENDING: Final = frozenset(
    kind.code
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Error) and kind.ends_transaction
) | {UnknownTransaction.code}
_SHORT_ID: Final = 6  # letters; an id begins with the time, so its end is what tells it from others
# What leaves nothing behind once its connection is gone, or is told of in another way.
_HARMLESS: Final = READS | {
    *("AUTH", "BEGIN", "CHANGES", "COMMAND", "COMMIT", "DISCARD", "ECHO", "HELLO", "INFO", "LOCK", "MULTI", "PING"),
    *("RESET", "ROLLBACK", "SELECT", "TIME", "TRANSACTION LIST", "TRANSACTION STATUS", "TX", "UNWATCH", "WATCH"),
}


@dataclass
class State:
    """One connection's.

    Attributes:
        database: The one that is selected.
        open: The modes of the transactions that are open, by their ids.
        current: The id of the current one; empty for none.
        ended: The id of the current one that has ended by itself, until the client takes note of it; else empty.
        multi: Whether MULTI has begun.
        watching: Whether keys are watched.
    """

    database: int = 0
    open: dict[str, str] = field(default_factory=dict)
    current: str = ""
    ended: str = ""
    multi: bool = False
    watching: bool = False
    _queued_database: int | None = None

    def label(self) -> str:
        """What the prompt says of it, such as `(tx optimistic f35wt1)`; empty for nothing."""
        if self.ended:
            return "(tx ended)"
        if self.current:
            return f"(tx {self.open.get(self.current, '?')} {self.current[-_SHORT_ID:]})"
        return "(multi)" if self.multi else ""

    def saw(self, words: Sequence[bytes], reply: Any) -> None:
        """Takes note of a request that was answered."""
        name = _name(words)
        if isinstance(reply, Error):
            self._failed(name, words, reply)
        elif reply == "QUEUED" and self.multi:
            if name == "SELECT":
                self._queued_database = _number(words)
        elif name in _TRANSITIONS:
            _TRANSITIONS[name](self, words, reply)

    def lost(self, words: Sequence[bytes] | None) -> list[str]:
        """Forgets everything, since the connection is gone; what that means, sentence by sentence.

        Args:
            words: The request that was under way; None for none.
        """
        name = _name(words) if words else ""
        told: list[str] = []
        committing = (_named(words) or self.current) if words and name == "COMMIT" else ""
        for transaction, mode in self.open.items():
            if transaction == committing:
                told.append(f"whether {transaction} is committed the server can say: TRANSACTION STATUS {transaction}")
            else:
                told.append(f"the {mode} transaction {transaction} was open and is rolled back")
        if self.multi and name == "EXEC":
            told.append("EXEC may have run, all of it, or not at all")
        elif self.multi:
            told.append("what was queued since MULTI is discarded")
        elif words and not (self.current or self.ended) and name not in _HARMLESS:
            told.append(f"{name} may have been executed, once, or not at all")
        if self.watching and name != "EXEC":
            told.append("what was watched is watched no more")
        database = self.database
        self._clear()
        self.database = database  # it is selected again
        return told

    def _failed(self, name: str, words: Sequence[bytes], error: Error) -> None:
        if name == "EXEC":
            if error.code != Error.code:  # else it was not understood, and MULTI goes on
                self.multi = self.watching = False
        elif error.code not in _ENDING:
            return
        elif name in ("COMMIT", "ROLLBACK"):
            self._close(_named(words) or self.current or self.ended)
        elif name == "TX":
            number = words[1].decode("latin-1") if len(words) > 1 else ""
            if number == self.current:
                self._end_current()
            else:
                self.open.pop(number, None)
        elif self.current and not name.startswith(("BEGIN", "TRANSACTION")):
            self._end_current()

    def _end_current(self) -> None:
        self.open.pop(self.current, None)
        self.current, self.ended = "", self.current

    def _close(self, number: str) -> None:
        """A transaction is over, and the client knows it."""
        self.open.pop(number, None)
        if number in (self.current, self.ended):
            self.current = self.ended = ""

    def _begun(self, words: Sequence[bytes], reply: Any) -> None:
        if not isinstance(reply, bytes):
            return
        mode = words[1].decode("latin-1").lower() if len(words) > 1 else "pessimistic"
        self.current = reply.decode("latin-1")
        self.open[self.current] = mode if mode in ("optimistic", "readonly") else "pessimistic"
        self.ended = ""

    def _over(self, words: Sequence[bytes], reply: Any) -> None:
        self._close(_named(words) or self.current)

    def _multi(self, words: Sequence[bytes], reply: Any) -> None:
        self.multi, self._queued_database = True, None

    def _executed(self, words: Sequence[bytes], reply: Any) -> None:
        if self._queued_database is not None and isinstance(reply, list):
            self.database = self._queued_database
        self.multi = self.watching = False
        self._queued_database = None

    def _watched(self, words: Sequence[bytes], reply: Any) -> None:
        self.watching = True

    def _unwatched(self, words: Sequence[bytes], reply: Any) -> None:
        self.watching = False

    def _selected(self, words: Sequence[bytes], reply: Any) -> None:
        number = _number(words)
        if number is not None:
            self.database = number

    def _killed(self, words: Sequence[bytes], reply: Any) -> None:
        number = words[2].decode("latin-1") if len(words) == 3 else ""
        if number and number == self.current:
            self._end_current()
        else:
            self.open.pop(number, None)

    def _reset(self, words: Sequence[bytes], reply: Any) -> None:
        self._clear()

    def _clear(self) -> None:
        self.database, self._queued_database = 0, None
        self.open, self.current, self.ended = {}, "", ""
        self.multi = self.watching = False


_TRANSITIONS: Final = {
    "BEGIN": State._begun,
    "COMMIT": State._over,
    "ROLLBACK": State._over,
    "MULTI": State._multi,
    "EXEC": State._executed,
    "DISCARD": State._executed,
    "WATCH": State._watched,
    "UNWATCH": State._unwatched,
    "SELECT": State._selected,
    "RESET": State._reset,
    "TRANSACTION KILL": State._killed,
}


def _name(words: Sequence[bytes]) -> str:
    name = words[0].decode("latin-1").upper()
    return f"{name} {words[1].decode('latin-1').upper()}" if name == "TRANSACTION" and len(words) > 1 else name


def _number(words: Sequence[bytes]) -> int | None:
    return int(words[1]) if len(words) == 2 and words[1].isdigit() else None


def _named(words: Sequence[bytes]) -> str:
    """The id that a COMMIT or ROLLBACK names; empty for none."""
    named = [word for word in words[1:] if word.upper() != b"WITHSEQNO"]
    return named[0].decode("latin-1") if named else ""
