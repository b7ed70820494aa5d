"""What became of transactions (T9): who lost the reply to a COMMIT asks, and is told the truth.

An id is 16 bytes: the milliseconds since 1970 of its begin (48 bits), and 80 bits that nobody can guess (the form of a
ULID). As text it is `tx-` and 26 letters and digits.

An id that wrote stands in its commit's frame, and goes into the base as a row of its own with the next run: so it is
known again after a restart. The others are kept in memory only: after a restart such an id is `unknown`, which promises
the same as `rolledback`: no write of it can ever appear. Once its begin lies further back than is kept, an id is
forgotten. Of those the newest begin is kept, also in the base: an id that isn't younger is `expired`, never `unknown`.
"""

from __future__ import annotations

from typing import Final

from keyhaus.core.limits import OUTCOMES_MAX
from keyhaus.store.layout import ID_BYTES

PREFIX: Final = "tx-"
NO_ID: Final = "this is no transaction id: expected tx- and 26 letters and digits, as BEGIN gave it"
ROLLED_BACK: Final = -1  # beside seqnos, of which 0 is that of a store without any commit
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_PAIRS: Final = [one + other for one in _ALPHABET for other in _ALPHABET]
_VALUES: Final = {letter: value for value, letter in enumerate(_ALPHABET)}
_LETTERS: Final = 26
_SHIFTS: Final = range(5 * (_LETTERS - 2), -1, -10)


def make_id(unix_ms: int, unguessable: bytes) -> bytes:
    """An id; `unguessable` has 10 bytes."""
    return unix_ms.to_bytes(6, "big") + unguessable


def begun_ms(number: bytes) -> int:
    """When a transaction was begun, in milliseconds since 1970."""
    return int.from_bytes(number[:6], "big")


def shown_id(number: bytes) -> str:
    """An id as clients see it."""
    value = int.from_bytes(number, "big")
    return PREFIX + "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])


def read_id(word: bytes) -> bytes | None:
    """The id that a word names; None where it has another form."""
    if len(word) != len(PREFIX) + _LETTERS or not word.startswith(PREFIX.encode()):
        return None
    value = 0
    for letter in word[len(PREFIX) :].decode("latin-1"):
        digit = _VALUES.get(letter)
        if digit is None:
            return None
        value = value << 5 | digit
    return value.to_bytes(ID_BYTES, "big") if value < 1 << 8 * ID_BYTES else None


class Outcomes:
    """The ends of transactions, by id.

    Attributes:
        forgotten_ms: The newest begin of all that were forgotten.
    """

    def __init__(self) -> None:
        self.forgotten_ms = 0
        self._ends: dict[bytes, int] = {}  # the commit's seqno, or ROLLED_BACK; in the order of the ends
        self._fresh: dict[bytes, int] = {}  # commits that are in no run yet
        self._gone: list[bytes] = []  # rows that the next run deletes
        self._based: set[bytes] = set()  # ids that have a row in the base, or in a run under way

    def __len__(self) -> int:
        return len(self._ends)

    def load(self, rows: list[tuple[bytes, int]], forgotten_ms: int) -> None:
        """What the base has."""
        self.forgotten_ms = forgotten_ms
        rows.sort(key=lambda row: row[1])
        self._ends.update(rows)
        self._based.update(number for number, _ in rows)

    def committed(self, number: bytes, seqno: int) -> None:
        """A commit with writes."""
        self._ends[number] = self._fresh[number] = seqno
        if len(self._ends) > OUTCOMES_MAX:
            self._forget_first()

    def ended(self, number: bytes, seqno: int = ROLLED_BACK) -> None:
        """An end that no journal has: without writes, or rolled back."""
        self._ends[number] = seqno
        if len(self._ends) > OUTCOMES_MAX:
            self._forget_first()

    def forget(self, before_ms: int) -> None:
        """Forgets what began before then, as far as it comes first."""
        while self._ends and begun_ms(next(iter(self._ends))) < before_ms:
            self._forget_first()

    def _forget_first(self) -> None:
        number = next(iter(self._ends))
        del self._ends[number]
        self._fresh.pop(number, None)
        self.forgotten_ms = max(self.forgotten_ms, begun_ms(number))
        if number in self._based:
            self._based.discard(number)
            self._gone.append(number)

    def of(self, number: bytes) -> int | str:
        """The seqno of its commit, or `rolledback`, `unknown`, `expired`."""
        end = self._ends.get(number)
        if end is not None:
            return "rolledback" if end == ROLLED_BACK else end
        return "expired" if begun_ms(number) <= self.forgotten_ms else "unknown"

    def take(self) -> list[tuple[bytes, int | None]]:
        """What the next run has to write: ids with their seqno, and those to be deleted (None)."""
        fresh, self._fresh = self._fresh, {}
        gone, self._gone = self._gone, []
        self._based.update(fresh)
        return [*((number, None) for number in gone), *fresh.items()]
