"""What is put through one dialect is read through every other, as each can say it."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

import keyhaus
from keyhaus.core import objects
from tests.support.dialects import FrameClient, JsonClient, TextClient
from tests.support.load import Link
from tests.support.processes import HOST


def as_json(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


JSON_VALUES: Final[list[Any]] = [
    *[
        "text",
        "",
        'é\n"quoted"',
        " blanks ",
        b"\xff\x00",
        5,
        -1.5,
        True,
        None,
        [1, [None, "x"]],
        {"a": {"b": [True]}},
        [],
        {},
    ],
    {"bytes": b"\xff"},
]
ALL_VALUES: Final[list[Any]] = [*JSON_VALUES, (1, (2,)), {1, 2}, frozenset({"a"}), {(1,): 2}, 1 << 80, math.inf]


class Doors:
    """One client of each dialect, to put and to read."""

    def __init__(self, port: int) -> None:
        self.resp, self.text, self.json = Link(port), TextClient(port), JsonClient(port)
        self.pickles, self.packs = FrameClient(port), FrameClient(port, packed=True)
        self.client = keyhaus.Client(f"keyhaus://{HOST}:{port}")
        self.put: dict[str, Callable[[str, Any], Any]] = {
            "resp": lambda key, value: self.resp.ask(
                b"SET", key.encode(), value if isinstance(value, bytes) else value.encode()
            ),
            "text": lambda key, value: self.text("PUT " + _json_text({"key": key, "value": value})),
            "json": lambda key, value: self.json("put", key=key, value=_told(value)),
            "pickle": lambda key, value: self.pickles("SET", key=key, value=value),
            "messagepack": lambda key, value: self.packs("SET", key=key, value=value),
        }

    def close(self) -> None:
        for client in (self.resp, self.text, self.json, self.pickles, self.packs, self.client):
            client.close()

    def check(self, key: str, value: Any) -> None:
        """Every door tells of the value, exactly where it can, and as the dialect says where it can't."""
        for door in (self.pickles, self.packs):
            told = door("GET", key=key)
            assert told == value
            assert type(told) is type(value)
        plain = objects.jsonable(value)
        assert self.text(f"GET {key}") == {"status": "Ok", "result": {"key": key, "value": plain}}
        assert self.json("get", key=key) == {"status": "ok", "value": plain}
        assert self.json("get_range", start_key=key, end_key=key)["data"] == [[key, plain]]
        raw = (
            value
            if isinstance(value, bytes)
            else value.encode()
            if isinstance(value, str)
            else objects.json_text(value)
        )
        assert self.resp.ask(b"GET", key.encode()) == raw
        assert self.client.get(key) == raw


def _raw(value: Any) -> bytes:
    """A value as RESP has it."""
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else objects.json_text(value)


def _told(value: Any) -> Any:
    """A value as JSON dialects put it."""
    if isinstance(value, dict):
        return {key: _told(item) for key, item in value.items()}
    return [_told(item) for item in value] if isinstance(value, list) else as_json(value)


def _json_text(given: dict[str, Any]) -> str:
    return objects.json_text(_told(given)).decode()


@pytest.fixture
def doors(ports: dict[str, int]) -> Iterator[Doors]:
    doors = Doors(ports["auto"])
    yield doors
    doors.close()


@pytest.mark.parametrize("dialect", ["resp", "text", "json", "pickle", "messagepack"])
def test_what_one_dialect_puts_every_other_reads(dialect: str, doors: Doors) -> None:
    values = {
        "resp": [value for value in ALL_VALUES if isinstance(value, str) or value == b"\xff\x00"],
        "text": JSON_VALUES,
        "json": JSON_VALUES,
    }.get(dialect, ALL_VALUES)
    for number, value in enumerate(values):
        key = f"{dialect}:{number}"
        doors.put[dialect](key, value)
        doors.check(key, value)
    print(f"{dialect}: {len(values)} values, each read through 6 doors")


@pytest.mark.parametrize("dialect", ["text", "json", "pickle", "messagepack", "resp"])
def test_one_dialect_deletes_what_another_put(dialect: str, doors: Doors) -> None:
    doors.put["pickle"]("k", [1])
    delete: dict[str, Callable[[], Any]] = {
        "text": lambda: doors.text("DEL k"),
        "json": lambda: doors.json("delete", key="k"),
        "pickle": lambda: doors.pickles("DELETE", key="k"),
        "messagepack": lambda: doors.packs("DELETE", key="k"),
        "resp": lambda: doors.resp.ask(b"DEL", b"k"),
    }
    delete[dialect]()
    assert doors.pickles("GET", key="k") is None
    assert doors.text("GET k")["status"] == "Error"
    assert doors.json("get", key="k")["message"] == "Key not found"
    assert doors.resp.ask(b"EXISTS", b"k") == 0
