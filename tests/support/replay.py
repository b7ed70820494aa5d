"""What a disk may hold after a power cut, made from the system calls of a real server and its helper processes.

`strace -f -y -xx` has every write with its data. Of what a process did before the cut, only this is sure to be there:
the pages of a file that were written before a sync of it began which has returned, and the names in a directory that
were made, changed or taken away before a sync of that directory began which has returned. Of the rest any page may be
there, and of a directory's later changes any beginning.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

PAGE: Final = 4096
CALLS: Final = (
    "openat,open,creat,write,pwrite64,writev,pwritev,sendto,sendmsg,fsync,fdatasync,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,mkdir,mkdirat,ftruncate,fallocate"
)
_LINE: Final = re.compile(r"^(\d+) +(\w+)\((.*)$")
_RESUMED: Final = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_RESULT: Final = re.compile(r"\) += (-?\d+)")
_FD: Final = re.compile(r"^-?\d+<([^>]*)>")
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Inode:
    """A file: what the cache holds, what the disk holds, and which pages differ."""

    def __init__(self) -> None:
        self.cache = bytearray()
        self.disk = bytearray()
        self.dirty: set[int] = set()
        self.resized = False
        self.end = 0  # where `write` goes on

    def put(self, data: bytes, offset: int) -> None:
        if offset + len(data) > len(self.cache):
            self.resize(offset + len(data))
        self.cache[offset : offset + len(data)] = data
        if data:
            self.dirty.update(range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1))

    def resize(self, size: int) -> None:
        if size < len(self.cache):
            del self.cache[size:]
        else:
            self.cache += bytes(size - len(self.cache))
        self.resized = True

    def sync(self, pages: set[int], size: int) -> None:
        del self.disk[size:]
        self.disk += bytes(max(0, size - len(self.disk)))
        for page in pages:
            begin, end = page * PAGE, min((page + 1) * PAGE, len(self.cache), size)
            if begin < end:
                self.disk[begin:end] = self.cache[begin:end]

    def survives(self, choices: random.Random, chance: float) -> bytes:
        """What may be found after a cut."""
        size = len(self.cache) if self.resized and choices.random() < max(chance, 0.2) else len(self.disk)
        found = bytearray(self.disk[:size]) + bytes(max(0, size - len(self.disk)))
        for page in sorted(self.dirty):
            begin, end = page * PAGE, min((page + 1) * PAGE, len(self.cache))
            if begin < end and choices.random() < chance:
                found += bytes(max(0, end - len(found)))
                found[begin:end] = self.cache[begin:end]
        return bytes(found)


class Replay:
    """The calls so far.

    Attributes:
        told: How many times `+OK` has left.
        syncs: How many syncs have returned.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.told = self.syncs = 0
        self._names: dict[str, Inode | None] = {self.root: None}  # None: a directory
        self._durable: dict[str, Inode | None] = {self.root: None}
        self._changes: dict[str, list[tuple[str, Inode | None, bool]]] = {}
        self._begun: dict[str, tuple[str, str, Callable[[], None] | None]] = {}

    def lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.line(line.rstrip("\n"))

    def line(self, text: str) -> None:
        if (resumed := _RESUMED.match(text)) is not None:
            thread, name, rest = resumed.groups()
            if thread in self._begun:
                _, arguments, prepared = self._begun.pop(thread)
                self._returned(name, arguments + rest, prepared)
        elif (call := _LINE.match(text)) is not None:
            thread, name, rest = call.groups()
            prepared = self._sync(rest) if name in ("fsync", "fdatasync") else None
            if rest.endswith("<unfinished ...>"):
                self._begun[thread] = (name, rest.removesuffix("<unfinished ...>"), prepared)
            else:
                self._returned(name, rest, prepared)

    def _returned(self, name: str, rest: str, prepared: Callable[[], None] | None) -> None:
        result = _RESULT.search(rest)
        if result is None or int(result[1]) < 0:
            return
        strings = [bytes.fromhex(found.replace("\\x", "")) for found in _STRING.findall(rest)]
        if name in ("fsync", "fdatasync"):
            assert prepared is not None
            prepared()
            self.syncs += 1
        elif name in ("write", "pwrite64", "writev", "sendto", "sendmsg"):
            self._written(name, rest, b"".join(strings), int(result[1]))
        elif name in ("ftruncate", "fallocate"):
            self._sized(name, rest)
        elif name in ("openat", "open", "creat"):
            if "O_CREAT" in rest:
                self._opened(self._path(strings[0]), "O_TRUNC" in rest)
        elif name.startswith(("rename", "link")):
            old, new = map(self._path, strings[:2])
            if self._within(old) and self._within(new):
                inode = self._names[old]
                if name.startswith("rename"):
                    self._change(old, None, gone=True)
                self._change(new, inode)
        elif name.startswith("unlink"):
            path = self._path(strings[0])
            if path in self._names:
                self._change(path, None, gone=True)
        elif name.startswith("mkdir"):
            self._change(self._path(strings[0]), None)

    def _path(self, name: bytes) -> str:
        return os.path.normpath(Path(self.root).parent / os.fsdecode(name))

    def _within(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + "/")

    def _of(self, rest: str) -> str:
        found = _FD.match(rest)
        text = found[1] if found else ""
        return os.fsdecode(bytes.fromhex(text.replace("\\x", ""))) if text.startswith("\\x") else text

    def _change(self, path: str, inode: Inode | None, *, gone: bool = False) -> None:
        if not self._within(path):
            return
        if gone:
            self._names.pop(path, None)
        else:
            self._names[path] = inode
        self._changes.setdefault(path.rpartition("/")[0], []).append((path, inode, gone))

    def _opened(self, path: str, cut: bool) -> None:
        if not self._within(path):
            return
        if path not in self._names:
            self._change(path, Inode())
        elif cut and (inode := self._names[path]) is not None:
            inode.resize(0)
            inode.end = 0

    def _written(self, name: str, rest: str, data: bytes, count: int) -> None:
        path = self._of(rest)
        if not self._within(path):
            if "socket" in path or "TCP" in path:
                self.told += data.count(b"+OK\r\n")
            return
        inode = self._names.get(path)
        if inode is None:
            return  # a file without a name any more
        assert len(data) >= count, "the trace has not all of the data"
        if name == "pwrite64":
            inode.put(data[:count], int(re.findall(r", (\d+) *\) +=", rest)[-1]))
        else:
            inode.put(data[:count], inode.end)
            inode.end += count

    def _sized(self, name: str, rest: str) -> None:
        inode = self._names.get(self._of(rest))
        if inode is None:
            return
        numbers = re.search(r">, (.*?) *\) += 0", rest)
        assert numbers is not None
        if name == "ftruncate":
            inode.resize(int(numbers[1]))
        else:
            mode, offset, length = numbers[1].split(", ")
            if "KEEP_SIZE" not in mode and int(offset) + int(length) > len(inode.cache):
                inode.resize(int(offset) + int(length))

    def _sync(self, rest: str) -> Callable[[], None]:
        """What a sync that begins now will have proven once it returns."""
        path = self._of(rest)
        inode = self._names.get(path)
        if inode is not None:
            pages, size, file = set(inode.dirty), len(inode.cache), inode

            def synced() -> None:
                file.sync(pages, size)
                file.dirty -= pages
                file.resized = len(file.cache) != size

            return synced
        changes = list(self._changes.get(path, ()))

        def named() -> None:
            self._apply(changes, self._durable)
            left = self._changes.get(path, [])
            del left[: len(changes)]

        return named

    @staticmethod
    def _apply(changes: Iterable[tuple[str, Inode | None, bool]], names: dict[str, Inode | None]) -> None:
        for path, inode, gone in changes:
            if gone:
                names.pop(path, None)
            else:
                names[path] = inode

    def cut(self, choices: random.Random, place: Path) -> None:
        """Makes the directory as a power cut may leave it; `place` stands for the root."""
        chance = choices.choice((0.0, 0.0, 0.2, 0.5, 0.9, 1.0))
        names = dict(self._durable)
        for changes in self._changes.values():
            self._apply(changes[: choices.randint(0, len(changes)) if chance else 0], names)
        contents = {id(inode): inode.survives(choices, chance) for inode in names.values() if inode is not None}
        for path in sorted(names):
            target = place / os.path.relpath(path, self.root)
            if not target.parent.is_dir() and path != self.root:
                continue  # the name of its directory is gone
            if (inode := names[path]) is None:
                target.mkdir(exist_ok=True)
            else:
                target.write_bytes(contents[id(inode)])
