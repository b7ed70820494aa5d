"""What became of transactions (T9): who lost the reply to a COMMIT asks, and is told the truth.

An id that wrote stands in its commit's frame, and goes into the base as a row of its own with the next run: so it is
known again after a restart. The others are kept in memory only: after a restart such an id is `unknown`, which promises
the same as `rolledback`: no write of it can ever appear. Once its begin lies further back than is kept, an id is
forgotten. Of those the newest begin is kept, also in the base: an id that isn't younger is `expired`, never `unknown`.
"""

from __future__ import annotations

from typing import Final

from keyhaus.core.ids import begun_ms
from keyhaus.core.limits import OUTCOMES_MAX

ROLLED_BACK: Final = -1  # beside seqnos, of which 0 is that of a store without any commit


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
