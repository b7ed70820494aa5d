"""What rocksdict raises, as our own errors: it has one class, and the text of RocksDB's status."""

from __future__ import annotations

import errno
import os
import re
from typing import Final

from rocksdict import DbClosedError

from keyhaus.core.errors import Closed, Corruption, StorageError

_ERRNO: Final = {os.strerror(number): number for number in errno.errorcode}
_PLACE: Final = re.compile(r" in (/.+) offset (\d+)")
# Where a file is damaged the text ends with the manifest, as the one to blame: the first file is the one that is meant.
_FILES: Final = (re.compile(r"/[^:\n]*?\d{6,}\.(?:sst|log)"), re.compile(r"/[^:\n]*?(?:MANIFEST|OPTIONS)-\d+"))


def translated(error: Exception, where: str) -> Exception:
    """The error to raise instead of what rocksdict raised; `where` is the file to name if the text names none.

    It lets go of the frames in which the error arose: an iterator among their variables would hold the database open.
    """
    error.__traceback__ = None
    text = " ".join(str(error).split())
    if isinstance(error, DbClosedError):
        return Closed("the engine is closed")
    if text.startswith("Corruption"):
        place = _PLACE.search(text)
        if place:
            return Corruption(text, place[1], int(place[2]))
        file = next(filter(None, (pattern.search(text) for pattern in _FILES)), None)
        return Corruption(text, file[0] if file else where, 0)
    if text.startswith("IO error"):
        return OSError(_number(text), text, where)
    return StorageError(f"{where}: {text}")


def _number(text: str) -> int:
    # "IO error: No space left on device: While appending to file: /…/000012.sst: No space left on device"
    for part in reversed(text.split(": ")):
        if part in _ERRNO:
            return _ERRNO[part]
    return errno.EIO
