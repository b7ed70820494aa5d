"""Files of another format: refused with both versions and what to run, and nothing is changed by that.

Each kind of file that carries a version gets another one, in a copy of a directory that a server left; its checksum is
made to fit, so that it is no damage.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from google_crc32c import value as crc32c
from typer.testing import CliRunner

from keyhaus import __version__
from keyhaus.cli.main import app
from keyhaus.core.disk import OsDisk
from keyhaus.core.errors import Corruption, OtherFormat
from keyhaus.engines.rocksdb import RocksEngine, RocksRunWriter
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal import recovery
from keyhaus.store import layout as rows
from keyhaus.store.backup import form
from tests.support.make_fixture import DIRECTORY, OPTIONS, unpack
from tests.support.processes import HOST, SOURCE, keyhaus_server

CRC: Final = struct.Struct("<I")
VERSIONS: Final = pytest.mark.parametrize("version", [0, 2])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    unpack(DIRECTORY / "killed.tar.gz", tmp_path / "data")
    return tmp_path / "data"


def _fingerprint(data: Path) -> dict[str, str]:
    """Every file but the lock, and all rows of the base: opening it may write files anew, with the same rows."""
    found = {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.name != "LOCK" and path.parent.name != "base"
    }
    engine = RocksEngine(str(data / "base"))
    page, more = engine.scan(0, b"", None, rows=10_000, size=1 << 30)
    engine.close()
    assert page and not more
    return found | {row.hex(): value.hex() for row, value in page}


def _manifest(data: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """Changes the manifest's JSON."""
    path = data / manifests.NAME
    held = msgspec.json.decode(path.read_bytes().rstrip(b"\0").partition(b" ")[2])
    change(held)
    body = msgspec.json.encode(held)
    path.write_bytes((b"%08x %b\n" % (crc32c(body), body)).ljust(manifests.RESERVE_BYTES, b"\0"))
    return manifests.NAME


def _manifest_of(data: Path, version: int) -> str:
    return _manifest(data, lambda held: held.update(version=version))


def _another_kind_of_manifest(data: Path, version: int) -> str:
    """One that this release could not read, whatever it made of the version."""
    return _manifest(data, lambda held: (held.clear(), held.update(version=version, segments={"chain": [1]})))


def _segment_of(data: Path, version: int) -> str:
    manifest = manifests.read(OsDisk(data))
    assert manifest is not None
    line = manifest.segments[len(manifest.segments) // 2]
    contents = bytearray((data / line.name).read_bytes())
    CRC.pack_into(contents, 8, version)
    CRC.pack_into(contents, layout.HEADER_BYTES - 4, crc32c(bytes(contents[: layout.HEADER_BYTES - 4])))
    (data / line.name).write_bytes(contents)
    return line.name


def _base(data: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """Changes the meta row, through RocksDB."""
    engine = RocksEngine(str(data / "base"))
    meta = msgspec.msgpack.decode(engine.get(0, [rows.META])[0] or b"")
    change(meta)
    writer = RocksRunWriter(str(data / "runs" / "meta"))
    writer.add([(rows.META, msgspec.msgpack.encode(meta))])
    writer.finish()
    engine.ingest(str(data / "runs" / "meta"))
    engine.close()
    return "base"


def _base_of(data: Path, version: int) -> str:
    return _base(data, lambda meta: meta.update(version=version))


def _another_kind_of_base(data: Path, version: int) -> str:
    return _base(data, lambda meta: (meta.clear(), meta.update(version=version, spaces="elsewhere")))


CHANGES: Final = (_manifest_of, _another_kind_of_manifest, _segment_of, _base_of, _another_kind_of_base)


def _start(data: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    return subprocess.run(
        (sys.executable, "-m", "keyhaus", "serve", "--listen", f"resp://{HOST}:0", *OPTIONS),
        cwd=data.parent,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("change", CHANGES)
@VERSIONS
def test_another_format_is_refused_in_one_line_and_nothing_is_changed(
    change: Callable[[Path, int], str], version: int, data: Path
) -> None:
    name = change(data, version)
    before = _fingerprint(data)
    refused = _start(data)
    assert (refused.returncode, refused.stdout) == (1, "")
    (said,) = refused.stderr.splitlines()
    assert said.startswith(f"keyhaus: data/{name} has format {version}, this release reads format 1: "), said
    assert f"nothing of the data was changed. This is keyhaus {__version__}: " in said
    if version > 1:
        assert said.endswith("a release that reads it: keyhaus serve --data-dir data")
    else:
        assert said.endswith("begin anew: keyhaus serve --data-dir data.new")
    assert _fingerprint(data) == before, "the refused start changed something"


@pytest.mark.parametrize("change", [_manifest_of, _segment_of, _base_of])
def test_after_a_refusal_the_right_release_finds_everything(change: Callable[[Path, int], str], data: Path) -> None:
    change(data, 2)
    assert _start(data).returncode == 1
    change(data, 1)
    with keyhaus_server(data.parent, *OPTIONS) as server:
        line = server.wait_for_line("recovered")
    assert re.search(r" keys=1[0-9][0-9] ", line), line


def test_a_journal_of_another_format_is_refused_before_the_base_is_opened(data: Path) -> None:
    """Opening it writes: files of RocksDB's own, and perhaps more, by a release that does not know what it holds."""
    before = {path.name for path in (data / "base").iterdir()}
    _manifest_of(data, 2)
    assert _start(data).returncode == 1
    assert {path.name for path in (data / "base").iterdir()} == before


@pytest.mark.parametrize("change", CHANGES)
def test_check_and_salvage_take_another_format_for_no_damage(
    change: Callable[[Path, int], str], data: Path, tmp_path: Path
) -> None:
    name = change(data, 2)
    for words in (["check", str(data)], ["salvage", str(data), "--to", str(tmp_path / "new")]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1
        assert result.stderr == f"keyhaus: {name} has format 2, this release reads format 1: a newer release wrote it\n"
        assert "damage" not in result.stdout


def test_a_backup_of_another_format_is_refused(tmp_path: Path) -> None:
    disk = OsDisk(tmp_path)
    form.write(disk, form.Backup(7, "h", 1, 2, 3, 4, 5, 6, 7, (), (), 0, version=2))
    with pytest.raises(OtherFormat, match="000007.backup has format 2, this release reads format 1: a newer release"):
        form.read(disk, 7)
    with pytest.raises(OtherFormat):  # what it needs is not known
        form.sweep(disk)


def test_segments_of_another_format_without_a_manifest_are_no_new_database(data: Path) -> None:
    """They would be put to use again, and written over."""
    name = _segment_of(data, 2)
    (data / manifests.NAME).unlink()
    for path in (data / "journal").glob("*.segment"):
        if not name.endswith(path.name):
            path.unlink()
    with pytest.raises(OtherFormat, match="has format 2"):
        recovery.start(OsDisk(data), os.urandom, lambda frame: None, segment_bytes=64 << 10)
    assert (data / name).exists()


def test_a_header_that_only_seems_to_be_of_another_format_is_damaged(data: Path) -> None:
    manifest = manifests.read(OsDisk(data))
    assert manifest is not None
    path = data / manifest.segments[0].name
    contents = bytearray(path.read_bytes())
    contents[8] = 2
    path.write_bytes(contents)
    recovery.check_versions(OsDisk(data))
    with pytest.raises(Corruption, match="checksum"):
        recovery.load(OsDisk(data), manifest.segments[0])
