"""What --url is asked through: errors keep their codes, and what can't be followed is a lost connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from keyhaus.cli.remote import Remote
from keyhaus.client.errors import OutcomeUnknown
from keyhaus.core import limits
from keyhaus.core.errors import Error

HOST = "127.0.0.1"


@contextlib.contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """Somebody who answers so many requests, then hangs up; the URL."""
    with socket.create_server((HOST, 0)) as listener:

        def answer() -> None:
            opened, _ = listener.accept()
            with opened:
                for data in answers:
                    opened.recv(65536)
                    opened.sendall(data)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"redis://{HOST}:{listener.getsockname()[1]}"
        finally:
            thread.join()


def test_an_error_keeps_its_code() -> None:
    with (
        answering(b"+OK\r\n", b"-DB index\r\n", b"-ERR DB index is out of range\r\n") as url,
        contextlib.closing(Remote(url)) as remote,
    ):
        for code, message in (("DB", "index"), ("ERR", "DB index is out of range")):
            with pytest.raises(Error) as raised:
                remote.ask("ANY")
            assert (raised.value.code, raised.value.message) == (code, message)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "the server closed the connection"),
        (b"$5\r\nab", "the server closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak Redis' protocol"),
        (b"$%d\r\n" % (limits.REPLY_BYTES_MAX + 1), "max-reply-bytes exceeded"),
    ],
)
def test_what_is_no_reply_is_a_lost_connection(data: bytes, problem: str) -> None:
    with (
        answering(b"+OK\r\n", data) as url,
        contextlib.closing(Remote(url)) as remote,
        pytest.raises(OutcomeUnknown, match=problem),
    ):
        remote.ask("ANY")


def test_a_wrong_password_is_told() -> None:
    with answering(b"-WRONGPASS no\r\n") as url, pytest.raises(Error, match="^no$") as raised:
        Remote(url.replace("//", "//:secret@"))
    assert raised.value.code == "WRONGPASS"


def test_the_url_is_of_no_database() -> None:
    with pytest.raises(ValueError, match="the URL names database 3, and all are meant"):
        Remote("keyhaus://127.0.0.1:1/3")
