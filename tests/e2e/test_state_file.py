"""The state file of a memory engine: loaded, kept while it changes, whole whatever happens, untouched if broken."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

import keyhaus
from keyhaus.core.objects import pack
from tests.e2e.conftest import Serve
from tests.e2e.test_export_import import command, fill, state
from tests.support.processes import HOST, SOURCE, RunningKeyhaus, keyhaus_server

OPTIONS = ("--engine", "memory", "--state-file", "state.json")


def until(done: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def connected(server: RunningKeyhaus) -> redis.Redis:
    return redis.Redis(HOST, server.port)


def refused(directory: Path, *options: str) -> str:
    """What a server says that does not start."""
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    words = (sys.executable, "-m", "keyhaus", "serve", "--listen", f"resp://{HOST}:0", *options)
    run = subprocess.run(
        words,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode in (1, 2) and run.stdout == "", run
    return run.stderr


def test_the_story_of_its_first_users(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"key1": "value1", "ключ": "значение"}')
    server = serve(*OPTIONS, listen="text")
    with socket.create_connection((HOST, server.port), 10) as client, client.makefile("rw", newline="\n") as stream:
        for line in (
            "GET key1",
            "PUT key2 value2",
            "GET ключ",
            'PUT {"key": "o", "value": {"a": [1, null]}}',
            "DEL key1",
        ):
            stream.write(line + "\n")
            stream.flush()
            assert json.loads(stream.readline())["status"] == "Ok", line
        until(lambda: "key2" in json.loads((tmp_path / "state.json").read_text()))
    assert server.stop() == 0
    assert json.loads((tmp_path / "state.json").read_text()) == {
        "key2": "value2",
        "o": {"a": [1, None]},
        "ключ": "значение",
    }


def test_all_that_there_is_survives_and_is_what_an_export_is(serve: Serve, tmp_path: Path) -> None:
    server = serve(*OPTIONS)
    assert not (tmp_path / "state.json").exists(), "nothing has changed yet"
    with connected(server) as client:
        there = fill(client)
        url = f"redis://{HOST}:{server.port}"
        assert command("export", "--url", url, "-o", "export.json", directory=tmp_path).exit_code == 0
        client.set("short", "x", px=1)
    assert server.stop() == 0
    assert (tmp_path / "state.json").read_bytes() == (tmp_path / "export.json").read_bytes()
    server = serve(*OPTIONS, "--max-transaction-bytes", "1024")
    with connected(server) as client:
        assert state(client) == there
        client.flushall()
    assert server.stop() == 0
    assert (tmp_path / "state.json").read_text() == "{}\n"


def test_info_tells_when_it_was_written(serve: Serve, tmp_path: Path) -> None:
    with connected(serve(*OPTIONS)) as client:
        facts = client.info("keyhaus")
        assert (facts["state_file"], facts["state_saved_unix_ms"]) == (str(tmp_path / "state.json"), 0)
        client.set("a", "x")
        until(lambda: client.info("keyhaus")["state_saved_unix_ms"])
        assert json.loads((tmp_path / "state.json").read_text()) == {"a": "x"}
        before = (tmp_path / "state.json").stat().st_ino
        client.get("a")
        client.set("b", "x")
        until(lambda: (tmp_path / "state.json").stat().st_ino != before)
        assert client.info("keyhaus")["state_error"] == ""


def test_a_write_that_fails_is_told_and_tried_again(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"a": "old"}')
    server = serve(*OPTIONS)
    (tmp_path / ".state.json.new").mkdir()
    with connected(server) as client:
        client.set("a", "new")
        until(lambda: "Is a directory" in client.info("keyhaus")["state_error"])
        assert (tmp_path / "state.json").read_text() == '{"a": "old"}'
        server.wait_for_line("the state file can't be written")
        (tmp_path / ".state.json.new").rmdir()
        until(lambda: not client.info("keyhaus")["state_error"])
        assert json.loads((tmp_path / "state.json").read_text()) == {"a": "new"}
        client.set("a", "newer")
        (tmp_path / ".state.json.new").mkdir()
    assert server.stop() == 1, "what is not kept is told at the end too"
    server.wait_for_line("the state file .*state.json could not be written: .*Is a directory")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": "x",\n "b" "y"}', "line 2, column 6: expected a colon behind the key"),
        ('{"a": "x",\n "b": nul}', "line 2, column 7: this is no JSON"),
        ('["a"]', "line 1, column 1: expected an object"),
        ("", "line 1, column 1: expected an object, {key: value, …}, found the end of the file"),
        ('{"keyhaus.rows": [{"database": 16, "key": "a", "value": "x"}]}', "line 1: there is no database 16"),
    ],
)
def test_a_broken_file_stops_the_start_and_stays_as_it_is(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "state.json").write_text(text)
    said = refused(tmp_path, *OPTIONS)
    assert said.startswith(f"keyhaus: the state file {tmp_path / 'state.json'} can't be loaded: {problem}"), said
    assert "It was left as it is: repair it, or name another with --state-file" in said
    assert (tmp_path / "state.json").read_text() == text


def test_where_there_can_be_no_state_file(serve: Serve, tmp_path: Path) -> None:
    said = " ".join(refused(tmp_path, "--state-file", "state.json").split())
    assert "Invalid value for --state-file: state-file is for the memory engine" in said and "keyhaus import" in said
    assert "No such file or directory" in refused(tmp_path, "--engine", "memory", "--state-file", "none/state.json")
    (tmp_path / "directory").mkdir()
    assert "it is no file" in refused(tmp_path, "--engine", "memory", "--state-file", "directory")
    serve(*OPTIONS)
    assert "is in use by another server: stop it first" in refused(tmp_path, *OPTIONS)
    with pytest.raises(keyhaus.UserError, match="state-file is for keyhaus serve"):
        keyhaus.open(engine="memory", state_file="state.json")


def test_rights_and_links_stay(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "state.json").write_text("{}")
    (tmp_path / "real" / "state.json").chmod(0o600)
    (tmp_path / "state.json").symlink_to("real/state.json")
    server = serve(*OPTIONS)
    with connected(server) as client:
        client.set("a", "x")
    assert server.stop() == 0
    assert (tmp_path / "state.json").is_symlink()
    assert json.loads((tmp_path / "real" / "state.json").read_text()) == {"a": "x"}
    assert (tmp_path / "real" / "state.json").stat().st_mode & 0o777 == 0o600


def test_a_crash_leaves_a_whole_file_of_one_moment(tmp_path: Path, seed: int) -> None:
    """Two keys that change together, in a file that takes a while to write."""
    generator = random.Random(seed)
    (tmp_path / "state.json").write_text(json.dumps({f"filler:{n}": "x" * 500 for n in range(5000)}))
    for _ in range(3):
        with keyhaus_server(tmp_path, *OPTIONS) as server, connected(server) as client:
            end = time.monotonic() + 1 + 2 * generator.random()
            number = int(client.get("a") or 0)
            while time.monotonic() < end:
                number += 1
                client.mset({"a": number, "z": number})
            server.kill()
        found = json.loads((tmp_path / "state.json").read_text())
        assert found.get("a") == found.get("z") and len(found) in (5000, 5002)
    assert "a" in found, "it was written meanwhile"


def test_clients_go_on_while_it_is_written(serve: Serve, tmp_path: Path) -> None:
    """What is long in coming is written in slices: commands come in between, and those of one save see one moment."""
    server = serve(*OPTIONS)
    with connected(server) as client:
        client.mset({f"filler:{n}": "x" * 100 for n in range(60_000)})
        client.set("n", 0)
        until((tmp_path / ".state.json.new").exists)
        answered = 0
        while (tmp_path / ".state.json.new").exists():
            answered += 1
            client.set("n", answered)
        assert answered > 20
        assert json.loads((tmp_path / "state.json").read_text()).get("n") in (None, "0")
        until(lambda: client.info("keyhaus")["state_saved_unix_ms"])


def test_kinds_that_json_has_no_word_for_are_kept(serve: Serve, tmp_path: Path) -> None:
    server = serve(*OPTIONS)
    with connected(server) as client:
        client.execute_command("TYPED", "PUT", "t", *pack((1, {2})))
    assert server.stop() == 0
    with connected(serve(*OPTIONS)) as client:
        assert client.execute_command("TYPED", "GET", "t") == [[b"OBJECT", pack((1, {2}))[1]]]
