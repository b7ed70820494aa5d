"""Writes the parts of docs/reference that follow from the code: commands, settings, limits, layouts on disk.

`python docs/generate.py` writes them, `--check` only says whether they are up to date. A page is either generated whole
or holds marked blocks, between `<!-- generated: name -->` and `<!-- end -->`; what stands around those is written by
hand.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import pkgutil
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

import keyhaus.commands
from keyhaus.commands.spec import TABLE, CommandSpec, Flag
from keyhaus.core import limits, settings
from keyhaus.core.disk import OsDisk
from keyhaus.core.ids import make_id, shown_id
from keyhaus.journal import archive, manifest, recovery
from keyhaus.journal import format as layout
from keyhaus.store import layout as rows
from keyhaus.store import record

REFERENCE: Final = Path(__file__).parent / "reference"
NOTE: Final = "<!-- Generated from {source} by docs/generate.py: change it there, then run make reference. -->\n"
_BLOCK: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_GROUPS: Final = {
    "string": "Strings",
    "generic": "Keys",
    "transactions": "Transactions",
    "connection": "Connection",
    "server": "Server",
}
# What a command is, where its user may want to know.
_TOLD: Final = {
    Flag.READ: "reads",
    Flag.WRITE: "writes",
    Flag.BLOCKING: "may wait",
    Flag.DANGEROUS: "dangerous",
    Flag.NO_MULTI: "not between MULTI and EXEC",
}


# commands.md


def commands() -> str:
    """The page of all commands, by group and name."""
    for module in pkgutil.iter_modules(keyhaus.commands.__path__):
        importlib.import_module(f"keyhaus.commands.{module.name}")
    groups: dict[str, list[CommandSpec]] = {}
    for spec in TABLE.values():
        groups.setdefault(spec.group, []).append(spec)
    order = [*_GROUPS, *sorted(set(groups) - set(_GROUPS))]
    parts = [
        NOTE.format(source="the command table"),
        "# Commands\n",
        "What came with a release of Redis answers as redis-server 7.0.15 does, errors included; commands that are\n"
        "newer than that one, and keyhaus' own, say so. Words in capitals are typed as they stand, in any case; the\n"
        "others are yours; brackets hold what may be left out.\n",
    ]
    for group in order:
        if group in groups:
            parts.append(f"## {_GROUPS.get(group, group.capitalize())}\n")
            for spec in sorted(groups[group], key=lambda spec: spec.name):
                parts += _command(spec)
    return "\n".join(parts)


def _command(spec: CommandSpec) -> Iterator[str]:
    words = spec.name.replace("|", " ")
    yield f"### {words}\n"
    if spec.handler is not None:
        yield f"    {words} {spec.syntax}".rstrip() + "\n"
    yield spec.summary + "\n"
    told = [text for flag, text in _TOLD.items() if flag in spec.flags]
    since = f"Redis {spec.since}" if spec.since[:1].isdigit() else spec.since
    facts = [spec.complexity, *told, f"since {since}"] if spec.handler is not None else [f"since {since}"]
    yield "*" + " · ".join(fact for fact in facts if fact) + "*\n"
    for subcommand in sorted(spec.subcommands.values(), key=lambda spec: spec.name):
        yield from _command(subcommand)


# settings.md


def setting_table() -> str:
    """The table of settings."""
    rows = ["| setting | default | allowed | CONFIG SET | what it is |", "|---|---|---|---|---|"]
    for setting in settings.TABLE.values():
        default = amount(setting.default) if setting.memory else settings.show(setting.name, setting.default)
        rows.append(
            f"| `{setting.name}` | `{default}` | {_allowed(setting)} | {'yes' if setting.mutable else 'no'} "
            f"| {setting.summary} |"
        )
    for name, alias in settings.ALIASES.items():
        words = ", ".join(f"`{word}`" for word in alias.choices or ())
        rows.append(f"| `{name}` | | {words} | yes | `{alias.setting}`, as Redis names it |")
    return "\n".join(rows) + "\n"


def _allowed(setting: settings.Setting) -> str:
    if setting.choices is not None:
        return ", ".join(f"`{word}`" for word in setting.choices)
    if isinstance(setting.default, bool):
        return "`yes`, `no`"
    if isinstance(setting.default, str):
        return "any text"
    least = amount(setting.least) if setting.memory else f"{setting.least:,}"
    if setting.most == settings.Setting("", 0, "").most:
        return f"from {least}"
    return f"{least} to {amount(setting.most) if setting.memory else f'{setting.most:,}'}"


def amount(value: object) -> str:
    """A number of bytes as people write it."""
    assert isinstance(value, int)
    for unit, size in (("GiB", limits.GIB), ("MiB", limits.MIB), ("KiB", limits.KIB)):
        if value and value % size == 0:
            return f"{value // size:,} {unit}"
    return f"{value:,}"


# limits.md


def limit_tables() -> str:
    """The limits by the headings of their module, each with its value, its setting, its error and its remark."""
    names, errors = _settings_of_limits(), _errors_of_limits()
    parts: list[str] = []
    comment: list[str] = []
    in_table = False
    for line in inspect.getsource(limits).splitlines():
        if line.startswith("# "):
            comment.append(line[2:])
        elif not line:
            in_table, comment = False, []
        elif found := re.match(r"([A-Z_]+): Final = [^#]*(?:# (.*))?$", line):
            name, remark = found.groups()
            if name in ("KIB", "MIB", "GIB"):
                continue
            if not in_table:
                if comment:
                    parts.append(f"\n{' '.join(comment).rstrip('.')}:\n")
                parts.append("\n| limit | value | setting | in errors | remark |\n|---|---|---|---|---|\n")
                in_table = True
            value = getattr(limits, name)
            shown = amount(value) if "BYTES" in name else f"{value:,}"
            setting, told = (", ".join(f"`{entry}`" for entry in table.get(name, ())) for table in (names, errors))
            parts.append(f"| `{name}` | {shown} | {setting} | {told} | {remark or ''} |\n")
    return "".join(parts).lstrip("\n")


def _settings_of_limits() -> dict[str, list[str]]:
    """Which settings have which limit as their default."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse(inspect.getsource(settings))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Setting":
            name, default = (*node.args, None, None)[:2]
            if isinstance(name, ast.Constant) and isinstance(default, ast.Attribute):
                found.setdefault(default.attr, []).append(str(name.value))
    return found


