"""The five systems that keyhaus continues: every example of their documents runs, as it is written there.

The examples are quoted (their licence is MIT). What they import from their own modules is keyhaus' under those names,
and where they name a port of theirs it is the test server's. Two were mended: the second text system's calls a function
`send_command` that nowhere is, and lacks a comma, so that its first two commands run together; that one is tried as it
stands, too. Each test prints how many examples of which document it has run.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import keyhaus
from keyhaus.client import frame, jsonl, text
from tests.e2e.conftest import Serve
from tests.support.dialects import FrameClient, JsonClient, TextClient
from tests.support.processes import HOST, RunningKeyhaus, keyhaus_server

TEXT_PORT, JSON_PORT, FRAME_PORT = 8080, 9999, 65433


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeyhaus]:
    """A server with the ports of the systems, each elsewhere, and durable as by default."""
    more = [word for dialect in ("json", "frame") for word in ("--listen", f"{dialect}://{HOST}:0")]
    directory = tmp_path_factory.mktemp("systems")
    with keyhaus_server(directory, *more, "--text-unterminated", listen="text") as server:
        yield server


@pytest.fixture
def ports(running: RunningKeyhaus) -> dict[int, int]:
    """Where each of the systems' ports is; the database is empty."""
    client = TextClient(running.ports["text"])
    client("FLUSHALL")
    client.close()
    return {
        TEXT_PORT: running.ports["text"],
        JSON_PORT: running.ports["json"],
        FRAME_PORT: running.ports["frame"],
    }


