"""The commands about one's own connection: PING, ECHO, QUIT, RESET, SELECT, AUTH, HELLO."""

from __future__ import annotations

from typing import Any, Final

from keyhaus.commands.spec import Flag, command, integer
from keyhaus.core import limits
from keyhaus.core.context import Context
from keyhaus.core.errors import LimitExceeded, NoProto, Syntax, UserError, WrongPass
from keyhaus.core.reply import OK
from keyhaus.store.transaction import Transaction

COMPATIBLE_VERSION: Final = "7.0.15"
"""The release of Redis whose replies these are: what HELLO and INFO's redis_version say."""

DEFAULT_USER: Final = "default"
PROTOCOLS: Final = (2, 3)


@command(
    "PING",
    -1,
    Flag.CONNECTION | Flag.FAST,
    summary="Answers PONG, or the given message.",
    since="1.0.0",
    group="connection",
    syntax="[message]",
)
async def ping(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) > 2:
        raise Syntax("wrong number of arguments for 'ping' command")
    return args[1] if len(args) == 2 else "PONG"


@command(
    "ECHO",
    2,
    Flag.CONNECTION | Flag.FAST,
    summary="Answers the given message.",
    since="1.0.0",
    group="connection",
    syntax="message",
)
async def echo(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return args[1]


@command(
    "QUIT",
    -1,
    Flag.CONNECTION | Flag.CONTROL | Flag.FAST | Flag.NO_AUTH,
    summary="Closes the connection after its reply.",
    since="1.0.0",
    group="connection",
)
async def quit_(tx: Transaction, args: list[bytes], context: Context) -> Any:
    context.quit()
    return OK


@command(
    "RESET",
    1,
    Flag.CONNECTION | Flag.CONTROL | Flag.FAST | Flag.NO_AUTH,
    summary="Puts the connection back into the state that it had when it was new.",
    since="6.2.0",
    group="connection",
)
async def reset(tx: Transaction, args: list[bytes], context: Context) -> Any:
    context.reset()
    return "RESET"


@command(
    "SELECT",
    2,
    Flag.CONNECTION | Flag.FAST | Flag.NO_TRANSACTION,
    summary="Chooses the database of the commands that follow.",
    since="1.0.0",
    group="connection",
    syntax="index",
)
async def select(tx: Transaction, args: list[bytes], context: Context) -> Any:
    index = integer(args[1])
    if not -(1 << 31) <= index < 1 << 31:
        raise Syntax("value is out of range, value must between -2147483648 and 2147483647")
    if not 0 <= index < context.server.settings.integer("databases"):
        raise UserError("DB index is out of range")
    context.select(index)
    return OK


@command(
    "AUTH",
    -2,
    Flag.CONNECTION | Flag.FAST | Flag.NO_AUTH,
    summary="Says who the client is.",
    since="1.0.0",
    group="connection",
    syntax="[username] password",
    complexity="O(N) in the number of passwords of the user",
)
async def auth(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) > 3:
        raise Syntax
    if len(args) == 2:
        # The only user, `default`, has no password, so that a password alone can only be a mistake.
        raise UserError(
            "AUTH <password> called without any password configured for the default user. "
            "Are you sure your configuration is correct?"
        )
    _authenticate(context, args[1], args[2])
    return OK


def _authenticate(context: Context, user: bytes, password: bytes) -> None:
    if not context.authenticate(user.decode("utf-8", "surrogateescape"), password):
        raise WrongPass


@command(
    "HELLO",
    -1,
    Flag.CONNECTION | Flag.FAST | Flag.NO_AUTH,
    summary="Chooses the protocol's version and tells about the server.",
    since="6.0.0",
    group="connection",
    syntax="[protover [AUTH username password] [SETNAME clientname]]",
)
async def hello(tx: Transaction, args: list[bytes], context: Context) -> Any:
    version = context.protocol
    if len(args) > 1:
        version = integer(args[1], "Protocol version is not an integer or out of range")
        if version not in PROTOCOLS:
            raise NoProto("unsupported protocol version")
        _hello_options(args, context)
        context.set_protocol(version)
    return {
        b"server": b"redis",
        b"version": COMPATIBLE_VERSION.encode(),
        b"proto": version,
        b"id": context.id,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": [],
    }


def _hello_options(args: list[bytes], context: Context) -> None:
    """Carries out AUTH and SETNAME one after another, so that what stands before an error is done, as in Redis."""
    at = 2
    while at < len(args):
        option = args[at].upper()
        if option == b"AUTH" and at + 2 < len(args):
            _authenticate(context, args[at + 1], args[at + 2])
            at += 3
        elif option == b"SETNAME" and at + 1 < len(args):
            set_name(context, args[at + 1])
            at += 2
        else:
            raise Syntax(b"Syntax error in HELLO option '%s'" % args[at].partition(b"\0")[0])


def set_name(context: Context, name: bytes) -> None:
    """Names the connection, or with an empty name takes the name away."""
    if not is_plain_word(name):
        raise UserError("Client names cannot contain spaces, newlines or special characters.")
    if len(name) > limits.CLIENT_NAME_BYTES_MAX:
        raise LimitExceeded("client-name-bytes", len(name), limits.CLIENT_NAME_BYTES_MAX)
    context.name = name


def is_plain_word(word: bytes) -> bool:
    """Whether it has nothing but visible ASCII, so that it can stand in a line of CLIENT LIST."""
    return all(0x21 <= byte <= 0x7E for byte in word)
