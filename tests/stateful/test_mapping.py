"""`as_mapping` beside a dict: whatever is done to both, they tell the same."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

import keyhaus
from keyhaus.core.access.mapping import TypedMapping
from tests.support.embedded import Running, until, waiting
from tests.support.processes import keyhaus_server

KEYS = st.sampled_from(["", "a", "b", "ä", "a\0", "key", "zz", "\U0001f600"])
_PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
)
_HASHABLE = _PLAIN | st.tuples(_PLAIN, _PLAIN) | st.frozensets(_PLAIN, max_size=3)
VALUES = (
    _HASHABLE
    | st.lists(_HASHABLE, max_size=3)
    | st.sets(_HASHABLE, max_size=3)
    | st.dictionaries(_HASHABLE, st.lists(_PLAIN, max_size=2), max_size=3)
)
_NOTHING = object()


class Beside(RuleBasedStateMachine):
    """A mapping and a dict; the mapping's order is that of UTF-8, which is that of code points."""

    mapping: TypedMapping  # of a subclass

    def __init__(self) -> None:
        super().__init__()
        self.mapping.clear()
        self.model: dict[str, Any] = {}

    def _given(self, function: Any) -> tuple[Any, Any]:
        """What a function gives for both, or the error that it raises."""
        given: list[Any] = []
        for it in (self.mapping, self.model):
            try:
                given.append(function(it))
            except KeyError as error:
                given.append((KeyError, error.args))
        return given[0], given[1]

    def _alike(self, function: Any) -> None:
        found, expected = self._given(function)
        assert type(found) is type(expected) and found == expected

    @rule(key=KEYS, value=VALUES)
    def put(self, key: str, value: Any) -> None:
        self.mapping[key] = value
        self.model[key] = value

    @rule(key=KEYS, default=VALUES)
    def look(self, key: str, default: Any) -> None:
        self._alike(lambda it: it[key])
        self._alike(lambda it: it.get(key, default))
        self._alike(lambda it: it.get(key))
        self._alike(lambda it: key in it)
        assert (key.encode() in self.mapping) == (key in self.model)
        assert self.mapping.get(key.encode(), _NOTHING) == self.model.get(key, _NOTHING)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self._alike(lambda it: it.__delitem__(key))

    @rule(key=KEYS, default=VALUES, given=st.booleans())
    def pop(self, key: str, default: Any, given: bool) -> None:
        self._alike(lambda it: it.pop(key, default) if given else it.pop(key))

    @rule(key=KEYS, default=VALUES)
    def setdefault(self, key: str, default: Any) -> None:
        self._alike(lambda it: it.setdefault(key, default))

    @rule()
    def popitem(self) -> None:
        if self.model:
            key = max(self.model)
            assert self.mapping.popitem() == (key, self.model.pop(key))
        else:
            with pytest.raises(KeyError):
                self.mapping.popitem()

    @rule(values=st.dictionaries(KEYS, VALUES, max_size=4), more=st.dictionaries(st.sampled_from(["a", "key"]), VALUES))
    def update(self, values: dict[str, Any], more: dict[str, Any]) -> None:
        self._alike(lambda it: it.update(values, **more))
        self._alike(lambda it: it.update([*values.items()]))

    @rule()
    def clear(self) -> None:
        self._alike(lambda it: it.clear())

    @rule()
    def walk(self) -> None:
        mapping, ordered = self.mapping, sorted(self.model)
        assert [*mapping] == [*mapping.keys()] == ordered and [*reversed(mapping)] == ordered[::-1]
        assert [*mapping.items()] == [(key, self.model[key]) for key in ordered]
        assert [*mapping.values()] == [self.model[key] for key in ordered]
        assert len(mapping) == len(mapping.keys()) == len(mapping.items()) == len(self.model)
        assert bool(mapping) == bool(self.model) and mapping == self.model and dict(mapping) == self.model
        for key, value in self.model.items():
            assert (key, value) in mapping.items() and value in mapping.values()
        assert ("a", _NOTHING) not in mapping.items() and _NOTHING not in mapping.values()
        assert mapping.keys() & {"a", "b"} == self.model.keys() & {"a", "b"}


def _run(mapping: TypedMapping, examples: int | None = None) -> None:
    class Machine(Beside):
        pass

    Machine.mapping = mapping
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    chosen = (
        settings(suppress_health_check=checks)
        if examples is None
        else settings(max_examples=examples, stateful_step_count=20, suppress_health_check=checks)
    )
    run_state_machine_as_test(Machine, settings=chosen)


