"""What a check finds: which file, where in it, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from keyhaus.core.errors import Corruption

Progress = Callable[[str, int, int], None]

DAMAGE: Final = "damage"
NOTE: Final = "note"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was found.

    Attributes:
        file: Relative to the directory that was checked.
        offset: Where in the file; None where that can't be said.
        problem: What is wrong.
        kind: `damage`, or `note` for what is only worth knowing.
    """

    file: str
    offset: int | None
    problem: str
    kind: str = DAMAGE

    @classmethod
    def of(cls, error: Corruption, directory: str = "") -> Finding:
        """What a Corruption says."""
        message = error.message.removeprefix(f"{error.file} at offset {error.offset}: ")
        return cls(directory + error.file, error.offset, message)


def silent(what: str, done: int, total: int) -> None:
    """No progress is shown."""
