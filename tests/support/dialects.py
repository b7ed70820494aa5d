"""Clients of the dialects beside RESP, as small as they can be: they send what they are told and read what comes."""

from __future__ import annotations

import json
import pickle
import socket
from typing import Any, Final

from keyhaus.core import objects
from tests.support.processes import HOST

SECONDS: Final = 30


class _Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), SECONDS)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ended(self) -> bool:
        """Whether the server hangs up; waits for that, or for what it says instead."""
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class TextClient(_Client):
    """Sends lines and reads JSON."""

    def receive(self) -> Any:
        return json.loads(self._file.readline())

    def __call__(self, line: str) -> Any:
        self.send(line.encode() + b"\n")
        return self.receive()


class JsonClient(_Client):
    """Sends objects and reads them."""

    def receive(self) -> Any:
        return json.loads(self._file.readline())

    def __call__(self, command: str, **fields: Any) -> Any:
        self.send(json.dumps({"command": command, **fields}).encode() + b"\n")
        return self.receive()


class FrameClient(_Client):
    """Sends dicts as pickles or as MessagePack, and reads what comes back in the same form."""

    def __init__(self, port: int, *, packed: bool = False, protocol: int = 4) -> None:
        super().__init__(port)
        self._packed, self._protocol = packed, protocol

    def send_payload(self, payload: bytes) -> None:
        self.send(len(payload).to_bytes(4, "big") + payload)

    def receive(self) -> Any:
        payload = self._file.read(int.from_bytes(self._file.read(4), "big"))
        return objects.decode(payload) if self._packed else pickle.loads(payload)

    def __call__(self, command: str, **fields: Any) -> Any:
        given = {"cmd": command, **fields}
        self.send_payload(objects.encode(given) if self._packed else pickle.dumps(given, self._protocol))
        return self.receive()
