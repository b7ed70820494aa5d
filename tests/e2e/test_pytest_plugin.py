"""The fixtures for other projects' tests, in pytest sessions of their own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.processes import SOURCE

pytest_plugins = "pytester"

PLUGIN = ("-p", "keyhaus.pytest_plugin", "-p", "no:cacheprovider", "--strict-markers", "-W", "error")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with tests, which is run in a process of its own."""
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return pytester


def test_each_test_has_an_empty_database_of_one_server(run: pytest.Pytester) -> None:
    run.makepyfile(
        """
        import pathlib
        import keyhaus
        import pytest

        pids = set()

        @pytest.mark.parametrize("turn", range(2))
        def test_client(keyhaus_client, keyhaus_server, turn):
            assert keyhaus_client.execute("DBSIZE") == 0
            keyhaus_client.put("key", "value")
            with keyhaus.Client(keyhaus_server.url + "/3") as other:
                assert other.execute("DBSIZE") == 0
                other.put("key", "value")
            pids.add(keyhaus_server.process.pid)
            assert len(pids) == 1
            assert keyhaus_server.engine == "memory"

        @pytest.mark.parametrize("turn", range(2))
        def test_embedded(keyhaus_db, turn):
            assert keyhaus_db.get("key") is None and keyhaus_db.path is None
            keyhaus_db.put("key", "value")

        def test_of_redis(keyhaus_server):
            import redis
            with redis.Redis.from_url(keyhaus_server.redis_url) as client:
                assert client.ping()
            pathlib.Path("pid").write_text(str(keyhaus_server.process.pid))
        """
    )
    result = run.runpytest_subprocess(*PLUGIN)
    result.assert_outcomes(passed=5)
    pid = int((run.path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists(), "the server ends with the session"


def test_engine_and_durability_are_chosen(run: pytest.Pytester) -> None:
    run.makeini("[pytest]\nkeyhaus_durability = everysec\nkeyhaus_options =\n  --set timeout=77\n  --cache-bytes 1mb")
    run.makepyfile(
        """
        import pytest

        def fact(database, name):
            lines = database.execute("INFO", "keyhaus").decode().splitlines()
            return dict(line.split(":", 1) for line in lines if ":" in line)[name]

        def test_of_the_ini_file(keyhaus_client, keyhaus_server):
            assert (fact(keyhaus_client, "engine"), keyhaus_server.durability) == ("memory", "everysec")
            assert keyhaus_client.execute("CONFIG", "GET", "timeout") == {b"timeout": b"77"}

        @pytest.mark.keyhaus(engine="rocksdb", durability="none")
        def test_of_the_marker(keyhaus_client, keyhaus_server):
            assert fact(keyhaus_client, "engine") == "rocksdb" and fact(keyhaus_client, "durability") == "none"
            keyhaus_client.put("key", "value")
            assert keyhaus_server.engine == "memory"

        @pytest.mark.keyhaus(engine="rocksdb")
        def test_of_the_marker_embedded(keyhaus_client, keyhaus_db, tmp_path):
            assert keyhaus_client.execute("DBSIZE") == 0
            assert fact(keyhaus_db, "durability") == "everysec" and keyhaus_db.path == str(tmp_path / "keyhaus")
        """
    )
    run.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=3)


def test_what_is_no_choice_is_told(run: pytest.Pytester) -> None:
    run.makepyfile(
        """
        import pytest

        @pytest.mark.keyhaus(engine="lsm")
        def test_engine(keyhaus_db): ...

        @pytest.mark.keyhaus("rocksdb")
        def test_words(keyhaus_client): ...
        """
    )
    result = run.runpytest_subprocess(*PLUGIN)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        ["*keyhaus' engine is one of memory, rocksdb, not 'lsm'*", "*takes engine=* and durability=*"]
    )


def test_a_server_that_does_not_start_says_why(run: pytest.Pytester) -> None:
    run.makeini("[pytest]\nkeyhaus_options = --no-such-option")
    run.makepyfile("def test_it(keyhaus_client): ...")
    result = run.runpytest_subprocess(*PLUGIN)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*keyhaus serve has not started:*", "*No such option*"])


def test_nothing_is_imported_before_a_fixture_is_used(run: pytest.Pytester) -> None:
    run.makepyfile(
        """
        import sys

        def test_without_fixtures():
            assert [name for name in sys.modules if name.startswith("keyhaus.")] == ["keyhaus.pytest_plugin"]
            assert not {"redis", "msgspec", "uvloop", "typer", "rocksdict"} & set(sys.modules)
        """
    )
    run.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=1)


def test_the_examples_of_the_page_pass(run: pytest.Pytester) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "test-with-pytest.md").read_text()
    (settings,) = re.findall(r"^```ini\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    run.makeini(settings)
    run.makepyfile("\n".join(examples))
    run.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=4)
