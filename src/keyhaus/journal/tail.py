"""The tail: the newest groups in RAM, so that those who follow the end of the journal cost no reads of the disk."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from operator import attrgetter
from typing import Final

from keyhaus.journal.reading import Block, cut

BLOCK_OVERHEAD: Final = 300  # of a block in RAM, beside its payload


class Tail:
    """The payloads of the newest groups, up to a number of bytes.

    Attributes:
        begins_after: The seqno after which it has everything.
    """

    def __init__(self, bytes_max: int, begins_after: int) -> None:
        self.begins_after = begins_after
        self._bytes_max = bytes_max
        self._bytes = 0
        self._blocks: deque[Block] = deque()

    def append(self, first: int, last: int, payload: bytes) -> None:
        """Adds a group's commits, which follow those before; the oldest go where there is no room."""
        self._blocks.append(Block(first, last, payload, 0, len(payload)))
        self._bytes += len(payload) + BLOCK_OVERHEAD
        while self._bytes > self._bytes_max:
            block = self._blocks.popleft()
            self._bytes -= block.end + BLOCK_OVERHEAD
            self.begins_after = block.last

    def steps(self, after: int, newest: int) -> Iterator[Block]:
        """What follows `after`, up to `newest`; to be gone through before anything is added."""
        blocks = self._blocks
        for index in range(bisect_right(blocks, after, key=attrgetter("last")), len(blocks)):
            block = blocks[index]
            if block.first > newest:
                return
            yield cut(block, after, newest)
