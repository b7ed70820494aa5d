"""SCAN's cursors: 64-bit handles to the keys at which iterations go on.

A handle says nothing of the key and stays good when it is used twice, so a client whose reply was lost can ask again.
The table is bounded in entries and in bytes: the handle that was not used for longest goes first, and whoever comes
back with it is told so. It is never answered by an early end, which would look like a whole iteration.
"""

from __future__ import annotations

from collections import OrderedDict
from random import Random, SystemRandom

from keyhaus.core import limits

HANDLE_BITS = 63  # some clients read a cursor as a signed integer


class Cursors:
    """The cursors that are known.

    Args:
        generator: Where the handles come from; the operating system if it is None.

    Attributes:
        bytes_held: How many bytes the keys in the table have.
    """

    def __init__(self, generator: Random | None = None) -> None:
        self._random = generator or SystemRandom()
        self._keys: OrderedDict[int, bytes] = OrderedDict()
        self.bytes_held = 0

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, resume_key: bytes) -> int:
        """A handle, never 0, to the key at which an iteration goes on."""
        handle = self._random.getrandbits(HANDLE_BITS)
        while handle == 0 or handle in self._keys:
            handle = self._random.getrandbits(HANDLE_BITS)
        self._keys[handle] = resume_key
        self.bytes_held += len(resume_key)
        # The newest stays whatever its size: its client was not even told of it yet.
        while len(self._keys) > 1 and (
            len(self._keys) > limits.CURSORS_MAX or self.bytes_held > limits.CURSOR_BYTES_MAX
        ):
            _, oldest = self._keys.popitem(last=False)
            self.bytes_held -= len(oldest)
        return handle

    def get(self, handle: int) -> bytes | None:
        """The key behind a handle; None where it is not, or no longer, known."""
        key = self._keys.get(handle)
        if key is not None:
            self._keys.move_to_end(handle)
        return key
