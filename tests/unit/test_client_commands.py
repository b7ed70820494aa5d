"""The commands about connections: what they ask of the session, and what CLIENT LIST tells of each client."""

from __future__ import annotations

import pytest

from keyhaus.commands import clients
from keyhaus.core import limits
from keyhaus.core.errors import Error, LimitExceeded
from keyhaus.core.reply import Verbatim
from tests.support.surroundings import PlainClient, Surrounded


@pytest.fixture
def database() -> Surrounded:
    return Surrounded()


def fields(line: str) -> dict[str, str]:
    return dict(field.split("=", 1) for field in line.split(" "))


def test_quit_and_reset_are_the_sessions(database: Surrounded) -> None:
    assert database.run("QUIT", "x") == "OK"
    assert database.run("RESET") == "RESET"
    assert database.client.done == [("quit",), ("reset",)]


def test_select_chooses_among_as_many_databases_as_there_are() -> None:
    database = Surrounded(databases=20)
    assert database.run("SELECT", "19") == "OK"
    assert database.client.database == 19
    assert isinstance(database.run("SELECT", "20"), Error)


def test_hello_changes_the_protocol_only_when_all_of_it_is_good(database: Surrounded) -> None:
    assert isinstance(database.run("HELLO", "3", "AUTH", "bob", "x"), Error)
    assert database.client.protocol == 2
    assert database.run("HELLO", "3")[b"proto"] == 3
    assert database.client.protocol == 3


def test_client_info_tells_all_that_there_is(database: Surrounded) -> None:
    database.run("CLIENT", "SETNAME", "me")
    assert database.run("CLIENT", "SETINFO", "lib-name", "redis-py(x)") == "OK"
    assert database.run("CLIENT", "SETINFO", "LIB-VER", "5.0") == "OK"
    reply = database.run("CLIENT", "INFO")
    assert type(reply) is Verbatim
    told = fields(reply.decode().removesuffix("\n"))
    assert (told["id"], told["name"], told["user"], told["db"], told["resp"]) == ("1", "me", "default", "0", "2")
    assert (told["addr"], told["laddr"], told["fd"]) == ("127.0.0.1:50001", "127.0.0.1:19272", "8")
    assert (told["age"], told["idle"], told["flags"], told["multi"]) == ("30", "10", "N", "-1")
    assert (told["qbuf"], told["tot-mem"], told["cmd"]) == ("26", "126", "client|list")
    assert (told["lib-name"], told["lib-ver"]) == ("redis-py(x)", "5.0")


def test_client_setinfo_refuses_what_would_break_the_line(database: Surrounded) -> None:
    assert str(database.run("CLIENT", "SETINFO", "lib-name", "a b")) == (
        "lib-name cannot contain spaces, newlines or special characters."
    )
    assert str(database.run("CLIENT", "SETINFO", "lib-foo", "a")) == "Unrecognized option 'lib-foo'"
    assert database.run("CLIENT", "SETINFO", "lib-name", "") == "OK"
    assert database.client.library_name == b""


@pytest.mark.parametrize("command", [("SETNAME",), ("SETINFO", "lib-ver")])
def test_names_are_bounded(database: Surrounded, command: tuple[str, ...]) -> None:
    assert database.run("CLIENT", *command, "x" * limits.CLIENT_NAME_BYTES_MAX) == "OK"
    error = database.run("CLIENT", *command, "x" * (limits.CLIENT_NAME_BYTES_MAX + 1))
    assert isinstance(error, LimitExceeded)


def test_client_list_can_choose(database: Surrounded) -> None:
    PlainClient(database.server, 2)
    PlainClient(database.server, 3)

    def ids(*words: str) -> list[str]:
        return [fields(line)["id"] for line in database.run("CLIENT", "LIST", *words).decode().splitlines()]

    assert ids() == ids("TYPE", "normal") == ["1", "2", "3"]
    assert ids("ID", "3", "9", "1") == ["3", "1"]
    assert ids("TYPE", "pubsub") == []


