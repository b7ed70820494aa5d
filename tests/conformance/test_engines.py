"""What every engine must do: the contract of `keyhaus.engines.base`, line by line.

The model runs over real files and over the simulated disk, RocksDB in this process and in a helper's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyhaus.core.errors import Corruption
from keyhaus.engines.base import Engine, Row
from tests.support.engines import VARIANTS, Variant, make_variant

ALL = 1 << 30
STATS = {
    "bytes", "rows", "level0_files", "compaction_pending_bytes", "compactions_running",
    "block_cache_bytes", "block_cache_hits", "block_cache_misses", "memory_bytes",
}  # fmt: skip


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Variant]:
    made = make_variant(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def engine(variant: Variant) -> Iterator[Engine]:
    engine = variant.open()
    yield engine
    engine.close()


def rows_of(engine: Engine, view: int | None = None) -> list[Row]:
    page, more = engine.scan(engine.newest if view is None else view, b"", None, rows=ALL, size=ALL)
    assert not more
    return page


def test_a_new_engine_is_empty_and_its_view_is_0(engine: Engine) -> None:
    assert engine.newest == 0
    assert rows_of(engine) == []
    assert engine.get(0, [b"", b"a"]) == [None, None]


def test_ingest_makes_the_next_view_and_takes_the_file(variant: Variant, engine: Engine) -> None:
    run = variant.run("first", [(b"a", b"1"), (b"b", b"2")])
    assert engine.ingest(run) == engine.newest == 1
    assert not variant.exists("first")
    assert engine.get(1, [b"b", b"x", b"a", b"b"]) == [b"2", None, b"1", b"2"]
    assert engine.get(1, []) == []


def test_a_run_deletes_and_overwrites(variant: Variant, engine: Engine) -> None:
    engine.ingest(variant.run("first", [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]))
    engine.ingest(variant.run("second", [(b"a", None), (b"b", b"new"), (b"x", None)]))
    assert rows_of(engine) == [(b"b", b"new"), (b"c", b"3")]
    assert engine.get(2, [b"a", b"b"]) == [None, b"new"]


def test_views_stay_as_they_were_until_they_are_released(variant: Variant, engine: Engine) -> None:
    # The first view is of a database that never saw a write: RocksDB takes its number for "no snapshot".
    engine.ingest(variant.run("first", [(b"%04d" % n, b"old" * 20) for n in range(1000)]))
    first = rows_of(engine)
    engine.ingest(variant.run("second", [(b"%04d" % n, None if n % 3 else b"new" * 20) for n in range(1000)]))
    second = rows_of(engine)
    for number in range(6):  # enough for RocksDB to compact
        engine.ingest(variant.run("more", [(b"%04d" % n, b"%d" % number) for n in range(number, 1000, 7)]))
    engine.drop(b"5", b"9")
    assert rows_of(engine, 0) == []
    assert rows_of(engine, 1) == first
    assert rows_of(engine, 2) == second
    assert engine.get(0, [b"0001"]) == [None]
    assert engine.get(1, [b"0001", b"0003"]) == [b"old" * 20, b"old" * 20]
    assert engine.get(2, [b"0001", b"0003"]) == [None, b"new" * 20]
    engine.release(1)
    with pytest.raises(KeyError):
        engine.get(1, [b"0001"])
    assert rows_of(engine, 2) == second


def test_a_view_that_is_not_there_is_a_key_error(variant: Variant, engine: Engine) -> None:
    engine.ingest(variant.run("first", [(b"a", b"1")]))
    engine.release(0)
    for view in (0, 2, -1):
        with pytest.raises(KeyError):
            engine.get(view, [b"a"])
        with pytest.raises(KeyError):
            engine.scan(view, b"", None, rows=1, size=1)
        with pytest.raises(KeyError):
            engine.release(view)
    with pytest.raises(ValueError):
        engine.release(1)
    assert engine.get(1, [b"a"]) == [b"1"]


@pytest.mark.parametrize("old", [False, True], ids=["newest", "kept"])
def test_scans_keep_to_their_bounds_limits_and_direction(variant: Variant, engine: Engine, old: bool) -> None:
    rows = [(key, b"12345678") for key in (b"", b"\x00", b"a", b"a\x00", b"b", b"c", b"\xff", b"\xff\xff")]
    view = engine.ingest(variant.run("first", rows))
    if old:
        engine.ingest(variant.run("second", [(key, b"other") for key, _ in rows]))
    bounds: list[bytes | None] = [None, b"zz", b"\xff\xff\xff", b"a\x00\x00"]
    for start in [key for key, _ in rows] + [b"0", b"bb", b"\xff" * 3]:
        for end in [key for key, _ in rows] + bounds:
            for reverse in (False, True):
                within = [row for row in rows if row[0] >= start and (end is None or row[0] < end)]
                within = within[::-1] if reverse else within
                for limit in (1, 2, len(within) or 1, 100):
                    found = engine.scan(view, start, end, rows=limit, size=ALL, reverse=reverse)
                    assert found == (within[:limit], len(within) > limit), (start, end, limit, reverse)


def test_a_scan_stops_after_its_size_but_gives_one_row(variant: Variant, engine: Engine) -> None:
    rows = [(b"%03d" % n, b"1234567") for n in range(10)]
    engine.ingest(variant.run("first", rows))
    for size, expected in ((0, 1), (1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (99, 10), (100, 10)):
        assert engine.scan(1, b"", None, rows=ALL, size=size) == (rows[:expected], expected < 10), size
        backwards = engine.scan(1, b"", None, rows=ALL, size=size, reverse=True)
        assert backwards == (rows[::-1][:expected], expected < 10), size


def test_drop_takes_out_a_range(variant: Variant, engine: Engine) -> None:
    engine.ingest(variant.run("first", [(bytes([n]), b"x") for n in range(100)]))
    engine.drop(bytes([10]), bytes([20]))
    engine.drop(bytes([10]), bytes([20]))
    engine.drop(bytes([30]), bytes([30]))
    engine.drop(bytes([50]), bytes([40]))
    assert engine.newest == 1
    assert [key[0] for key, _ in rows_of(engine)] == [*range(10), *range(20, 100)]
    assert engine.get(1, [bytes([9]), bytes([10]), bytes([20])]) == [b"x", None, b"x"]
    engine.ingest(variant.run("second", [(bytes([15]), b"again")]))
    assert engine.get(2, [bytes([15])]) == [b"again"]


def test_a_run_must_ascend_strictly_and_have_a_change(variant: Variant) -> None:
    for keys in ((b"b", b"a"), (b"a", b"a"), (b"\xff", b"\x00"), (b"ab", b"a")):
        writer = variant.writer("run")
        with pytest.raises(ValueError):
            writer.add([(key, b"") for key in keys])
        writer = variant.writer("run")
        writer.add([(keys[0], b"")])
        with pytest.raises(ValueError):
            writer.add([(keys[1], None)])
    writer = variant.writer("run")
    writer.add([])
    with pytest.raises(ValueError):
        writer.finish()


def test_a_writer_goes_over_what_a_failed_one_left(variant: Variant, engine: Engine) -> None:
    left = variant.writer("run")
    left.add([(b"left", b"over")])
    del left
    variant.run("run", [(b"gone", b"too")])
    engine.ingest(variant.run("run", [(b"a", b"1")]))
    assert rows_of(engine) == [(b"a", b"1")]


def test_keys_and_values_are_any_bytes_of_any_size(variant: Variant, engine: Engine) -> None:
    values = random.Random(1)
    rows = [(bytes([n]), bytes([255 - n])) for n in range(256)] + [(bytes([n]) * 2, b"") for n in range(256)]
    rows += [(b"", b"empty key"), (b"k" * 65536, values.randbytes(16 << 20)), (b"\xff" * 65536, b"last")]
    rows.sort()
    engine.ingest(variant.run("first", rows))
    assert rows_of(engine) == rows
    assert engine.get(1, [key for key, _ in rows]) == [value for _, value in rows]
    assert engine.get(1, [b"k" * 65535, b"k" * 65537]) == [None, None]
    page, more = engine.scan(1, b"k" * 65536, b"k" * 65537, rows=1, size=1)
    assert not more and len(page[0][1]) == 16 << 20
    engine.ingest(variant.run("second", [(b"", None), (b"\xff" * 65536, None)]))
    assert engine.get(2, [b"", b"\xff" * 65536]) == [None, None]
    assert rows_of(engine, 1) == rows


def test_a_reopened_engine_has_all_of_it_and_counts_from_0(variant: Variant) -> None:
    engine = variant.open()
    engine.ingest(variant.run("first", [(b"%03d" % n, b"1") for n in range(500)]))
    engine.ingest(variant.run("second", [(b"%03d" % n, None) for n in range(0, 500, 2)]))
    engine.drop(b"100", b"200")
    before = rows_of(engine)
    variant.crash(engine)
    for _ in range(3):
        engine = variant.open()
        assert engine.newest == 0
        assert rows_of(engine) == before
        with pytest.raises(KeyError):
            engine.get(1, [b"001"])
        engine.close()
    engine = variant.open()
    assert engine.ingest(variant.run("third", [(b"new", b"row")])) == 1
    assert rows_of(engine) == [*before, (b"new", b"row")]
    assert rows_of(engine, 0) == before
    engine.close()


def test_a_checkpoint_opens_and_is_the_newest_view(variant: Variant, engine: Engine) -> None:
    engine.ingest(variant.run("first", [(b"%03d" % n, b"1") for n in range(500)]))
    engine.drop(b"100", b"200")
    before = rows_of(engine)
    engine.checkpoint(variant.path("copy"))
    with pytest.raises(FileExistsError):
        engine.checkpoint(variant.path("copy"))
    engine.ingest(variant.run("second", [(b"new", b"row")]))
    copy = variant.open_checkpoint("copy")
    assert rows_of(copy) == before
    copy.ingest(variant.run("third", [(b"of", b"the copy")]))
    copy.close()
    assert rows_of(engine) == [*before, (b"new", b"row")]


def test_an_empty_engine_has_a_checkpoint_too(variant: Variant, engine: Engine) -> None:
    engine.checkpoint(variant.path("copy"))
    copy = variant.open_checkpoint("copy")
    assert rows_of(copy) == []
    copy.close()


def test_a_damaged_run_is_corruption_and_changes_nothing(variant: Variant, engine: Engine) -> None:
    engine.ingest(variant.run("first", [(b"a", b"1")]))
    run = variant.run("second", [(b"%03d" % n, b"2" * 100) for n in range(100)])
    variant.damage("second")
    with pytest.raises(Corruption) as caught:
        engine.ingest(run)
    assert "second" in caught.value.file
    assert engine.newest == 1 and rows_of(engine) == [(b"a", b"1")]
    with pytest.raises(FileNotFoundError):
        engine.ingest(variant.path("nowhere"))
    assert engine.ingest(variant.run("second", [(b"b", b"2")])) == 2
    assert rows_of(engine, 1) == [(b"a", b"1")]
    assert rows_of(engine) == [(b"a", b"1"), (b"b", b"2")]


def test_stats_have_every_number(variant: Variant, engine: Engine) -> None:
    engine.ingest(variant.run("first", [(b"%05d" % n, b"1" * 100) for n in range(5000)]))
    engine.get(1, [b"00001", b"01000"])
    stats = engine.stats()
    assert stats.keys() >= STATS
    assert all(isinstance(number, int) and number >= 0 for number in stats.values())
    assert stats["bytes"] > 0 and stats["memory_bytes"] > 0
    assert 4000 <= stats["rows"] <= 6000


def test_any_history_equals_a_dictionary(variant: Variant, seed: int) -> None:
    choices = random.Random(seed)
    pool = sorted({choices.randbytes(choices.randint(0, 3)) for _ in range(400)})
    engine, shown, number = variant.open(), {0: dict[bytes, bytes]()}, 0
    for _ in range(150):
        rows = dict(shown[max(shown)])
        match choices.choices(("ingest", "drop", "release", "reopen", "read"), (5, 1, 3, 1, 20))[0]:
            case "ingest":
                keys = sorted(choices.sample(pool, choices.randint(1, len(pool))))
                values = [choices.randbytes(choices.choice((0, 1, 50))) for _ in keys]
                changes = [(k, None if choices.random() < 0.3 else v) for k, v in zip(keys, values, strict=True)]
                number += 1
                view = engine.ingest(variant.run(f"run-{number}", changes))
                assert view == max(shown) + 1
                for key, value in changes:
                    rows.pop(key, None)
                    if value is not None:
                        rows[key] = value
                shown[view] = rows
            case "drop":
                start, end = sorted(choices.sample(pool, 2))
                for view in [view for view in shown if view != max(shown)]:
                    engine.release(view)
                    del shown[view]
                engine.drop(start, end)
                shown[max(shown)] = {key: value for key, value in rows.items() if not start <= key < end}
            case "release" if len(shown) > 1:
                view = choices.choice(sorted(shown)[:-1])
                engine.release(view)
                del shown[view]
            case "reopen":
                choices.choice((variant.crash, lambda open_engine: open_engine.close()))(engine)
                engine = variant.open()
                shown = {0: rows}
            case _:
                compare(engine, choices, shown, pool)
    for view in shown:
        assert rows_of(engine, view) == sorted(shown[view].items())
    engine.close()


def compare(engine: Engine, choices: random.Random, shown: dict[int, dict[bytes, bytes]], pool: list[bytes]) -> None:
    view = choices.choice(sorted(shown))
    rows: Any = shown[view]
    keys = choices.choices(pool, k=choices.randint(1, 20))
    assert engine.get(view, keys) == [rows.get(key) for key in keys]
    start, end = choices.choice(pool), choices.choice([None, choices.choice(pool)])
    reverse, limit, size = choices.random() < 0.5, choices.choice((1, 3, 50, 1000)), choices.choice((0, 10, 200, ALL))
    within = sorted(item for item in rows.items() if item[0] >= start and (end is None or item[0] < end))
    expected, left = [], size
    for row in within[::-1] if reverse else within:
        if expected and (len(expected) >= limit or left <= 0):
            break
        expected.append(row)
        left -= len(row[0]) + len(row[1])
    found = engine.scan(view, start, end, rows=limit, size=size, reverse=reverse)
    assert found == (expected, len(expected) < len(within))
