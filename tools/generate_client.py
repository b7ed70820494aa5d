"""Makes what blocks of the Python doors (blocking/) from what is asynchronous (aio/), in client/ and in core/access/.

`python tools/generate_client.py` writes it, `--check` only says whether it is up to date. A file is made by replacing
words, in its comments and docstrings too, and is then put in order by ruff. `driver.py` and `__init__.py` are written
by hand on both sides: what is more than another word belongs there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

_KEYHAUS: Final = Path(__file__).resolve().parents[1] / "src" / "keyhaus"
ROOMS: Final = (_KEYHAUS / "client", _KEYHAUS / "core" / "access")
BY_HAND: Final = ("__init__.py", "driver.py")
_NOTE: Final = "# Made from aio/{name} by tools/generate_client.py: change it there, then run make client.\n"
_REPLACED: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\ban `async with`", "a `with`"),
        (r"\basync (def|with|for)\b", r"\1"),
        (r"\bawait ", ""),
        (r"\bAsync(?=[A-Z])", ""),
        (r"\b__a(enter|exit)__\b", r"__\1__"),
        (r"\baclose\b", "close"),
        (r"\bAwaitable\[(\w+)\]", r"\1"),
        (r"\bAwaitable, ", ""),
        (r"\bkeyhaus\.(client|core\.access)\.aio\b", r"keyhaus.\1.blocking"),
        (r"\bthe task is cancelled\b", "the thread is interrupted"),
        (r"\banother task\b", "another thread"),
    )
)


def made(source: Path) -> str:
    """The text of the file that blocks, from the asynchronous one's."""
    text = source.read_text()
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    text = _NOTE.format(name=source.name) + text
    target = str(_twin(source))
    for command in (
        ("check", "--quiet", "--fix", "--select", "I", "--stdin-filename", target, "-"),
        ("format", "--quiet", "--stdin-filename", target, "-"),
    ):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command], input=text, capture_output=True, text=True, check=True
        ).stdout
    return text


def files() -> dict[Path, str]:
    """Every file that is made, as it should be."""
    sources = [path for room in ROOMS for path in sorted((room / "aio").glob("*.py")) if path.name not in BY_HAND]
    return {_twin(source): made(source) for source in sources}


def _twin(source: Path) -> Path:
    return source.parents[1] / "blocking" / source.name


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes what blocks of the Python doors from what is asynchronous.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args().check
    stale = {path: text for path, text in files().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        if check:
            print(f"{path} is out of date: run make client", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"written: {path}")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
