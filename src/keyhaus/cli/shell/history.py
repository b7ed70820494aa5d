"""The history of what was typed: a file that only its owner can read, without anything that has a password in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from prompt_toolkit.history import FileHistory

from keyhaus.cli.shell.quoting import commands
from keyhaus.core.errors import Error
from keyhaus.protocol.inline import split_words

FILE_BYTES_MAX: Final = 1 << 20  # past it the older half goes
ENTRY_BYTES_MAX: Final = 64 << 10
_SECRET_NAMES: Final = (b"PASS", b"AUTH", b"SECRET", b"KEY-FILE")


def default_path() -> Path:
    """Where the XDG base directories put it: `$XDG_STATE_HOME`, or ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "keyhaus" / "shell-history"


class ShellHistory(FileHistory):
    """A history in a file.

    Raises:
        OSError: The file can't be made, or is somebody else's.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "rb+") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                os.fchmod(file.fileno(), 0o600)
            file.seek(0, os.SEEK_END)
            if file.tell() > FILE_BYTES_MAX:
                file.seek(-FILE_BYTES_MAX // 2, os.SEEK_END)
                kept = file.read().partition(b"\n\n#")
                file.seek(0)
                file.write(b"\n#" + kept[2])
                file.truncate()
        super().__init__(str(path))

    def store_string(self, string: str) -> None:
        data = string.encode("utf-8", "surrogateescape")
        if len(data) <= ENTRY_BYTES_MAX and not has_secret(data):
            super().store_string(data.decode("utf-8", "replace"))


def has_secret(text: bytes) -> bool:
    """Whether any of the commands in what was typed has, or may have, a password in it."""
    try:
        return any(_is_secret(command) for _, command in commands(text.splitlines(keepends=True)))
    except Error:
        return True


def _is_secret(command: bytes) -> bool:
    words = split_words(command)
    if words is None:  # it was refused, but a password may still stand in it
        return any(name in command.upper() for name in (b"AUTH", b"PASS", b"ACL"))
    upper = [word.upper() for word in words]
    if upper[0] in (b"HELLO", b"MIGRATE"):
        return any(word in (b"AUTH", b"AUTH2") for word in upper[1:])
    if upper[:2] == [b"CONFIG", b"SET"]:
        return any(name in word for name in _SECRET_NAMES for word in upper[2::2])
    return upper[0] == b"AUTH" or upper[:2] == [b"ACL", b"SETUSER"]
