# Made from aio/asking.py by tools/generate_client.py: change it there, then run make client.
"""What all methods stand on: a request's words go out, its reply comes back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from keyhaus.core.access.words import Word, encode


class Asking(ABC):
    """What has commands.

    Keys and values are bytes; what is given as `str` becomes its UTF-8, numbers become their text. All methods raise
    `keyhaus.Error`, and TypeError for what is no key, value or argument.
    """

    @abstractmethod
    def _ask(self, args: list[bytes]) -> Any:
        """The reply to a command. Raises Error."""

    def execute(self, *words: Word) -> Any:
        """Runs any command of the table: `execute("SET", "key", "value", "EX", 60)`.

        Returns:
            What the command replies: bytes (for a status such as `b"OK"`, too), numbers, True or False, None, lists and
            dicts of those.

        Raises:
            Error: What the command replies, if that is an error.
        """
        return self._ask([encode(word) for word in words])
