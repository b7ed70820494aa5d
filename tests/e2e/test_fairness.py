"""One client's long pipeline does not keep the others waiting for its end."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from tests.support.load import Link
from tests.support.processes import keyhaus_server

COMMANDS = 400_000
STEP = 50_000


def test_others_are_served_while_a_long_pipeline_runs(tmp_path: Path) -> None:
    with keyhaus_server(tmp_path, "--engine", "memory") as server, Link(server.port) as other:
        long = socket.create_connection(("127.0.0.1", server.port), 60)
        begun, ended = threading.Event(), threading.Event()

        def flood() -> None:
            for _ in range(COMMANDS // STEP):
                long.sendall(b"*1\r\n$4\r\nPING\r\n" * STEP)
                begun.set()

        def drain() -> None:
            left = COMMANDS * len(b"+PONG\r\n")
            while left > 0:
                left -= len(long.recv(1 << 20)) or left
            ended.set()

        threads = [threading.Thread(target=work, daemon=True) for work in (flood, drain)]
        for thread in threads:
            thread.start()
        assert begun.wait(30)
        served = 0
        while not ended.is_set() and served < 100_000:
            assert other.ask(b"PING") == b"PONG"
            served += 1
        long.close()
        # Served only between its reads of the socket, it would be a handful.
        assert served > 20, f"{served} requests of another client were served beside {COMMANDS} of one"
        for thread in threads:
            thread.join(30)
