"""What is RocksDB's alone: settings in force, damage found and named, the directory's lock, bounded files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rocksdict import Rdict

from keyhaus.core.errors import Corruption, StorageError
from keyhaus.engines import rocksdb
from keyhaus.engines.rocksdb import RocksEngine, RocksRunWriter, open_engine, open_writer
from keyhaus.engines.rocksdb_options import RocksOptions, database_options, settings_in_force
from keyhaus.engines.rocksdb_verify import verify

CHOSEN = RocksOptions(
    block_cache_bytes=5 << 20,
    block_bytes=8192,
    bloom_bits=12,
    compression="zstd",
    bottommost_compression="lz4",
    direct_reads=True,
    max_background_jobs=3,
    max_open_files=77,
    bytes_per_sync=512 << 10,
    target_file_bytes=3 << 20,
    level_base_bytes=9 << 20,
    level0_trigger=5,
)
EXPECTED = {
    "block_size": "8192",
    "filter_policy": "bloomfilter",
    "partition_filters": "true",
    "whole_key_filtering": "true",
    "index_type": "kTwoLevelIndexSearch",
    "cache_index_and_filter_blocks": "true",
    "pin_l0_filter_and_index_blocks_in_cache": "true",
    "compression": "kZSTD",
    "bottommost_compression": "kLZ4Compression",
    "use_direct_reads": "true",
    "max_background_jobs": "3",
    "max_open_files": "77",
    "bytes_per_sync": str(512 << 10),
    "target_file_size_base": str(3 << 20),
    "max_bytes_for_level_base": str(9 << 20),
    "level0_file_num_compaction_trigger": "5",
    "level_compaction_dynamic_level_bytes": "true",
    "write_buffer_size": str(1 << 20),
    "keep_log_file_num": "2",
    "max_log_file_size": str(1 << 20),
    "max_manifest_file_size": str(8 << 20),
    "stats_dump_period_sec": "0",
    "stats_persist_period_sec": "0",
    "paranoid_checks": "true",
}


def filled(directory: Path, options: RocksOptions, runs: int = 3) -> RocksEngine:
    engine = RocksEngine(str(directory / "engine"), options)
    for number in range(runs):
        ingest(engine, directory, [(b"%06d" % n, os.urandom(100)) for n in range(number, 9000, runs)], options)
    return engine


def ingest(engine: RocksEngine, directory: Path, changes: list[tuple[bytes, bytes]], options: RocksOptions) -> None:
    writer = RocksRunWriter(str(directory / "run"), options)
    writer.add(changes)
    writer.finish()
    engine.ingest(str(directory / "run"))


def differing(directory: Path) -> dict[str, str | None]:
    found = settings_in_force(str(directory / "engine"))
    return {name: found.get(name) for name, value in EXPECTED.items() if found.get(name) != value}


def test_every_setting_is_in_force_when_a_database_is_opened_again(tmp_path: Path) -> None:
    filled(tmp_path, RocksOptions()).close()
    assert len(differing(tmp_path)) == 10
    engine = RocksEngine(str(tmp_path / "engine"), CHOSEN)
    assert differing(tmp_path) == {}
    assert engine.stats()["block_cache_capacity"] == 5 << 20
    engine.close()


def test_the_bits_of_the_filters_are_in_force_when_a_database_is_opened_again(tmp_path: Path) -> None:
    sizes = {}
    for bits in (0, 8, 40):  # no file of RocksDB names them: what compaction writes is larger by the filters
        directory = tmp_path / str(bits)
        directory.mkdir()
        filled(directory, RocksOptions(bloom_bits=0)).close()
        engine = RocksEngine(str(directory / "engine"), RocksOptions(bloom_bits=bits))
        engine._database.compact_range(None, None)
        sizes[bits] = engine._database.property_int_value("rocksdb.live-sst-files-size") or 0
        engine.close()
    assert sizes[8] - sizes[0] == pytest.approx(9000, rel=0.2)
    assert sizes[40] - sizes[0] == pytest.approx(45_000, rel=0.2)


def test_options_given_as_rocksdict_offers_it_would_not_be_in_force(tmp_path: Path) -> None:
    filled(tmp_path, RocksOptions()).close()
    database = Rdict(str(tmp_path / "engine"), database_options(CHOSEN))
    assert {"compression", "filter_policy", "target_file_size_base", "block_size"} <= differing(tmp_path).keys()
    assert database.property_int_value("rocksdb.block-cache-capacity") != 5 << 20
    database.close()


def test_every_choice_of_the_settings_opens_and_reads(tmp_path: Path) -> None:
    for compression in ("none", "lz4", "zstd"):
        for bits in (0, 10):
            options = RocksOptions(compression=compression, bottommost_compression=compression, bloom_bits=bits)
            directory = tmp_path / f"{compression}{bits}"
            directory.mkdir()
            engine = filled(directory, options, runs=2)
            assert len(engine.scan(2, b"", None, rows=10_000, size=1 << 30)[0]) == 9000
            engine.close()


def test_factories_take_options_as_they_come_over_a_wire(tmp_path: Path) -> None:
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(CHOSEN))
    writer = open_writer(str(tmp_path / "run"), fields)
    writer.add([[b"a", b"1"], [b"b", None]])  # type: ignore[list-item]
    writer.finish()
    engine = open_engine(str(tmp_path / "engine"), fields)
    engine.ingest(str(tmp_path / "run"))
    assert differing(tmp_path) == {}
    engine.close()
    with pytest.raises(ValueError):
        open_engine(str(tmp_path / "engine"), {"bloom_bit": 3})


def test_many_opens_and_runs_leave_few_files(tmp_path: Path) -> None:
    for _ in range(8):
        filled(tmp_path, CHOSEN).close()
    names = [path.name for path in (tmp_path / "engine").iterdir()]
    assert len([name for name in names if name.startswith("LOG")]) <= 3
    assert len([name for name in names if name.startswith("OPTIONS")]) <= 2
    assert len([name for name in names if name.endswith((".log", ".ingesting"))]) <= 1
    assert len([name for name in names if name.startswith("MANIFEST")]) <= 2


def test_the_view_of_a_new_database_stays_empty_through_a_compaction(tmp_path: Path) -> None:
    engine = RocksEngine(str(tmp_path / "engine"))
    for _ in range(3):
        ingest(engine, tmp_path, [(b"%06d" % n, b"x") for n in range(1000)], RocksOptions())
    engine.release(1)
    engine.release(2)
    # RocksDB takes a snapshot at sequence number 0 for none, and compaction gives that number to the rows.
    engine._database.compact_range(None, None)
    assert engine.get(0, [b"000001"]) == [None]
    assert engine.scan(0, b"", None, rows=10, size=1000) == ([], False)
    assert engine.get(3, [b"000001"]) == [b"x"]
    engine.close()


def spoil(path: Path, at: int) -> bytes:
    with path.open("r+b") as file:
        file.seek(at)
        before = file.read(6)
        file.seek(at)
        file.write(b"damage")
    return before


def test_a_damaged_block_is_corruption_never_an_end_of_the_rows(tmp_path: Path) -> None:
    engine = filled(tmp_path, RocksOptions(compression="none", bottommost_compression="none"), runs=1)
    (path,) = (path for path in (tmp_path / "engine").glob("*.sst") if path.stat().st_size > 100_000)
    spoil(path, 500_000)
    with pytest.raises(Corruption) as caught:
        engine.scan(1, b"", None, rows=10_000, size=1 << 30)
    assert caught.value.file == str(path)
    assert 490_000 < caught.value.offset <= 500_000
    with pytest.raises(Corruption):
        engine.scan(1, b"", None, rows=10_000, size=1 << 30, reverse=True)
    with pytest.raises(Corruption):
        engine.get(1, [b"%06d" % n for n in range(9000)])
    assert len(engine.scan(1, b"008000", None, rows=10_000, size=1 << 30)[0]) == 1000
    engine.close()


def test_verify_names_every_damaged_file(tmp_path: Path) -> None:
    filled(tmp_path, RocksOptions(level0_trigger=100)).close()
    directory = tmp_path / "engine"
    assert verify(str(directory)) == []
    paths = sorted(path for path in directory.glob("*.sst") if path.stat().st_size > 100_000)
    assert len(paths) == 3
    for path in paths:
        size = path.stat().st_size
        for at in (0, size // 2, size - 20):
            before = spoil(path, at)
            found = verify(str(directory))
            assert [name for name, _ in found] == [str(path)], (at, found)
            with path.open("r+b") as file:
                file.seek(at)
                file.write(before)
    spoil(paths[0], 50_000)
    spoil(paths[2], 200_000)
    assert {name for name, _ in verify(str(directory))} == {str(paths[0]), str(paths[2])}
    paths[1].unlink()
    assert [name for name, _ in verify(str(directory))] == [str(paths[1])]


def test_a_missing_or_damaged_file_keeps_the_engine_from_opening(tmp_path: Path) -> None:
    filled(tmp_path, RocksOptions()).close()
    directory = tmp_path / "engine"
    (manifest,) = directory.glob("MANIFEST-*")
    for path in (directory / "CURRENT", manifest, max(directory.glob("*.sst"), key=lambda path: path.stat().st_size)):
        content = path.read_bytes()
        # A manifest without its last records is that of an older database, as after a crash: no file of RocksDB tells.
        half = [] if path == manifest else [content[: len(content) // 2]]
        for damaged in (b"", b"damage" + content[6:], None, *half):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            assert verify(str(directory))
            if path.suffix != ".sst" or damaged is None or len(damaged) < len(content):
                with pytest.raises(Corruption):
                    RocksEngine(str(directory))
            path.write_bytes(content)
    assert verify(str(directory)) == []
    RocksEngine(str(directory)).close()


def test_a_directory_that_is_open_elsewhere_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; from keyhaus.engines.rocksdb import RocksEngine; e = RocksEngine(sys.argv[1]);"
    code += "print('open', flush=True); sys.stdin.read()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        (sys.executable, "-c", code, str(tmp_path / "engine")),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        monkeypatch.setattr(rocksdb, "LOCK_SECONDS", 0.1)
        with pytest.raises(StorageError, match="in use"):
            RocksEngine(str(tmp_path / "engine"))
        monkeypatch.setattr(rocksdb, "LOCK_SECONDS", 20)
        holder.kill()
        RocksEngine(str(tmp_path / "engine")).close()
