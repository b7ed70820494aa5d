"""What `keyhaus menu` does: a server as a child process, and a client of the text dialect, chosen by number.

Invariant: the server that was started ends with the menu, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from keyhaus.cli import child
from keyhaus.cli.shell.documents import document
from keyhaus.cli.shell.quoting import escaped
from keyhaus.cli.target import Target
from keyhaus.client.text import Client

MENU: Final = """
Main Menu:
1. Start Server
2. Connect Client
3. Exit"""
_READY: Final = re.compile(r"ready .*\btext://(\S+):(\d+)")
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
_LEAVE: Final = ("", "exit", "quit")


def run(host: str, port: int, directory: Path) -> None:
    """Shows the menu until somebody chooses Exit, or nothing more is typed.

    Args:
        host: Where a server is started, and the client's default.
        port: The same; 0 picks a free one.
        directory: Where a server that is started keeps its data.
    """
    menu = MainMenu(host, port, directory)
    with _ended_by_signals(menu):
        try:
            menu.loop()
        except (EOFError, KeyboardInterrupt):
            print()
        finally:
            menu.stop()


class MainMenu:
    """The menu, and the server that it has started.

    Attributes:
        lock: Held by whoever starts or ends the server.
    """

    def __init__(self, host: str, port: int, directory: Path) -> None:
        self._host, self._port, self._directory = host, port, directory
        self._server: subprocess.Popen[str] | None = None
        self.lock = threading.RLock()
        self._place = (host, port or 8080)

    def loop(self) -> None:
        """Does what is chosen until that is Exit. Raises EOFError, KeyboardInterrupt."""
        while True:
            print(MENU)
            match input("Select an option: ").strip():
                case "1":
                    self.start()
                case "2":
                    self.connect()
                case "3":
                    return
                case other:
                    print(f"There is no option {escaped(other)!r}: expected 1, 2 or 3.")

    def start(self) -> None:
        """Starts a server, unless the one that was started still runs, and waits until it is ready."""
        if self._server is not None and child.still_runs(self._server):
            print(f"The server runs already, at {Target(*self._place)}.")
            return
        self.stop()
        host = f"[{self._host}]" if ":" in self._host else self._host
        options = ("--listen", f"text://{host}:{self._port}", "--data-dir", str(self._directory))
        with self.lock:
            # Ctrl-C is for the menu.
            server = self._server = child.serve(*options, "--log-level", "warning", process_group=0)
        line = child.ready_line(server)
        ready = _READY.match(line)
        if ready is None:
            status = server.wait()
            print(f"The server did not start (exit status {status}).")  # it has said why
            return
        self._place = (ready[1].strip("[]"), int(ready[2]))
        print(line)

    def connect(self) -> None:
        """Asks where to, then sends what is typed there, and shows what comes back."""
        host = input(f"Host [{self._place[0]}]: ").strip() or self._place[0]
        port = input(f"Port [{self._place[1]}]: ").strip() or str(self._place[1])
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            print(f"{escaped(port)!r} is no port: expected a number from 1 to 65535.")
            return
        try:
            with Client(host, int(port)) as client:
                print(f"Connected to {Target(host, int(port))}. An empty line or exit leads back to the menu.")
                _talk(client)
        except ConnectionError as error:
            print(f"{escaped(str(error))}.")

    def stop(self) -> None:
        """Ends the server that was started, if there is one."""
        with self.lock:
            server, self._server = self._server, None
            if server is not None and child.end(server):
                print("The server was stopped.")


def _talk(client: Client) -> None:
    """Raises ConnectionError, EOFError."""
    while True:
        try:
            line = input("> ")
        except KeyboardInterrupt:
            print()
            return
        if line.strip().lower() in _LEAVE:
            return
        try:
            print(document(client.send_command(line)))
        except ValueError as error:
            print(f"{escaped(str(error))}.")


@contextlib.contextmanager
def _ended_by_signals(menu: MainMenu) -> Iterator[None]:
    """SIGTERM and SIGHUP end the menu and its server.

    A thread sees to it: a handler would run only once the main thread has read the line that it waits for, if the
    signal came just before it began to wait.
    """
    heard, told = socket.socketpair()
    told.setblocking(False)
    before = {number: signal.signal(number, lambda number, frame: None) for number in _SIGNALS}
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(heard, menu), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        told.close()
        watcher.join()


def _watch(heard: socket.socket, menu: MainMenu) -> None:
    with heard:
        while numbers := heard.recv(64):
            for number in numbers:
                if number in _SIGNALS:
                    with menu.lock:  # for good: no server is started any more
                        menu.stop()
                        sys.stdout.flush()
                        os._exit(128 + number)
