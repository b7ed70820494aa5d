"""From words to commands: the errors are Redis', byte for byte."""

from __future__ import annotations

import pytest

import keyhaus.commands  # noqa: F401  (fills the table)
from keyhaus.commands import lookup
from keyhaus.core.errors import Error, ExecAborted, Syntax, UnknownCommand


def error_of(*words: bytes) -> Error:
    with pytest.raises(Error) as caught:
        lookup.find(list(words))
    return caught.value


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([b"PING"], "PING"),
        ([b"pInG", b"x"], "PING"),
        ([b"client", b"Id"], "CLIENT|ID"),
        ([b"CONFIG", b"get", b"x"], "CONFIG|GET"),
        ([b"COMMAND"], "COMMAND"),
        ([b"command", b"count"], "COMMAND|COUNT"),
    ],
)
def test_a_command_is_found_in_any_case(words: list[bytes], name: str) -> None:
    assert lookup.find(words).name == name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([b"FOO"], b"unknown command 'FOO', with args beginning with: "),
        ([b""], b"unknown command '', with args beginning with: "),
        ([b"foo", b"a", b"b"], b"unknown command 'foo', with args beginning with: 'a' 'b' "),
        ([b"x", b"", b"", b"u"], b"unknown command 'x', with args beginning with: '' '' 'u' "),
        # Words end at a zero byte, and the arguments together near 128 bytes.
        ([b"fo\0o", b"a\0b", b"c"], b"unknown command 'fo', with args beginning with: 'a' 'c' "),
        (
            [b"x" * 200, b"y" * 100, b"z" * 100, b"w"],
            b"unknown command '%s', with args beginning with: '%s' '%s' " % (b"x" * 128, b"y" * 100, b"z" * 25),
        ),
        ([b"x", b"y" * 126, b"z"], b"unknown command 'x', with args beginning with: '%s' " % (b"y" * 126)),
        ([b"x", b"y" * 125, b"z"], b"unknown command 'x', with args beginning with: '%s' " % (b"y" * 125)),
        ([b"x", b"y" * 124, b"zzzz"], b"unknown command 'x', with args beginning with: '%s' 'z' " % (b"y" * 124)),
        ([b"x", b"y" * 200, b"z"], b"unknown command 'x', with args beginning with: '%s' " % (b"y" * 128)),
        ([b"CLIENT", b"FOO"], b"unknown subcommand 'FOO'. Try CLIENT HELP."),
        ([b"client", b"f\r\no\0o"], b"unknown subcommand 'f\r\no'. Try CLIENT HELP."),
        ([b"CLIENT", b"y" * 200], b"unknown subcommand '%s'. Try CLIENT HELP." % (b"y" * 128)),
        ([b"CLIENT", b""], b"unknown subcommand ''. Try CLIENT HELP."),
        ([b"\xc3\xbf"], b"unknown command '\xc3\xbf', with args beginning with: "),
    ],
)
def test_an_unknown_command_is_quoted_as_redis_quotes_it(words: list[bytes], message: bytes) -> None:
    error = error_of(*words)
    assert isinstance(error, UnknownCommand)
    assert error.raw == message


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([b"ECHO"], "echo"),
        ([b"echo", b"a", b"b"], "echo"),
        ([b"CLIENT"], "client"),
        ([b"CLIENT", b"SETNAME"], "client|setname"),
        ([b"client", b"getname", b"x"], "client|getname"),
        ([b"COMMAND", b"GETKEYS", b"get"], "command|getkeys"),
        ([b"CONFIG", b"SET", b"a"], "config|set"),
    ],
)
def test_a_wrong_number_of_words_names_the_subcommand(words: list[bytes], name: str) -> None:
    error = error_of(*words)
    assert isinstance(error, Syntax)
    assert error.message == f"wrong number of arguments for '{name}' command"


def test_exec_with_an_argument_aborts_the_transaction() -> None:
    error = error_of(b"EXEC", b"x")
    assert isinstance(error, ExecAborted)
    assert error.message == "Transaction discarded because of: wrong number of arguments for 'exec' command"


def test_full_names_name_subcommands() -> None:
    spec = lookup.by_full_name(b"Config|GET")
    assert spec is not None
    assert spec.name == "CONFIG|GET"
    assert lookup.by_full_name(b"get|x") is None
    assert lookup.by_full_name(b"config|x") is None
    assert lookup.by_full_name(b"nothing") is None


def test_a_command_that_is_no_container_takes_any_first_argument() -> None:
    assert lookup.find([b"ECHO", b"id"]).name == "ECHO"
