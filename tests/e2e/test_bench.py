"""`keyhaus bench`: it measures in every dialect, kills servers, and notices what one has lost."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keyhaus.cli.bench.wire import WIRES
from tests.support.processes import HOST, SOURCE
from tests.support.programs import require_program

LOADS = "write,read,bulk,mixed"
SMALL = ("--requests", "60", "--keys", "40", "--clients", "3", "--pipeline", "4")


def bench(*words: str, directory: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    command = (sys.executable, "-m", "keyhaus", "bench", *words)
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def told(*words: str, directory: Path) -> Any:
    run = bench(*words, "--json", directory=directory)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("dialect", WIRES)
def test_every_load_in_every_dialect(dialect: str, ports: dict[str, int], tmp_path: Path) -> None:
    scheme = {"messagepack": "frame", "pickle": "frame"}.get(dialect, dialect)
    url = f"{scheme}://{HOST}:{ports[scheme]}"
    result = told(url, "--tests", LOADS, "--dialect", dialect, *SMALL, directory=tmp_path)
    assert result["dialect"] == dialect
    assert [(test["name"], test["requests"], test["errors"]) for test in result["tests"]] == [
        (name, 60, 0) for name in LOADS.split(",")
    ]
    assert all(test["requests_per_second"] > 0 and test["p99_ms"] >= test["p50_ms"] > 0 for test in result["tests"])


def test_without_an_address_it_has_a_server_of_its_own_and_kills_it(tmp_path: Path) -> None:
    result = told("--tests", "write,durability", "--kills", "2", *SMALL, directory=tmp_path)
    kept = result["durability"]
    assert (kept["kills"], kept["lost"], kept["rate"]) == (2, 0, 100.0)
    assert kept["confirmed"] >= kept["checked"] / 2 > 0
    assert list(tmp_path.iterdir()) == []


def test_redis_too(tmp_path: Path) -> None:
    redis = require_program("redis-server")
    start = f"{redis} --port {{port}} --dir {{dir}} --appendonly yes --appendfsync always"
    result = told("--tests", "durability", "--kills", "1", "--start", start, directory=tmp_path)
    assert result["durability"]["lost"] == 0


def test_what_a_server_loses_is_noticed(tmp_path: Path) -> None:
    """The control: a server in memory keeps nothing."""
    start = shlex.join([sys.executable, "-m", "keyhaus", "serve", "--engine", "memory"])
    start += f" --listen resp://{HOST}:{{port}}"
    run = bench("--tests", "durability", "--kills", "1", "--start", start, "--json", directory=tmp_path)
    assert run.returncode == 1
    assert json.loads(run.stdout)["durability"]["lost"] > 0


def test_tables_and_bars(ports: dict[str, int], tmp_path: Path) -> None:
    run = bench(f"redis://{HOST}:{ports['resp']}", "--tests", "write,read", "--plot", *SMALL, directory=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "requests/s" in run.stdout
    assert "keys/s" in run.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--tests", "speed"], "'speed' is no test"),
        (["ftp://127.0.0.1:1"], "is no address"),
        (["redis://127.0.0.1:1", "--tests", "write"], "127.0.0.1"),
        (["redis://127.0.0.1:1", "--tests", "durability"], "kills a server of its own"),
        (["--tests", "durability", "--start", "false"], "did not listen"),
    ],
)
def test_what_can_not_be_done_is_said_in_a_line(words: list[str], why: str, tmp_path: Path) -> None:
    run = bench(*words, directory=tmp_path)
    assert run.returncode != 0
    assert why in run.stderr
    assert "Traceback" not in run.stderr
