"""Replies as JSON: one document a reply, in one line, in the form that the other dialects use.

text, or {"base64": …} for bytes that are no UTF-8      {"error": code, "message": …} for an error
"""

from __future__ import annotations

import json
from typing import Any

from keyhaus.protocol.json_replies import plain


def document(reply: Any) -> str:
    """The document of a reply: printable characters only, the others as JSON's escapes."""
    text = json.dumps(plain(_named(reply)), ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else "".join(map(_safe, text))


def _named(reply: Any) -> Any:
    """Names of maps that are no UTF-8 as text, since a document has no others."""
    if isinstance(reply, dict):
        return {
            name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name: _named(value)
            for name, value in reply.items()
        }
    if isinstance(reply, list):
        return [_named(item) for item in reply]
    if isinstance(reply, str):
        return reply.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return reply


def _safe(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]