def _errors_of_limits() -> dict[str, list[str]]:
    """By which names errors tell of which limit, where it is no setting's: from what `LimitExceeded` is made with."""
    found: dict[str, set[str]] = {}
    for path in Path(keyhaus.__file__).parent.rglob("*.py"):
        text = path.read_text()
        if "LimitExceeded(" in text:
            for name, most in _limits_told(ast.parse(text)):
                found.setdefault(most, set()).add(name)
    for entries in _settings_of_limits().values():
        for names in found.values():
            names.difference_update(entries)
    return {limit: sorted(names) for limit, names in found.items()}


def _limits_told(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "LimitExceeded":
            name, _, most, *_ = node.args
            assert isinstance(name, ast.Constant)
            limit = most.attr if isinstance(most, ast.Attribute) else most.id if isinstance(most, ast.Name) else ""
            if hasattr(limits, limit):
                yield str(name.value), limit


# journal.md, and the grammars of all layouts


def grammar(module: object) -> str:
    """The grammar that stands, indented, in a module's docstring."""
    lines = [line for line in (inspect.getdoc(module) or "").splitlines() if line.startswith("    ") or not line]
    text = inspect.cleandoc("\n".join(lines)).strip("\n")
    return f"```text\n{text}\n```\n"


class _Blocks(OsDisk):
    """A disk with the usual blocks, whatever this machine has."""

    def block_bytes(self) -> int:
        return 4096


CLOCK: Final = 1_760_000_000_000
_HEADER: Final = [("magic", 8), ("version", 4), ("number", 4), ("epoch", 8), ("bytes", 8), ("zeros", 4060), ("crc", 4)]
_GROUP: Final = [
    ("crc", 4),
    ("length", 4),
    ("epoch", 8),
    ("first", 8),
    ("last", 8),
    ("clock", 8),
    ("mark", 8),
    ("kind", 1),
    ("zeros", 7),
]
_FRAME: Final = [("length", 4), ("seqno", 8), ("unix-ms", 8), ("flags", 4), ("operations", 4)]
_OPERATION: Final = [
    ("kind", 1),
    ("database", 1),
    ("flags", 1),
    ("other", 1),
    ("key-length", 4),
    ("value-length", 4),
]
_Part: TypeAlias = tuple[str, list[tuple[str, int]]]


@cache
def example_journal() -> tuple[str, bytes]:
    """The manifest and the one segment of a tiny journal: a first start, a SET and a DEL, a clean stop."""
    with tempfile.TemporaryDirectory() as place:
        disk = _Blocks(place)
        started = recovery.start(disk, random.Random(1).randbytes, lambda frame: None, segment_bytes=64 << 10)
        segment, first = started.segment, started.last + 1
        put = layout.frame(first, CLOCK, [(layout.PUT, 0, b"greeting", b"hello", 0, 0)])
        delete = layout.frame(first + 1, CLOCK, [(layout.DELETE, 0, b"farewell")])
        group = layout.group(segment.epoch, first, first + 1, CLOCK, started.last, layout.COMMITS, put + delete)
        segment.file.write(group, started.offset)
        ended = started.offset + 4096
        end = layout.group(segment.epoch, first + 2, first + 1, CLOCK, first + 1, layout.END, b"")
        segment.file.write(end, ended)
        segment.file.close()
        line = replace(started.manifest.segments[0], counts_to=first + 1)
        manifest.replace(disk, replace(started.manifest, segments=(line,), ended=ended))
        text = (Path(place) / manifest.NAME).read_bytes().rstrip(b"\0").decode()
        return text, (Path(place) / segment.name).read_bytes()


def example_manifest() -> str:
    return f"```text\n{example_journal()[0]}```\n"


def worked_example() -> str:
    """The segment's bytes, part by part, with what each says."""
    places: list[tuple[int, list[_Part]]] = [
        (0, [("the segment's header", _HEADER)]),
        (4096, [("the start record: a group of the kind START", [*_GROUP, ("from", 8), ("to", 8)])]),
        (
            8192,
            [
                ("a group of the kind COMMITS", _GROUP),
                ("its first frame", _FRAME),
                ("the operation, a put", [*_OPERATION, ("key", 8), ("value", 5)]),
                ("its second frame", _FRAME),
                ("the operation, a delete", [*_OPERATION, ("key", 8)]),
            ],
        ),
        (12288, [("the end mark of a clean stop: a group of the kind END", _GROUP)]),
    ]
    data = example_journal()[1]
    lines: list[str] = []
    at = 0
    for offset, parts in places:
        assert not any(data[at:offset]), "the layout has changed: describe the new one here"
        at = offset
        for title, fields in parts:
            lines.append(f"; {title}")
            for name, size in fields:
                lines += _dumped(at, data[at : at + size], name)
                at += size
    assert not any(data[at:]), "the layout has changed: describe the new one here"
    return "```text\n" + "\n".join(lines) + "\n```\n"


def _dumped(at: int, piece: bytes, name: str, value: str | None = None) -> Iterator[str]:
    """A field's lines: where it stands, its bytes, eight a line, its name, and what it says."""
    if len(piece) > 64 and not any(piece):
        yield f"{at:5}  {'':23}  {name:12} {len(piece):,} bytes"
        return
    said = _value(name, piece) if value is None else value
    for start in range(0, len(piece), 8):
        text = f"{name:12} {said}" if not start else ""
        yield f"{at + start:5}  {piece[start : start + 8].hex(' '):23}  {text}".rstrip()


def _value(name: str, piece: bytes) -> str:
    if name in ("key", "value", "magic"):
        return piece.decode()
    number = int.from_bytes(piece, "little")
    if name in ("crc", "epoch"):
        return f"{number:#x}"
    return "" if name == "zeros" else str(number)


# base.md


def example_rows() -> list[tuple[bytes, bytes]]:
    """A tiny base: a key that stays, one that expires, its transaction, and what the base says of itself."""
    prefix = rows.prefix((0, 0))
    stays = record.make(16_777_218, 0, b"hello")
    expires = record.make(16_777_219, 0, b"ada", CLOCK + 3_600_000)
    space = rows.Space((0, 0), count=2, volatile=1, exact=True)
    meta = rows.Meta("cd072cd8be6f9f62ac4c09c28206e7e3", 16_777_219, CLOCK, (space,))
    return [
        (rows.META, rows.encode_meta(meta)),
        (prefix + b"greeting", stays),
        (prefix + b"session", expires),
        (rows.deadline(CLOCK + 3_600_000, prefix, b"session"), rows.DEADLINE_VALUE),
        (rows.OUTCOME + make_id(CLOCK, random.Random(1).randbytes(10)), (16_777_219).to_bytes(8, "big")),
    ]


def worked_rows() -> str:
    """Each row of the tiny base, its key and its value apart."""
    (_, meta), (stays, hello), (goes, ada), (due, mark), (ended, seqno) = example_rows()
    lines: list[str] = ["; the meta row"]
    lines += _fields(rows.META, [("kind", 1, "0, meta")])
    lines.append("; is: a map in MessagePack, its field names in it")
    at = 1
    lines += _dumped(0, meta[:1], "map", f"of {meta[0] & 0xF} fields")
    for name, value in msgspec.msgpack.decode(meta).items():
        piece = msgspec.msgpack.encode(name) + msgspec.msgpack.encode(value)
        assert meta[at : at + len(piece)] == piece, "the meta row has changed: describe the new one here"
        shown = value if isinstance(value, str | int) else msgspec.json.encode(value).decode()
        lines += _dumped(at, piece, name, str(shown))
        at += len(piece)
    kind, generation = ("kind", 1, "1, record"), [("seqno", 8, "0"), ("number", 4, "0")]
    flags = {0: "0", record.EXPIRES: "1, an expiry is there"}
    lines.append("; the row of the key greeting")
    lines += _fields(stays, [kind, *generation, ("key", 8, "greeting")])
    lines.append("; is: a record")
    lines += _fields(hello, [("seqno", 7, "16777218"), ("flags", 1, flags[hello[7]]), ("value", 5, "hello")])
    lines.append("; the row of the key session")
    lines += _fields(goes, [kind, *generation, ("key", 7, "session")])
    lines.append("; is: a record that expires")
    when = str(CLOCK + 3_600_000)
    head = [("seqno", 7, "16777219"), ("flags", 1, flags[ada[7]])]
    lines += _fields(ada, [*head, ("expires", 8, when), ("value", 3, "ada")])
    lines.append("; its row of the expiry index")
    told = [("kind", 1, "2, deadline"), ("expires", 8, f"{when} + 2^63"), *generation, ("key", 7, "session")]
    lines += _fields(due, told)
    lines.append("; is: one byte, since a row has a value")
    lines += _fields(mark, [("mark", 1, "1")])
    lines.append(f"; the outcome of the transaction {shown_id(ended[1:])}")
    lines += _fields(ended, [("kind", 1, "3, outcome"), ("begun", 6, str(CLOCK)), ("random", 10, "")])
    lines.append("; is: the commit's sequence number")
    lines += _fields(seqno, [("seqno", 8, "16777219")])
    return "```text\n" + "\n".join(lines) + "\n```\n"


def _fields(data: bytes, fields: list[tuple[str, int, str]]) -> Iterator[str]:
    at = 0
    for name, size, value in fields:
        yield from _dumped(at, data[at : at + size], name, value)
        at += size
    assert at == len(data), "the layout has changed: describe the new one here"


# all of them


def pages() -> dict[Path, str]:
    """Every page that is generated, whole or in part, as it should be."""
    blocks = {
        "settings": setting_table,
        "limits": limit_tables,
        "journal-grammar": lambda: grammar(layout),
        "manifest-grammar": lambda: grammar(manifest),
        "archive-grammar": lambda: grammar(archive),
        "record-grammar": lambda: grammar(record),
        "journal-example": worked_example,
        "manifest-example": example_manifest,
        "base-grammar": lambda: grammar(rows),
        "base-example": worked_rows,
    }
    found = {REFERENCE / "commands.md": commands()}
    for name in ("settings.md", "limits.md", "journal.md", "base.md"):
        path = REFERENCE / name
        found[path] = _BLOCK.sub(lambda match: f"{match[1]}\n{blocks[match[2]]()}\n{match[3]}", path.read_text())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the generated parts of docs/reference.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if check:
            print(f"{path} is out of date: run make reference", file=sys.stderr)
        else:
            path.write_text(pages()[path])
            print(f"written: {path}")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
