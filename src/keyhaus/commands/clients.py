"""CLIENT: who is connected, and what a connection says about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from keyhaus.commands.connection import DEFAULT_USER, is_plain_word, set_name
from keyhaus.commands.help import add_help
from keyhaus.commands.spec import Flag, command, container, integer
from keyhaus.commands.values import check_reply_bytes
from keyhaus.core import limits
from keyhaus.core.context import ClientView, Context
from keyhaus.core.errors import LimitExceeded, Syntax, UserError
from keyhaus.core.reply import OK, Verbatim
from keyhaus.store.transaction import Transaction

GROUP: Final = "connection"
TYPES: Final = {
    b"normal": "normal",
    b"master": "master",
    b"replica": "replica",
    b"slave": "replica",
    b"pubsub": "pubsub",
}
ATTRIBUTES: Final = {b"lib-name": "library_name", b"lib-ver": "library_version"}

container("CLIENT", Flag.CONNECTION, summary="Commands about connections.", since="2.4.0", group=GROUP)
add_help("CLIENT", group=GROUP, since="5.0.0")


def client_line(client: ClientView, now_ns: int) -> bytes:
    """One client as a line of CLIENT LIST, without its end."""
    buffers = client.buffers()
    waiting = buffers.get("output", 0)
    fields = {
        "id": client.id,
        "addr": client.address,
        "laddr": client.local_address,
        "fd": client.descriptor,
        "name": client.name.decode("ascii"),
        "age": (now_ns - client.connected_ns) // 1_000_000_000,
        "idle": max(0, now_ns - client.active_ns) // 1_000_000_000,
        "flags": client.flag_letters(),
        "db": client.database,
        "sub": 0,
        "psub": 0,
        "ssub": 0,
        "multi": client.queued_commands(),
        "watch": client.watched_keys(),
        "qbuf": buffers.get("input", 0),
        "qbuf-free": buffers.get("input_free", 0),
        "argv-mem": 0,
        "multi-mem": buffers.get("queued", 0),
        "rbs": 0,
        "rbp": 0,
        "obl": 0,
        "oll": 1 if waiting else 0,
        "omem": waiting,
        "tot-mem": buffers.get("total", 0),
        "events": "rw" if waiting else "r",
        "cmd": client.last_command or "NULL",
        "user": client.user,
        "redir": -1,
        "resp": client.protocol,
        "lib-name": client.library_name.decode("ascii"),
        "lib-ver": client.library_version.decode("ascii"),
    }
    return " ".join(f"{name}={value}" for name, value in fields.items()).encode("utf-8", "surrogateescape")


def _lines(clients: list[ClientView], context: Context) -> Verbatim:
    now_ns = context.server.monotonic_ns()
    return Verbatim(b"".join(client_line(client, now_ns) + b"\n" for client in clients))


@command("CLIENT|ID", 2, Flag.CONNECTION, summary="Answers the connection's number.", since="5.0.0", group=GROUP)
async def client_id(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return context.id


@command("CLIENT|GETNAME", 2, Flag.CONNECTION, summary="Answers the connection's name.", since="2.6.9", group=GROUP)
async def getname(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return context.name or None


@command(
    "CLIENT|SETNAME",
    3,
    Flag.CONNECTION,
    summary="Names the connection; an empty name takes the name away.",
    since="2.6.9",
    group=GROUP,
    syntax="connection-name",
)
async def setname(tx: Transaction, args: list[bytes], context: Context) -> Any:
    set_name(context, args[2])
    return OK


@command(
    "CLIENT|SETINFO",
    4,
    Flag.CONNECTION,
    summary="Notes the name or version of the library that the client uses.",
    since="7.2.0",
    group=GROUP,
    syntax="<LIB-NAME libname | LIB-VER libver>",
)
async def setinfo(tx: Transaction, args: list[bytes], context: Context) -> Any:
    option = args[2].lower()
    attribute = ATTRIBUTES.get(option)
    if attribute is None:
        raise UserError(b"Unrecognized option '%s'" % args[2])
    if not is_plain_word(args[3]):
        raise UserError(b"%s cannot contain spaces, newlines or special characters." % option)
    if len(args[3]) > limits.CLIENT_NAME_BYTES_MAX:
        raise LimitExceeded("client-name-bytes", len(args[3]), limits.CLIENT_NAME_BYTES_MAX)
    setattr(context, attribute, args[3])
    return OK


@command(
    "CLIENT|INFO",
    2,
    Flag.CONNECTION,
    summary="Tells about the connection, as a line of CLIENT LIST.",
    since="6.2.0",
    group=GROUP,
)
async def client_info(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return _lines([context], context)


@command(
    "CLIENT|LIST",
    -2,
    Flag.CONNECTION | Flag.ADMIN,
    summary="Lists the connections, one a line.",
    since="2.4.0",
    group=GROUP,
    syntax="[TYPE <NORMAL | MASTER | REPLICA | PUBSUB> | ID client-id [client-id ...]]",
    complexity="O(N) in the number of connections",
)
async def client_list(tx: Transaction, args: list[bytes], context: Context) -> Any:
    clients = context.server.clients()
    if len(args) == 2:
        return _lines(clients, context)
    option = args[2].upper()
    if option == b"TYPE" and len(args) == 4:
        return _lines(clients if _type(args[3]) == "normal" else [], context)
    if option == b"ID" and len(args) > 3:
        by_id = {client.id: client for client in clients}
        ids = {word: integer(word, "Invalid client ID") for word in dict.fromkeys(args[3:])}
        now_ns = context.server.monotonic_ns()
        lines = {word: client_line(by_id[number], now_ns) + b"\n" for word, number in ids.items() if number in by_id}
        # Who is named again is told again, as in Redis.
        told = [lines[word] for word in args[3:] if word in lines]
        check_reply_bytes(tx, sum(map(len, told)))
        return Verbatim(b"".join(told))
    raise Syntax


def _type(word: bytes) -> str:
    """A client type; all clients here are normal ones."""
    try:
        return TYPES[word.lower()]
    except KeyError:
        raise UserError(b"Unknown client type '%s'" % word) from None


@command(
    "CLIENT|KILL",
    -3,
    Flag.CONNECTION | Flag.ADMIN,
    summary="Closes connections: the one of an address, or all that pass every filter.",
    since="2.4.0",
    group=GROUP,
    syntax="<ip:port | <[ID client-id] | [TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] | [USER username] | "
    "[ADDR ip:port] | [LADDR ip:port] | [SKIPME <YES | NO>]> ...>",
    complexity="O(N) in the number of connections",
)
async def client_kill(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) == 3:
        address = _text(args[2])
        found = [client for client in context.server.clients() if client.address == address]
        if not found:
            raise UserError("No such client")
        _close(found[:1], context)
        return OK
    filters, skip_me = _filters(args)
    clients = [client for client in context.server.clients() if all(passes(client) for passes in filters)]
    if skip_me:
        clients = [client for client in clients if client.id != context.id]
    _close(clients, context)
    return len(clients)


def _text(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")


def _close(clients: list[ClientView], context: Context) -> None:
    for client in clients:
        # One's own connection still gets to hear what became of the command.
        client.close(after_reply=client.id == context.id)


def _filters(args: list[bytes]) -> tuple[list[Callable[[ClientView], bool]], bool]:
    """The filters of CLIENT KILL, and whether the asker itself is spared."""
    filters: dict[tuple[bytes, bytes], Callable[[ClientView], bool]] = {}  # each once, however often it is given
    skip_me = True
    if len(args) % 2:
        raise Syntax
    for option, word in zip(args[2::2], args[3::2], strict=True):
        place = (option.upper(), word)
        match place[0]:
            case b"SKIPME":
                skip_me = _yes(word)
            case b"ID":
                filters[place] = _by_id(word)
            case b"ADDR" | b"LADDR":
                filters[place] = _by_address("address" if len(option) == 4 else "local_address", _text(word))
            case b"TYPE":
                filters[place] = _by_type(_type(word))
            case b"USER":
                filters[place] = _by_user(word)
            case _:
                raise Syntax
    return list(filters.values()), skip_me


def _yes(word: bytes) -> bool:
    if word.upper() not in (b"YES", b"NO"):
        raise Syntax
    return word.upper() == b"YES"


def _by_id(word: bytes) -> Callable[[ClientView], bool]:
    message = "client-id should be greater than 0"
    number = integer(word, message)
    if number < 1:
        raise UserError(message)
    return lambda client: client.id == number


def _by_address(attribute: str, address: str) -> Callable[[ClientView], bool]:
    return lambda client: getattr(client, attribute) == address


def _by_type(kind: str) -> Callable[[ClientView], bool]:
    return lambda client: kind == "normal"


def _by_user(word: bytes) -> Callable[[ClientView], bool]:
    user = _text(word)
    if user != DEFAULT_USER:
        raise UserError(b"No such user '%s'" % word)
    return lambda client: client.user == user


@command(
    "CLIENT|NO-EVICT",
    3,
    Flag.CONNECTION | Flag.ADMIN,
    summary="Exempts the connection from being closed for want of memory, or no longer.",
    since="7.0.0",
    group=GROUP,
    syntax="<ON | OFF>",
)
async def no_evict(tx: Transaction, args: list[bytes], context: Context) -> Any:
    word = args[2].upper()
    if word not in (b"ON", b"OFF"):
        raise Syntax
    context.no_evict = word == b"ON"
    return OK


@command(
    "CLIENT|REPLY",
    3,
    Flag.CONNECTION,
    summary="Says whether the connection wants replies: to all, to none, or to all but the next command.",
    since="3.2.0",
    group=GROUP,
    syntax="<ON | OFF | SKIP>",
)
async def client_reply(tx: Transaction, args: list[bytes], context: Context) -> Any:
    mode = args[2].upper()
    if mode not in (b"ON", b"OFF", b"SKIP"):
        raise Syntax
    # With OFF and SKIP the session drops this OK too.
    context.set_reply_mode(mode.decode())
    return OK
