"""The Python client without a server: addresses, words, errors, what is generated and what is imported when."""

from __future__ import annotations

import ast
import importlib
import operator
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from redis import exceptions as redis

import keyhaus
import keyhaus.commands
from keyhaus.client import words
from keyhaus.client.address import Address, parse_url
from keyhaus.client.errors import ConnectionLost, OutcomeUnknown, answered, from_wire
from keyhaus.commands.spec import TABLE, Flag
from keyhaus.core import errors
from keyhaus.core.transactional import TransactionEnded, pause
from tools.generate_client import files


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("keyhaus://localhost", Address("localhost", 19272, 0)),
        ("keyhaus://127.0.0.1:7/15", Address("127.0.0.1", 7, 15)),
        ("keyhaus://[::1]:7/", Address("::1", 7, 0)),
    ],
)
def test_a_url_names_host_port_and_database(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://localhost", "no address"),
        ("keyhaus://", "no address"),
        ("localhost:19272", "no address"),
        ("keyhaus://localhost/x", "number"),
        ("keyhaus://localhost/-1", "number"),
        ("keyhaus://localhost/0?timeout=3", "options"),
        ("keyhauss://localhost", "TLS"),
        ("keyhaus+tls://localhost", "TLS"),
    ],
)
def test_another_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        keyhaus.Client(url)


@pytest.mark.parametrize("who", ["ada:secret", ":secret", "ada"])
def test_a_user_is_refused_and_the_password_not_repeated(who: str) -> None:
    with pytest.raises(ValueError, match="user or a password") as raised:
        keyhaus.AsyncClient(f"keyhaus://{who}@localhost:19272/0")
    assert "secret" not in str(raised.value)


def test_a_request_has_the_bytes_of_its_words() -> None:
    assert words.request([b"SET", b"\xff \r\n", b""]) == b"*3\r\n$3\r\nSET\r\n$4\r\n\xff \r\n\r\n$0\r\n\r\n"


def _table() -> None:
    for module in pkgutil.iter_modules(keyhaus.commands.__path__):
        importlib.import_module(f"keyhaus.commands.{module.name}")


def test_only_what_reads_is_sent_again() -> None:
    _table()
    for name in words.READS:
        container, _, sub = name.partition(" ")
        flags = (TABLE[container].subcommands[sub] if sub else TABLE[name]).flags
        assert name == "INFO" or flags & Flag.READ, name
        assert not flags & Flag.WRITE, name


def test_every_code_of_the_server_becomes_its_class() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.Error) and kind.code not in (errors.Error.code, "SYNTAX"):
            error = from_wire(kind.code, "why")
            assert type(error).code == kind.code and isinstance(error, kind.__mro__[1]) and error.message == "why"
            assert error.retryable == kind.retryable
    assert type(from_wire("ERR", "syntax error")) is errors.UserError
    other = from_wire("LOADING", "wait")
    assert type(other) is errors.Error and other.message == "LOADING wait" and not other.retryable


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (redis.ResponseError("CONFLICT key 'a' was changed"), errors.Conflict),
        (redis.ReadOnlyError("begin another one", status_code="READONLY"), errors.ReadOnly),
        (redis.ResponseError("value is not an integer", status_code="ERR"), errors.UserError),
        (redis.AuthenticationError("Authentication required.", status_code="NOAUTH"), errors.NoAuth),
        (redis.ConnectionError("max number of clients reached", status_code="ERR"), errors.UserError),
        (redis.ConnectionError("Connection closed by server."), None),
        (redis.RedisError("anything"), None),
    ],
)
def test_an_answer_is_told_apart_from_a_lost_connection(
    raised: redis.RedisError, kind: type[errors.Error] | None
) -> None:
    error = answered(raised)
    assert error is None if kind is None else type(error) is kind


def test_the_errors_of_lost_connections_are_errors_of_both_worlds() -> None:
    assert issubclass(ConnectionLost, keyhaus.Error) and issubclass(OutcomeUnknown, ConnectionError)
    assert ConnectionLost.retryable and not OutcomeUnknown.retryable
    assert TransactionEnded.retryable and not errors.UnknownTransaction.retryable
    assert str(ConnectionLost("why")) == ConnectionLost("why").message == "why"


def test_pauses_grow_are_bounded_and_jittered() -> None:
    for failures, most in ((1, 0.01), (2, 0.02), (5, 0.16), (8, 1.0), (10_000, 1.0)):
        pauses = [pause(failures) for _ in range(200)]
        assert 0 <= min(pauses) < most / 2 < max(pauses) <= most


@pytest.mark.parametrize(
    ("path", "text"), [pytest.param(*file, id="/".join(file[0].parts[-3:])) for file in files().items()]
)
def test_the_client_that_blocks_is_up_to_date(path: Path, text: str) -> None:
    assert path.read_text() == text, "run: make client"
    assert "async" not in text.replace("asynchronous", "") and "await" not in text


def test_type_checkers_are_told_of_what_is_there() -> None:
    tree = ast.parse(Path(keyhaus.__file__).with_suffix(".pyi").read_text())
    told = {name.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for name in node.names}
    told = {name: module for name, module in told.items() if module != "collections.abc"}
    assert told == keyhaus._LAZY
    for name in told:
        assert getattr(keyhaus, name).__name__ == name and name in dir(keyhaus)
    with pytest.raises(AttributeError, match="nothing"):
        operator.attrgetter("nothing")(keyhaus)


def test_a_server_starts_without_the_client_library() -> None:
    program = (
        "import sys, keyhaus, keyhaus.cli.main, keyhaus.cli.serve, keyhaus.server.server, keyhaus.core.helper_process\n"
        "assert not {'redis', 'keyhaus.client'} & {*sys.modules}\n"
        "keyhaus.Client\n"
        "assert 'redis' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