@pytest.fixture
def modules(ports: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The modules that the examples import, with the clients' default ports where the server is."""
    opened: list[frame.KVClient] = []  # that system's examples close none

    class TextSystemClient(text.Client):
        def __init__(self, host: str = "127.0.0.1", port: int = TEXT_PORT) -> None:
            super().__init__(host, ports[port])

    class JsonClientOfThere(jsonl.KVClient):
        def __init__(self, host: str = "localhost", port: int = JSON_PORT) -> None:
            super().__init__(host, ports[port])

    class FrameClientOfThere(frame.KVClient):
        def __init__(
            self, host: str = "127.0.0.1", port: int = FRAME_PORT, timeout: float = 5.0, max_retries: int = 3
        ) -> None:
            super().__init__(host, ports[port], timeout, max_retries)
            opened.append(self)

    def module(name: str, **content: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    inner = module("client.client", Client=TextSystemClient)
    module("client", client=inner, KVClient=JsonClientOfThere)
    module("storage_engine", StorageEngine=keyhaus.StorageEngine)
    module("kvstore", client=module("kvstore.client", KVClient=FrameClientOfThere, ServerError=frame.ServerError))
    yield
    for client in opened:
        client.close()


def printed(example: str, **names: Any) -> str:
    """Runs an example; what it prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(example, "an example", "exec"), {"__name__": "__main__", **names})
    return output.getvalue()


def count(document: str, examples: int) -> None:
    print(f"{document}: {examples} examples run")


# the in-memory server with transactions of many clients


TRANSACTION_EXAMPLE: Final = """
from client.client import Client

client = Client()
client.connect()

# Sending a BEGIN command to create a transaction
response = client.send_command("BEGIN")
transaction_id = response['transaction_id']
print(f"Transaction started with ID: {transaction_id}")

# PUT command to add a key-value pair
response = client.send_command(f"PUT key1 value1 {transaction_id}")
print(response['status'])  # Output: {'status': 'Ok'}

# Disconnect
client.disconnect()
"""


@pytest.mark.usefixtures("modules")
def test_the_client_begins_a_transaction_and_puts(ports: dict[int, int]) -> None:
    said = printed(TRANSACTION_EXAMPLE)
    assert re.fullmatch(r"Transaction started with ID: tx-\w{26}\nOk\n", said)
    client = TextClient(ports[TEXT_PORT])
    assert client("GET key1")["status"] == "Error", "it left without a COMMIT"
    client.close()
    count("in-memory server with transactions", 1)


def test_its_menu_starts_a_server_connects_a_client_and_exits(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "keyhaus", "menu", "--port", "0"],
        input="1\n2\n\n\nPUT key1 value1\nexit\n3\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert "Main Menu:\n1. Start Server\n2. Connect Client\n3. Exit\nSelect an option:" in run.stdout
    assert '{"status": "Ok", "result": {"key": "key1", "value": "value1"}}' in run.stdout
    count("in-memory server with transactions: menu", 1)


# its first version


PUT_EXAMPLE: Final = """
from client.client import Client

client = Client()
client.connect()
response = client.send_command("PUT key1 value1")
print(response)  # Output: {'status': 'Ok'}
client.disconnect()
"""


@pytest.mark.usefixtures("modules")
def test_the_client_puts() -> None:
    told = eval(printed(PUT_EXAMPLE))
    assert told["status"] == "Ok"
    count("first version of it", 1)


# the server that keeps its state in a JSON file


SOCKET_EXAMPLE: Final = """
import socket

# Connect to the server
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
server_address = ('localhost', 8080)
sock.connect(server_address)

# Add a key-value pair
sock.sendall(b'PUT key1 value1')
# Receive the response from the server
# Limit the response to prevent overflow
response = sock.recv(1024).decode()
# Print the response
print(response)

# Add another key-value pair
sock.sendall(b'PUT key2 value2')
response = sock.recv(1024).decode()
print(response)

# Get the value of a key
sock.sendall(b'GET key1')
response = sock.recv(1024).decode()
print(response)

# Start a new transaction
commands = [
  b'START'{comma}
  b'DEL key1',
  b'COMMIT'
]

{send}
print(responses)
# Close the socket
sock.close()
"""
# The document sends the commands, and then calls a function that is not there with them: that function is all there is.
SENDS: Final = """
def send_command(data):
    sock.sendall(data)
    received = b''
    while received.count(b'\\n') < data.count(b'\\n') + 1:
        received += sock.recv(1024)
    return received.decode()

responses = send_command(b'\\n'.join(commands))
"""


def socket_example(ports: dict[int, int], comma: str) -> list[dict[str, Any]]:
    example = SOCKET_EXAMPLE.format(comma=comma, send=SENDS).replace("8080", str(ports[TEXT_PORT]))
    return [json.loads(line) for line in printed(example).splitlines() if line]


def test_the_socket_example(ports: dict[int, int]) -> None:
    said = socket_example(ports, ",")
    assert said[:3] == [
        {"status": "Ok", "result": {"key": "key1", "value": "value1"}},
        {"status": "Ok", "result": {"key": "key2", "value": "value2"}},
        {"status": "Ok", "result": {"key": "key1", "value": "value1"}},
    ]
    assert [answer["result"] for answer in said[3:]] == [
        "Transaction started",
        {"key": "key1"},
        "Transaction committed",
    ]
    client = TextClient(ports[TEXT_PORT])
    assert client("GET key1")["message"] == "Key not found: key1"
    client.close()
    count("server with a JSON state file: sockets", 1)


def test_the_socket_example_as_it_stands_sends_an_unknown_command(ports: dict[int, int]) -> None:
    said = socket_example(ports, "")
    assert [answer["status"] for answer in said] == ["Ok"] * 3 + ["Error"] * 2
    assert "STARTDEL" in said[3]["message"]


SEQUENCE: Final = """
START
{"status": "Ok", "result": "Transaction started"}
PUT {"key": "key1", "value": "value1"}
{"status": "Ok", "result": {"key": "key1", "value": "value1"}}
PUT {"key": "key2", "value": "value2"}
{"status": "Ok", "result": {"key": "key2", "value": "value2"}}
GET key1
{"status": "Ok", "result": {"key": "key1", "value": "value1"}}
COMMIT
{"status": "Ok", "result": "Transaction commited"}
"""


def test_the_command_sequence_with_its_feedback(ports: dict[int, int]) -> None:
    client = TextClient(ports[TEXT_PORT])
    lines = SEQUENCE.strip().splitlines()
    for command, feedback in zip(lines[::2], lines[1::2], strict=True):
        expected = json.loads(feedback.replace("commited", "committed"))
        told = client(command)
        assert {name: told[name] for name in expected} == expected
    client.close()
    count("server with a JSON state file: sequence", 5)


def test_the_state_is_kept_in_a_json_file_and_loaded_again(serve: Serve, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    first = serve("--engine", "memory", "--state-file", str(state), listen="text")
    client = TextClient(first.port)
    assert client("PUT key1 value1")["status"] == "Ok"
    client.close()
    assert first.stop() == 0
    assert json.loads(state.read_text()) == {"key1": "value1"}
    again = TextClient(serve("--engine", "memory", "--state-file", str(state), listen="text").port)
    assert again("GET key1")["result"]["value"] == "value1"
    again.close()
    count("server with a JSON state file: the file", 1)


# the LSM database over JSON lines


LIBRARY_EXAMPLE: Final = """
from client import KVClient

# Using context manager (recommended)
with KVClient(host='localhost', port=9999) as client:
    # Put operation
    client.put('user:1000', 'John Doe')

    # Get operation
    value = client.get('user:1000')
    print(f"Value: {value}")

    # Batch put
    keys = ['user:1001', 'user:1002', 'user:1003']
    values = ['Alice', 'Bob', 'Charlie']
    client.batch_put(keys, values)

    # Range query
    results = client.get_range('user:1000', 'user:1003')
    for key, value in results:
        print(f"{key}: {value}")

    # Delete operation
    client.delete('user:1000')
"""
ENGINE_EXAMPLE: Final = """
from storage_engine import StorageEngine

# Create storage engine
engine = StorageEngine(data_dir='./data', memtable_size=1000)

# Put operation
engine.put('key1', 'value1')

# Get operation
value = engine.get('key1')

# Batch put
keys = ['key2', 'key3', 'key4']
values = ['value2', 'value3', 'value4']
engine.batch_put(keys, values)

# Range query
results = engine.get_range('key1', 'key3')

# Delete operation
engine.delete('key1')

# Close engine (flushes remaining data)
engine.close()
"""
JSON_EXAMPLES: Final = """
{"command": "put", "key": "mykey", "value": "myvalue"}
{"status": "ok", "message": "Key-value pair stored"}
{"command": "get", "key": "mykey"}
{"status": "ok", "value": "myvalue"}
{"command": "batch_put", "keys": ["k1", "k2"], "values": ["v1", "v2"]}
{"status": "ok", "message": "2 key-value pairs stored"}
{"command": "batch_put", "keys": ["key1", "key2"], "values": ["value1", "value2"]}
{"status": "ok", "message": "2 key-value pairs stored"}
{"command": "get_range", "start_key": "key", "end_key": "kez"}
{"status": "ok", "data": [["key1", "value1"], ["key2", "value2"]]}
{"command": "delete", "key": "mykey"}
{"status": "ok", "message": "Key deleted"}
"""
STORE_EXAMPLE: Final = """
from client import KVClient

with KVClient() as client:
    # Store user data
    client.put('user:alice', 'Alice Smith')
    client.put('user:bob', 'Bob Jones')

    # Retrieve data
    print(client.get('user:alice'))  # Alice Smith
"""
SESSION_EXAMPLE: Final = """
from client import KVClient
import json

with KVClient() as client:
    # Store session data
    session_data = {
        'user_id': 1234,
        'login_time': '2024-01-01T10:00:00',
        'expires': '2024-01-01T12:00:00'
    }
    client.put('session:abc123', json.dumps(session_data))

    # Retrieve session
    data = json.loads(client.get('session:abc123'))
    print(data['user_id'])  # 1234
"""
SERIES_EXAMPLE: Final = """
from client import KVClient

with KVClient() as client:
    # Store time-series data with timestamp keys
    client.put('metrics:2024-01-01T10:00:00', '{"cpu": 45, "mem": 60}')
    client.put('metrics:2024-01-01T10:01:00', '{"cpu": 50, "mem": 62}')
    client.put('metrics:2024-01-01T10:02:00', '{"cpu": 48, "mem": 61}')

    # Query range
    results = client.get_range(
        'metrics:2024-01-01T10:00:00',
        'metrics:2024-01-01T10:02:00'
    )
    for timestamp, metrics in results:
        print(f"{timestamp}: {metrics}")
"""
LOADING_EXAMPLE: Final = """
from client import KVClient

with KVClient() as client:
    # Prepare batch data
    keys = [f'product:{i}' for i in range(1000)]
    values = [f'Product {i}' for i in range(1000)]

    # Batch insert
    client.batch_put(keys, values)
    print("Loaded 1000 products")
"""


@pytest.mark.usefixtures("modules")
def test_the_client_library_and_its_examples(ports: dict[int, int]) -> None:
    names = "user:1000: John Doe\nuser:1001: Alice\nuser:1002: Bob\nuser:1003: Charlie\n"
    assert printed(LIBRARY_EXAMPLE) == "Value: John Doe\n" + names
    assert printed(STORE_EXAMPLE) == "Alice Smith\n"
    assert printed(SESSION_EXAMPLE) == "1234\n"
    assert printed(SERIES_EXAMPLE).splitlines() == [
        'metrics:2024-01-01T10:00:00: {"cpu": 45, "mem": 60}',
        'metrics:2024-01-01T10:01:00: {"cpu": 50, "mem": 62}',
        'metrics:2024-01-01T10:02:00: {"cpu": 48, "mem": 61}',
    ]
    assert printed(LOADING_EXAMPLE) == "Loaded 1000 products\n"
    client = jsonl.KVClient(port=ports[JSON_PORT])
    assert client.get("user:1000") is None
    assert len(client.get_range("product:", "product;")) == 1000
    client.close()
    count("LSM database: client library", 5)


@pytest.mark.usefixtures("modules")
def test_the_storage_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(ENGINE_EXAMPLE, "an example", "exec"), names)
    assert names["value"] == "value1"
    assert names["results"] == [("key1", "value1"), ("key2", "value2"), ("key3", "value3")]
    with keyhaus.StorageEngine(data_dir="./data") as engine:
        assert engine.get_range("a", "z") == [("key2", "value2"), ("key3", "value3"), ("key4", "value4")]
    count("LSM database: storage engine", 1)


def test_the_protocol(ports: dict[int, int]) -> None:
    client = JsonClient(ports[JSON_PORT])
    lines = JSON_EXAMPLES.strip().splitlines()
    for request, reply in zip(lines[::2], lines[1::2], strict=True):
        client.send(request.encode() + b"\n")
        assert client.receive() == json.loads(reply)
    client.close()
    count("LSM database: protocol", 5)


def test_the_server_options_have_their_names(tmp_path: Path) -> None:
    options = ["--host", HOST, "--port", "0", "--data-dir", "./mydata", "--memtable-size", "5000"]
    from_there = RunningKeyhaus([sys.executable, "-m", "keyhaus", "serve", *options], tmp_path, {})
    try:
        client = JsonClient(from_there.port)
        assert client("put", key="a", value="1") == {"status": "ok", "message": "Key-value pair stored"}
        assert client("CONFIG", args=["GET", "memtable-size"])["result"] == {"memtable-size": "5000"}
        client.close()
        assert (tmp_path / "mydata").is_dir()
    finally:
        from_there.stop()
    count("LSM database: server", 1)


def test_the_interactive_client_s_commands(serve: Serve) -> None:
    port = serve("--engine", "memory", listen="auto").port
    script = "put a 1\nget a\nbatch b 2 c 3\nrange a c\ndelete a\nping\nquit\n"
    run = subprocess.run(
        [sys.executable, "-m", "keyhaus", "shell", "--json", f"keyhaus://{HOST}:{port}"],
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said = [json.loads(line) for line in run.stdout.splitlines()]
    assert said == ["OK", "1", "OK", [None, ["a", "1", "b", "2", "c", "3"]], 1, "PONG"]
    count("LSM database: interactive client", 7)


# the typed store over length-prefixed pickles


TYPED_EXAMPLE: Final = """
from kvstore.client import KVClient

# Create client with optional configuration
c = KVClient(
    host='127.0.0.1',
    port=65433,
    timeout=5.0,      # Connection timeout
    max_retries=3     # Retry failed connections
)

# Basic operations
c.set('foo', 'bar')
print(c.get('foo'))  # Output: 'bar'
c.delete('foo')

# Bulk operations
c.bulk_set([('a', 1), ('b', 2), ('c', 3)])

# Check existence
if c.exists('a'):
    print("Key 'a' exists")

# List all keys
all_keys = c.keys()
print(f"Total keys: {len(all_keys)}")

# Complex data types
c.set('user', {'name': 'Alice', 'age': 30})
c.set('numbers', [1, 2, 3, 4, 5])
"""
ERRORS_EXAMPLE: Final = """
from kvstore.client import KVClient, ServerError

try:
    c = KVClient()
    c.set('key', 'value')
except ConnectionError as e:
    print(f"Cannot connect to server: {e}")
except ServerError as e:
    print(f"Server error: {e}")
except Exception as e:
    print(f"Unexpected error: {e}")
"""


@pytest.mark.usefixtures("modules")
def test_the_typed_client(ports: dict[int, int]) -> None:
    assert printed(TYPED_EXAMPLE) == "bar\nKey 'a' exists\nTotal keys: 3\n"
    assert printed(ERRORS_EXAMPLE) == ""
    with frame.KVClient(port=ports[FRAME_PORT]) as client:
        assert client.get("user") == {"name": "Alice", "age": 30}
        assert client.get("numbers") == [1, 2, 3, 4, 5]
        assert client.get("key") == "value"
        assert [client.set("x", 1), client.delete("x"), client.delete("x"), client.get("x")] == [
            "OK",
            "OK",
            "NOT_FOUND",
            None,
        ]
    count("typed store: client", 2)


@pytest.mark.usefixtures("modules")
def test_the_typed_client_s_errors(ports: dict[int, int]) -> None:
    ports[FRAME_PORT] = 1  # nobody is there
    example = ERRORS_EXAMPLE.replace("KVClient()", "KVClient(max_retries=0)")
    assert printed(example).startswith("Cannot connect to server: nobody answers at 127.0.0.1:1")


def test_the_typed_protocol(ports: dict[int, int]) -> None:
    client = FrameClient(ports[FRAME_PORT])
    client.send_payload(pickle.dumps({"cmd": "SET", "key": "foo", "value": "bar"}))
    assert client.receive() == "OK"
    assert client("NONSENSE") == {"error": "UNKNOWN_COMMAND"}
    client.close()
    count("typed store: protocol", 1)


def test_the_benchmark_of_the_typed_store(tmp_path: Path) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "keyhaus",
            "bench",
            "--dialect",
            "pickle",
            "--requests",
            "200",
            "--kills",
            "1",
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert [test["name"] for test in told["tests"]] == ["write", "read", "bulk", "mixed"]
    assert told["durability"]["rate"] == 100.0
    count("typed store: benchmark", 1)
