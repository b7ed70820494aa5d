"""CLIENT REPLY OFF under `always`: nobody is told, and the writes are synced all the same."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.load import Link
from tests.support.processes import keyhaus_server


def test_writes_without_replies_are_synced(tmp_path: Path) -> None:
    with (
        keyhaus_server(tmp_path, "--data-dir", "data") as server,
        Link(server.port) as mute,
        Link(server.port) as other,
    ):
        mute.send([b"CLIENT", b"REPLY", b"OFF"], *([b"SET", b"k%d" % number, b"v"] for number in range(9)))
        deadline = time.monotonic() + 10
        # INFO tells what is synced, and asks for no sync itself.
        while b"db0:keys=9" not in other.ask(b"INFO", b"keyspace"):
            assert time.monotonic() < deadline, "nobody asked for the sync of writes without replies"
