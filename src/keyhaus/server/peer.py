"""Addresses as people read them."""

from __future__ import annotations

from typing import Any


def address_of(name: Any) -> str:
    """`host:port`, or `[host]:port` for IPv6; empty where the socket has no such name."""
    if not isinstance(name, tuple) or len(name) < 2:
        return ""
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