def test_a_mapping_does_what_a_dict_does_in_memory() -> None:
    with keyhaus.open(engine="memory").as_mapping() as mapping:
        _run(mapping)


def test_a_mapping_does_what_a_dict_does_on_disk(tmp_path: Path) -> None:
    with keyhaus.open(tmp_path / "data", durability="none").as_mapping() as mapping:
        _run(mapping, 15)


def test_a_mapping_does_what_a_dict_does_on_a_server(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(keyhaus_server(tmp_path, "--engine", "memory")).port
        mapping = stack.enter_context(keyhaus.Client(f"keyhaus://127.0.0.1:{port}").as_mapping())
        _run(mapping, 10)


@pytest.fixture
def mapping() -> Iterator[TypedMapping]:
    with keyhaus.open(engine="memory").as_mapping() as mapping:
        yield mapping


def test_a_mapping_is_one(mapping: TypedMapping) -> None:
    assert isinstance(mapping, MutableMapping) and isinstance(mapping, keyhaus.TypedMapping)
    mapping["list"] = [1]
    mapping["list"].append(2)
    assert mapping["list"] == [1], "it was a copy"
    assert "TypedMapping" in repr(mapping)
    mapping.sync()


@pytest.mark.parametrize("key", [1, None, ("a",), bytearray(b"a")])
def test_keys_are_texts_or_bytes(mapping: TypedMapping, key: Any) -> None:
    for call in (
        lambda: mapping.__setitem__(key, 1),
        lambda: mapping[key],
        lambda: key in mapping,
        lambda: mapping.get(key),
        lambda: mapping.pop(key, None),
        lambda: mapping.update([(key, 1)]) if not isinstance(key, bytearray) else mapping.__delitem__(key),
    ):
        with pytest.raises(TypeError):
            call()
    assert not mapping


def test_a_key_that_is_no_text_comes_out_as_bytes(mapping: TypedMapping) -> None:
    mapping.update({"é": 1, b"\xff": 2})
    assert dict(mapping) == {"é": 1, b"\xff": 2} and mapping["é".encode()] == 1 and mapping.pop(b"\xff") == 2


def test_a_value_that_has_no_type_of_ours_is_refused(mapping: TypedMapping) -> None:
    with pytest.raises(keyhaus.UserError, match="values are None, bool"):
        mapping.update(a=1, b=object())
    assert not mapping


def test_a_mapping_that_changes_on_the_way_is_walked_on(mapping: TypedMapping) -> None:
    mapping.update({f"{number:05}": number for number in range(2_500)})
    seen = []
    for key, value in mapping.items():
        seen.append(value)
        del mapping[key]
        mapping[f"0{key}"] = value  # behind
    assert seen == [*range(2_500)] and len(mapping) == 2_500


@pytest.mark.parametrize("name", ["pop", "popitem", "setdefault"])
def test_what_reads_and_then_writes_is_one(name: str) -> None:
    """Whoever comes while a transaction is about to change the key sees what that has left."""
    calls: dict[str, Any] = {
        "pop": lambda it: it.pop("b", "gone"),
        "popitem": lambda it: it.popitem(),
        "setdefault": lambda it: it.setdefault("c", "late"),
    }
    with keyhaus.open(engine="memory") as database:
        mapping = database.as_mapping()
        mapping.update(a=1, b=2)
        with database.transaction() as tx:
            tx.delete("b")
            tx.put_object("c", 3)
            if name == "popitem":
                tx.delete("c")
            other = Running(calls[name], mapping)
            until(lambda: waiting(database) == 1)
        assert other.result() == {"pop": "gone", "popitem": ("a", 1), "setdefault": 3}[name]


def test_what_threads_take_is_taken_once(mapping: TypedMapping) -> None:
    mapping.update({f"{number:03}": number for number in range(100)})
    start = threading.Barrier(4)

    def take() -> list[Any]:
        start.wait()
        taken = []
        for number in range(100):
            try:
                taken.append(mapping.popitem()[1] if number % 2 else mapping.pop(f"{number:03}"))
            except KeyError:
                continue
        return taken

    taken = [value for thread in [Running(take) for _ in range(4)] for value in thread.result()]
    assert sorted(taken) == [*range(100)] and not mapping


def test_the_first_default_stays(mapping: TypedMapping) -> None:
    start = threading.Barrier(4)

    def default(number: int) -> list[Any]:
        start.wait()
        return [mapping.setdefault(f"{key}", number) for key in range(50)]

    given = [thread.result() for thread in [Running(default, number) for number in range(4)]]
    assert given[0] == given[1] == given[2] == given[3] == [mapping[f"{key}"] for key in range(50)]
