"""What the tests of the helper's process call in it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from typing import Any

from keyhaus.core.errors import Closed, Corruption, StorageError


class Target:
    """An object with methods that answer, fail, take long, or end the process."""

    def __init__(self, *args: Any) -> None:
        self.args = list(args)
        self.calls: list[int] = []

    def made_with(self) -> list[Any]:
        return self.args

    def echo(self, value: Any) -> Any:
        return value

    def count(self, number: int) -> list[int]:
        self.calls.append(number)
        return self.calls[-3:]

    def sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    def sleep_on(self, seconds: float) -> str:
        """Under another name: what was answered before is sent first."""
        return self.sleep(seconds)

    def zeros(self, count: int) -> bytes:
        return bytes(count)

    def nothing(self) -> None:
        return None

    def unpackable(self) -> Any:
        return object()

    def process(self) -> list[Any]:
        with open("/proc/self/comm") as file:  # noqa: PTH123
            return [os.getpid(), os.nice(0), file.read().strip(), sys.path[0]]

    def end(self) -> None:
        os._exit(3)

    def fail(self, kind: str) -> None:
        match kind:
            case "corruption":
                raise Corruption("bad sum", "/data/000007.sst", 4711)
            case "full":
                raise OSError(errno.ENOSPC, "no space left", "/data/x")
            case "missing":
                raise FileNotFoundError(errno.ENOENT, "no such file", "/data/y")
            case "key":
                raise KeyError(17)
            case "value":
                raise ValueError("keys must ascend")
            case "storage":
                raise StorageError("in use")
            case "closed":
                raise Closed("closed")
            case "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)
            case _:
                raise ZeroDivisionError("by zero")


def broken(*args: Any) -> Any:
    raise Corruption("can't be opened", "/data/MANIFEST", 3)
