"""Hostile pickles: each is refused as unsafe, and nothing of it is ever executed, imported or opened."""

from __future__ import annotations

import builtins
import os
import pathlib
import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import pytest

from keyhaus.core.errors import UserError
from keyhaus.protocol.frame.pickles import BadPayload, UnsafePickle, read_pickle
from tests.support.hostile_pickles import CANARY, Hostile, Reduces, by_hand, by_picklers


class Audit:
    """Whatever Python reports of itself (imports, files, code, processes) while something is read."""

    def __init__(self) -> None:
        self.on = False
        self.noted: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event != "builtins.id":
            self.noted.append(f"{event} {args!r}"[:200])

    def of(self, read: Callable[[bytes], Any], data: bytes) -> Any:
        """What reading gives, or the error that it raises."""
        self.noted.clear()
        self.on = True
        try:
            return read(data)
        except UserError as error:
            return error
        finally:
            self.on = False


AUDIT: Final = Audit()  # a hook can't be taken away again


def _refuse_all(hostile: Iterable[Hostile], directory: pathlib.Path) -> int:
    """How many there are. Fails for one that is not refused, or does anything."""
    modules, names = set(sys.modules), dict(vars(builtins))
    tried = 0
    for name, data in hostile:
        outcome = AUDIT.of(read_pickle, data)
        assert isinstance(outcome, UnsafePickle), f"{name}: {outcome!r} of {data!r}"
        assert AUDIT.noted == [], name
        tried += 1
    assert set(sys.modules) == modules
    assert dict(vars(builtins)) == names
    assert list(directory.iterdir()) == []
    return tried


def test_what_is_written_by_hand_does_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tried = _refuse_all(by_hand(), tmp_path)
    print(f"{tried} hostile pickles written by hand, 0 executed")
    assert tried > 10_000


def test_what_picklers_write_of_code_and_objects_does_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tried = _refuse_all(list(by_picklers()), tmp_path)  # to write them imports
    print(f"{tried} hostile pickles of the library's picklers, 0 executed")
    assert tried > 2000


def test_the_audit_would_notice(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what the library's own reader does with one of them is seen."""
    monkeypatch.chdir(tmp_path)
    AUDIT.of(pickle.loads, pickle.dumps(Reduces(os.system, (f"touch {CANARY}",))))
    assert any(noted.startswith("pickle.find_class") for noted in AUDIT.noted)
    assert any(noted.startswith("os.system") for noted in AUDIT.noted)
    assert (tmp_path / CANARY).exists()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"cos\nsystem\n\x00", UnsafePickle),
        (b"cos\nsystem\n", UnsafePickle),
        (b"c\xff\n\xfe\n", UnsafePickle),
        (b"i", UnsafePickle),
        (b"\x82", UnsafePickle),
        (b"]b", UnsafePickle),
        (b"K\x01K\x02\x93\x00", UnsafePickle),
        (b"\x00cos\nsystem\n.", BadPayload),
        (b"cos\nsystem", BadPayload),
        (b"N.cos\nsystem\n.", BadPayload),
        (b"\x93", BadPayload),
        (b"R", BadPayload),
        (b"K\x01R", BadPayload),
    ],
)
def test_the_first_thing_that_is_wrong_decides(data: bytes, kind: type[UserError]) -> None:
    assert type(AUDIT.of(read_pickle, data)) is kind


def test_the_error_says_what_was_refused() -> None:
    with pytest.raises(UnsafePickle, match=r"names os\.system, and nothing is ever imported"):
        read_pickle(b"cos\nsystem\n.")
    with pytest.raises(UnsafePickle, match="opcode BUILD"):
        read_pickle(b"]}b.")
    with pytest.raises(UnsafePickle, match="calls set with something else"):
        read_pickle(b"cbuiltins\nset\nVabc\n\x85R.")
    with pytest.raises(UnsafePickle, match="holds the function set"):
        read_pickle(b"](cbuiltins\nset\ne.")
