"""The commands about connections and the server answer as redis-server does, byte for byte, in both protocols.

Each script runs on a fresh client here and there. What is compared by shape only (INFO, MEMORY, LATENCY, …) stands
here with its errors; its contents are tested elsewhere.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from keyhaus.protocol.resp import RespCodec
from tests.support.processes import HOST, redis_server
from tests.support.surroundings import PlainClient, Surrounded
from tests.support.wire import Wire, parsed

OBJECT_KEYS = ("i", "e", "r", "s", "big", "zz", "n", "m", "nine", "min", "none")
SCRIPTS = {
    "ping": ["PING", "PING a", "PING a b", "ping ''"],
    "echo": ["ECHO", "ECHO a", "ECHO a b"],
    "select": [
        *("SELECT", "SELECT a", "SELECT 16", "SELECT -1", "SELECT 3", "SELECT 01", "SELECT 99999999999999999999"),
        *("SELECT 4294967296", "SELECT 2147483648", "SELECT -2147483649", "SELECT 0"),
    ],
    "auth": ["AUTH", "AUTH x", "AUTH default x", "AUTH DEFAULT x", "AUTH bob x", "AUTH a b c", "AUTH default ''"],
    "hello": [
        *("HELLO", "HELLO 2", "HELLO 3", "PING", "CLIENT GETNAME", "HELLO", "HELLO 2", "HELLO 4", "HELLO 1", "HELLO x"),
        *("HELLO 03", "HELLO 4294967296", "HELLO 99999999999999999999", "HELLO 3 FOO", "HELLO 3 AUTH default"),
        *("HELLO 2 AUTH default x", "HELLO 2 AUTH bob x", "HELLO 2 SETNAME foo", "CLIENT GETNAME", "HELLO 2 SETNAME"),
        *("HELLO 2 SETNAME 'a b'", "HELLO 2 SETNAME zz AUTH bob x", "CLIENT GETNAME", "HELLO 3 SETNAME a SETNAME b"),
        *("CLIENT GETNAME", "HELLO 3 auth default x setname ''", "CLIENT GETNAME"),
    ],
    "client": [
        *("CLIENT", "CLIENT FOO", "CLIENT ID", "CLIENT ID x", "client getname x", "client setname", "CLIENT GETNAME"),
        *("CLIENT SETNAME 'a b'", "CLIENT SETNAME ok", "CLIENT GETNAME", "CLIENT SETNAME ''", "CLIENT GETNAME"),
        *("CLIENT SETNAME '\x7f'", "CLIENT LIST TYPE foo", "CLIENT LIST TYPE", "CLIENT LIST ID", "CLIENT LIST ID 0"),
        *("CLIENT LIST ID x", "CLIENT LIST ID 0 x", "CLIENT LIST ID -1", "CLIENT LIST FOO", "CLIENT LIST FOO BAR"),
        *("CLIENT LIST TYPE normal x", "CLIENT LIST TYPE replica", "CLIENT LIST TYPE Slave", "CLIENT LIST TYPE master"),
        *("CLIENT LIST TYPE pubsub", "CLIENT INFO x", "CLIENT HELP x", "CLIENT NO-EVICT", "CLIENT NO-EVICT maybe"),
        *("CLIENT NO-EVICT on", "CLIENT NO-EVICT OFF", "CLIENT REPLY", "CLIENT REPLY foo", "CLIENT REPLY ON"),
    ],
    "client kill": [
        *("CLIENT KILL", "CLIENT KILL 1.2.3.4:5", "CLIENT KILL a b c", "CLIENT KILL ID x", "CLIENT KILL ID 0"),
        *("CLIENT KILL ID -1", "CLIENT KILL ID 99999", "CLIENT KILL TYPE foo", "CLIENT KILL TYPE master"),
        *("CLIENT KILL USER foo", "CLIENT KILL USER default SKIPME maybe", "CLIENT KILL FOO bar"),
        *("CLIENT KILL ADDR 1.2.3.4:5", "CLIENT KILL LADDR 1.2.3.4:5", "CLIENT KILL ID 9999 ADDR"),
        *("CLIENT KILL ID 99999 SKIPME", "CLIENT KILL ID 99999 USER default SKIPME no TYPE normal ADDR x LADDR y"),
        "CLIENT KILL ID 99999999999999999999",
    ],
    "transactions": [
        *("EXEC", "DISCARD", "MULTI x", "DISCARD x", "EXEC x", "WATCH", "UNWATCH x", "UNWATCH", "WATCH a b"),
        *("MULTI", "MULTI", "WATCH a", "DISCARD", "DISCARD"),
    ],
    "reset": ["RESET x", "CLIENT SETNAME foo"],
    "config": [
        *("CONFIG", "CONFIG FOO", "CONFIG GET", "CONFIG GET save", "CONFIG GET SAVE", "CONFIG GET a b c"),
        *(
            "CONFIG GET appendfsync",
            "CONFIG GET timeout TIMEOUT timeou*",
            "CONFIG GET [st]imeout",
            "CONFIG GET maxmemory",
        ),
        *("CONFIG GET maxmemory-policy", "CONFIG GET databases", "CONFIG GET notify-keyspace-events"),
        *("CONFIG SET", "CONFIG SET a", "CONFIG SET a b", "CONFIG SET a b c", "CONFIG SET maxclients abc"),
        *("CONFIG SET MaxClients 0", "CONFIG SET databases 3", "CONFIG SET DATABASES 3", "CONFIG SET daemonize yes"),
        *("CONFIG SET maxclients 100 maxclients 200", "CONFIG SET timeout 5 TIMEOUT 6", "CONFIG SET timeou* 1"),
        *("CONFIG SET timeout 5 TIMEOUT 6 foo 3", "CONFIG SET timeout x timeout y", "CONFIG SET foo 1 bar 2"),
        *("CONFIG SET timeout x daemonize yes", "CONFIG SET timeout x foo 1", "CONFIG SET timeout 100 maxclients abc"),
        *(
            "CONFIG GET timeout",
            "CONFIG SET timeout 100 slowlog-max-len 5",
            "CONFIG GET timeout",
            "CONFIG SET timeout 0",
        ),
        *("CONFIG SET appendfsync foo", "CONFIG SET appendfsync No", "CONFIG GET AppendFsync appendfsync"),
        *("CONFIG SET appendfsync ALWAYS", "CONFIG GET appendfsync", "CONFIG SET enable-debug-command yes"),
        *("CONFIG SET timeout -1", "CONFIG SET slowlog-log-slower-than -5", "CONFIG SET slowlog-max-len -5"),
        *("CONFIG SET slowlog-max-len 1.5", "CONFIG SET proto-max-bulk-len 1000", "CONFIG SET proto-max-bulk-len 1gb"),
        *("CONFIG GET proto-max-bulk-len", "CONFIG SET proto-max-bulk-len 2mib", "CONFIG SET proto-max-bulk-len ''"),
        *("CONFIG SET save ''", "CONFIG SET maxmemory 0", "CONFIG RESETSTAT", "CONFIG RESETSTAT x", "CONFIG REWRITE"),
        *("CONFIG SET 'f\r\noo' 1", "CONFIG SET timeout 2147483648", "CONFIG SET timeout ' 5'"),
    ],
    "slowlog": [
        *("SLOWLOG", "SLOWLOG FOO", "SLOWLOG GET x", "SLOWLOG GET -2", "SLOWLOG GET -1", "SLOWLOG GET 1 2"),
        *("SLOWLOG GET 99999999999999999999", "SLOWLOG LEN", "SLOWLOG RESET", "SLOWLOG LEN x", "SLOWLOG GET"),
    ],
    "latency": [
        *("LATENCY", "LATENCY FOO", "LATENCY LATEST", "LATENCY HISTORY x", "LATENCY HISTORY", "LATENCY RESET"),
        *("LATENCY RESET x y", "LATENCY DOCTOR x"),
    ],
    "wait": [
        *("WAIT", "WAIT x 1", "WAIT 1 x", "WAIT 1 -1", "WAIT 0 0", "WAIT 1 1", "WAIT -1 0", "WAIT 1 50 3"),
        *("WAIT 0 99999999999999999999", "WAIT 99999999999999999999 0"),
    ],
    "debug": ["DEBUG", "DEBUG SLEEP 0", "DEBUG FOO", "DEBUG HELP"],
    "databases": [
        *("DBSIZE", "DBSIZE x", "SET k v", "DBSIZE", "SELECT 1", "SET k w", "SET l w", "SWAPDB 0 1", "DBSIZE", "GET k"),
        *(
            "SWAPDB 1 1",
            "GET k",
            "FLUSHDB x",
            "FLUSHDB SYNC x",
            "FLUSHDB",
            "DBSIZE",
            "SELECT 0",
            "DBSIZE",
            "FLUSHALL async",
        ),
        *("DBSIZE", "FLUSHALL ASYNC SYNC", "SWAPDB", "SWAPDB a b", "SWAPDB 0 b", "SWAPDB 0 16", "SWAPDB -1 0"),
        *("SWAPDB 99 0", "SWAPDB 0 99999999999999999999", "SWAPDB 99999999999999999999 0", "SWAPDB 4294967296 0"),
        *("SWAPDB 0 4294967296", "TIME x"),
    ],
    "object": [
        *("SET i 123", "SET e hello", f"SET r {'a' * 45}", f"SET s {'a' * 44}", "SET big 99999999999999999999"),
        *("SET zz 007", "SET n -5", "SET m 10000", "SET nine 9999", "SET min -9223372036854775808", "SET empty ''"),
        *(f"OBJECT {word} {key}" for word in ("ENCODING", "REFCOUNT") for key in OBJECT_KEYS),
        *("OBJECT ENCODING empty", "INCR i", "OBJECT ENCODING i", "OBJECT REFCOUNT i", "OBJECT IDLETIME none"),
        *("OBJECT FREQ e", "OBJECT FREQ none", "OBJECT FOO x", "OBJECT", "OBJECT ENCODING a b", "OBJECT ENCODING"),
        *("OBJECT HELP x", "FLUSHALL"),
    ],
    "memory": [
        *(
            "MEMORY",
            "MEMORY FOO",
            "MEMORY USAGE none",
            "MEMORY USAGE",
            "MEMORY USAGE i SAMPLES x",
            "MEMORY USAGE i FOO 5",
        ),
        *(
            "MEMORY USAGE i SAMPLES -1",
            "MEMORY USAGE i SAMPLES",
            "MEMORY USAGE i SAMPLES 5 SAMPLES 3",
            "MEMORY USAGE i b",
        ),
        "MEMORY USAGE i SAMPLES 99999999999999999999",
    ],
    "command": [
        *("COMMAND FOO", "COMMAND COUNT x", "COMMAND INFO foo", "COMMAND INFO config|foo get|x", "COMMAND DOCS foo"),
        *("COMMAND GETKEYS", "COMMAND GETKEYS get", "COMMAND GETKEYS get a", "COMMAND GETKEYS get a b"),
        *("COMMAND GETKEYS foo x", "COMMAND GETKEYS ping x", "COMMAND GETKEYS mset a 1 b 2", "COMMAND GETKEYS mset a"),
        *("COMMAND GETKEYS mset a 1 b", "COMMAND GETKEYS object encoding x", "COMMAND GETKEYS object foo x"),
        *("COMMAND GETKEYS config get x", "COMMAND GETKEYS client setname", "COMMAND GETKEYS get|x a"),
        *("COMMAND LIST FILTERBY MODULE foo", "COMMAND LIST FILTERBY ACLCAT foo", "COMMAND LIST FILTERBY"),
        *("COMMAND LIST FILTERBY FOO x", "COMMAND LIST FOO", "COMMAND LIST FILTERBY PATTERN a b"),
        *("COMMAND LIST FILTERBY PATTERN *fig|g*", "COMMAND LIST FILTERBY PATTERN ''", "COMMAND INFO get"),
    ],
    "info": ["INFO nothing", "INFO cluster", "INFO modules", "INFO cluster modules", "LOLWUT VERSION x"],
    "unknown": ["FOO", "FOO a b c", "foo ''", "'' a", f"x {'y' * 124} zzzz", "foo 'a\r\nb'"],
    "quit": ["QUIT"],
}


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    # Where both can be set alike from outside, they are.
    with redis_server(tmp_path_factory.mktemp("redis"), "--appendfsync", "always") as port:
        yield port


class Mine:
    """A client of a database in memory, heard through the codec."""

    def __init__(self, number: int, protocol: int) -> None:
        self._database = Surrounded()
        self._client: PlainClient = self._database.client
        self._client.id = number
        self._client.protocol = protocol
        self._codec = RespCodec()

    def ask(self, words: list[bytes]) -> bytes:
        reply = self._database.run(*words)
        # Choosing a database is the session's part.
        self._database.tx.database = self._client.database
        self._codec.version = self._client.protocol
        return self._codec.encode(reply)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", SCRIPTS)
def test_replies_are_those_of_redis(name: str, protocol: int, redis_port: int) -> None:
    wrong = []
    with Wire(HOST, redis_port) as theirs:
        theirs.call(b"HELLO", b"%d" % protocol)
        mine = Mine(parsed(theirs.call(b"CLIENT", b"ID"))[0].plain(), protocol)
        for line in SCRIPTS[name]:
            words = [word.encode() for word in shlex.split(line)]
            expected, got = theirs.call(*words), mine.ask(words)
            if expected != got:
                wrong.append((line, expected, got))
    assert not wrong
