"""The other end of a connection: its address as people read it, and whether it is still there."""

from __future__ import annotations

import socket
from typing import Any


def address_of(name: Any) -> str:
    """`host:port`, or `[host]:port` for IPv6; empty where the socket has no such name."""
    if not isinstance(name, tuple) or len(name) < 2:
        return ""
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def keep_alive(connection: socket.socket, seconds: int) -> None:
    """Has the kernel ask a silent peer every so many seconds whether it is there; after three answers that don't come
    the connection is closed. 0 for never."""
    if seconds and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, seconds // 3))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