def test_client_list_makes_each_line_once(database: Surrounded, monkeypatch: pytest.MonkeyPatch) -> None:
    PlainClient(database.server, 2)
    made: list[int] = []
    line = clients.client_line

    def noted(client: PlainClient, now_ns: int) -> bytes:
        made.append(client.id)
        return line(client, now_ns)

    monkeypatch.setattr(clients, "client_line", noted)
    one, two = database.run("CLIENT", "LIST", "ID", "2", "1").splitlines()
    made.clear()
    told = database.run("CLIENT", "LIST", "ID", *["2", "9", "1"] * 1000)
    assert told.splitlines() == [one, two] * 1000  # as in Redis
    assert made == [2, 1]
    database.store.settings.put("max-reply-bytes", 1 << 20)
    error = database.run("CLIENT", "LIST", "ID", *["2"] * 10_000)
    assert isinstance(error, LimitExceeded)
    assert error.message.startswith("max-reply-bytes exceeded")


def test_client_kill_by_address_answers_before_it_closes_the_asker(database: Surrounded) -> None:
    other = PlainClient(database.server, 2)
    assert database.run("CLIENT", "KILL", other.address) == "OK"
    assert other.done == [("close", False)]
    assert database.run("CLIENT", "KILL", database.client.address) == "OK"
    assert database.client.done == [("close", True)]


@pytest.mark.parametrize(
    ("filters", "killed"),
    [
        (["ID", "2"], [2]),
        (["TYPE", "normal"], [2, 3]),
        (["TYPE", "normal", "SKIPME", "no"], [1, 2, 3]),
        (["USER", "default", "ADDR", "127.0.0.1:50003"], [3]),
        (["LADDR", "127.0.0.1:19272"], [2, 3]),
        (["laddr", "127.0.0.1:1"], []),
        (["ID", "1"], []),
        (["ID", "1", "skipme", "NO"], [1]),
        (["ID", "2", "ID", "3"], []),
        (["SKIPME", "yes"], [2, 3]),
    ],
)
def test_client_kill_by_filters_spares_the_asker_unless_told(
    database: Surrounded, filters: list[str], killed: list[int]
) -> None:
    all_of_them = [database.client, PlainClient(database.server, 2), PlainClient(database.server, 3)]
    assert database.run("CLIENT", "KILL", *filters) == len(killed)
    assert [client.id for client in all_of_them if client.done] == killed


def test_client_kill_asks_for_each_filter_once(database: Surrounded) -> None:
    other = PlainClient(database.server, 2)
    words = [b"CLIENT", b"KILL", *[b"ID", b"2", b"id", b"2", b"TYPE", b"normal"] * 1000]
    filters, skip_me = clients._filters(words)
    assert (len(filters), skip_me) == (2, True)
    assert database.run(*words) == 1
    assert other.done == [("close", False)]


def test_client_reply_and_no_evict_are_handed_on(database: Surrounded) -> None:
    for mode in ("off", "SKIP", "On"):
        assert database.run("CLIENT", "REPLY", mode) == "OK"
    assert database.client.done == [("reply", "OFF"), ("reply", "SKIP"), ("reply", "ON")]
    database.run("CLIENT", "NO-EVICT", "on")
    assert database.client.no_evict


def test_multi_exec_watch_are_the_sessions(database: Surrounded) -> None:
    assert database.run("WATCH", "a", "b") == "OK"
    assert database.run("UNWATCH") == "OK"
    assert database.client.done == [("watch", [b"a", b"b"]), ("unwatch",)]
    assert database.run("MULTI") == "OK"
    assert database.run("EXEC") == ["queued"]
    assert database.run("MULTI") == "OK"
    assert database.run("DISCARD") == "OK"
    assert not database.client.in_multi


@pytest.mark.parametrize("words", ["PING", "CLIENT LIST", "SELECT 1", "HELLO 3", "TIME", "CONFIG GET *", "COMMAND"])
def test_what_no_data_decided_depends_on_nothing(database: Surrounded, words: str) -> None:
    database.run("SET", "a", "1")
    database.run(*words.split())
    assert database.tx.depends == 0
