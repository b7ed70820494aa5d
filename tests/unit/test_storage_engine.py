"""`keyhaus.StorageEngine`: the methods of a small engine, over the whole database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import keyhaus
from tests.support.embedded import fields, until


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[keyhaus.StorageEngine]:
    with keyhaus.StorageEngine(tmp_path / "data") as engine:
        yield engine


def test_its_readme_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = keyhaus.StorageEngine(data_dir="./data", memtable_size=1000)
    engine.put("key1", "value1")
    assert engine.get("key1") == "value1"
    keys = ["key2", "key3", "key4"]
    values = ["value2", "value3", "value4"]
    engine.batch_put(keys, values)
    results = engine.get_range("key1", "key3")
    assert results == [("key1", "value1"), ("key2", "value2"), ("key3", "value3")]
    engine.delete("key1")
    engine.close()
    again = keyhaus.StorageEngine("./data")
    assert again.get("key1") is None and again.get("key4") == "value4"
    again.close()
    again.close()


def test_both_ends_of_a_range_count(engine: keyhaus.StorageEngine) -> None:
    engine.batch_put(["a", "b", "b\0", "ba", "c", "ä"], [1, 2, 3, 4, 5, 6])
    assert engine.get_range("b", "b") == [("b", 2)]
    assert engine.get_range("b", "c") == [("b", 2), ("b\0", 3), ("ba", 4), ("c", 5)]
    assert engine.get_range("bb", "\U0010ffff") == [("c", 5), ("ä", 6)]
    assert engine.get_range("c", "a") == [] and engine.get_range("", "a") == [("a", 1)]
    engine.batch_put([f"n{number:04}" for number in range(2_500)], [str(number) for number in range(2_500)])
    assert [value for _, value in engine.get_range("n0001", "n2498")] == [str(number) for number in range(1, 2_499)]


def test_a_missing_key_is_none_and_its_deletion_no_error(engine: keyhaus.StorageEngine) -> None:
    assert engine.get("k") is None and engine.delete("k") is False
    engine.put("k", "")
    assert engine.get("k") == "" and engine.delete("k") is True and engine.get("k") is None


@pytest.mark.parametrize(("keys", "values"), [(["a", "b"], ["1"]), (["a"], []), ([], ["1"])])
def test_a_batch_of_lists_that_do_not_match_is_refused_whole(
    engine: keyhaus.StorageEngine, keys: list[str], values: list[str]
) -> None:
    with pytest.raises(ValueError, match=f"not {len(values)} for {len(keys)}"):
        engine.batch_put(keys, values)
    assert engine.get_range("", "zz") == []
    engine.batch_put([], [])


def test_keys_are_texts_and_values_come_back_as_they_were(engine: keyhaus.StorageEngine) -> None:
    wrong: Any = b"k"
    for call in (
        lambda: engine.put(wrong, "v"),
        lambda: engine.get(wrong),
        lambda: engine.delete(wrong),
        lambda: engine.get_range(wrong, "z"),
        lambda: engine.batch_put(["a", wrong], ["1", "2"]),
    ):
        with pytest.raises(TypeError, match="keys are str, not bytes"):
            call()
    for value in ("ä", b"\xff", 5, (1, [2])):
        engine.put("k", value)
        assert engine.get("k") == value and type(engine.get("k")) is type(value)
    assert engine.get("a") is None


def test_the_memtable_is_written_out_at_its_size(tmp_path: Path) -> None:
    with keyhaus.StorageEngine(tmp_path, memtable_size=10) as engine:
        engine.batch_put([f"k{number}" for number in range(50)], ["v"] * 50)
        until(lambda: int(fields(engine._database, "keyhaus")["flushes"]) > 0)
    with pytest.raises(keyhaus.UserError, match="memtable_size=-1"):
        keyhaus.StorageEngine(tmp_path, memtable_size=-1)


def test_another_process_is_told_who_has_it(engine: keyhaus.StorageEngine, tmp_path: Path) -> None:
    code = "import sys, keyhaus; keyhaus.StorageEngine(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = (sys.executable, "-c", code, str(tmp_path / "data"))
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert f"is in use by process {os.getpid()}: stop it first" in run.stderr
