"""The client of seeds 000 and 001 against a real server: their examples, transactions, a server that goes away."""

from __future__ import annotations

import pytest

from keyhaus.client.text import Client
from tests.e2e.conftest import Serve
from tests.support.processes import HOST


@pytest.mark.parametrize("listen", ["text", "auto"])
def test_the_examples_of_the_seeds(serve: Serve, listen: str) -> None:
    client = Client(HOST, serve("--engine", "memory", listen=listen).port)
    client.connect()
    assert client.send_command("PUT key1 value1") == {"status": "Ok", "result": {"key": "key1", "value": "value1"}}
    transaction_id = client.send_command("BEGIN")["transaction_id"]
    response = client.send_command(f"PUT key1 two words {transaction_id}")
    assert (response["status"], response["result"]["value"]) == ("Ok", "two words")
    assert client.send_command(f"COMMIT {transaction_id}")["status"] == "Ok"
    assert client.send_command("GET key1")["result"] == {"key": "key1", "value": "two words"}
    refused = client.send_command("STARTDEL key1")
    assert refused["status"] == "Error" and "STARTDEL" in refused["message"]
    client.disconnect()


def test_a_long_value_comes_back_whole(serve: Serve) -> None:
    value = "ä" * 1_000_000
    with Client(HOST, serve("--engine", "memory", listen="text").port) as client:
        assert client.send_command(f"PUT long {value}")["status"] == "Ok"
        assert client.send_command("GET long")["result"]["value"] == value


def test_what_was_begun_is_rolled_back_when_it_disconnects(serve: Serve) -> None:
    port = serve("--engine", "memory", listen="text").port
    with Client(HOST, port) as client:
        client.send_command("BEGIN")
        client.send_command("PUT key1 value1")
    with Client(HOST, port) as client:
        assert client.send_command("GET key1")["message"] == "Key not found: key1"


def test_a_server_that_goes_away_is_an_error_and_another_one_can_be_connected_to(serve: Serve) -> None:
    first = serve("--engine", "memory", listen="text")
    client = Client(HOST, first.port)
    client.connect()
    first.kill()
    with pytest.raises(ConnectionError, match="the connection was lost|the server closed the connection"):
        client.send_command("PUT key1 value1")
    with pytest.raises(ConnectionError, match="nobody answers at"):
        client.connect()
    client.port = serve("--engine", "memory", listen="text").port
    client.connect()
    assert client.send_command("PING")["status"] == "Ok"
    client.disconnect()
