"""Writes the parts of docs/reference that follow from the code: commands, settings, limits, the journal's layout.

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
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import keyhaus.commands
from keyhaus.commands.spec import TABLE, CommandSpec, Flag
from keyhaus.core import limits, settings
from keyhaus.journal import format as layout
from keyhaus.journal import manifest
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
    """The limits by the headings of their module, each with its value, its setting and its remark."""
    names = _settings_of_limits()
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
                parts.append("\n| limit | value | setting | remark |\n|---|---|---|---|\n")
                in_table = True
            value = getattr(limits, name)
            shown = amount(value) if "BYTES" in name else f"{value:,}"
            setting = ", ".join(f"`{entry}`" for entry in names.get(name, ()))
            parts.append(f"| `{name}` | {shown} | {setting} | {remark or ''} |\n")
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


# journal.md


def grammar(module: object) -> str:
    """The grammar that stands, indented, in a module's docstring."""
    lines = [line for line in (inspect.getdoc(module) or "").splitlines() if line.startswith("    ") or not line]
    text = inspect.cleandoc("\n".join(lines)).strip("\n")
    return f"```text\n{text}\n```\n"


EPOCH: Final = 0x1122334455667788
CLOCK: Final = 1_760_000_000_000


def example_group() -> bytes:
    """The group of the worked example: a SET and a DEL, one commit each."""
    put = layout.frame(42, CLOCK, [(layout.PUT, 0, b"greeting", b"hello", 0, 0)])
    delete = layout.frame(43, CLOCK, [(layout.DELETE, 0, b"farewell")])
    return layout.group(EPOCH, 42, 43, CLOCK, 41, layout.COMMITS, put + delete)


def worked_example() -> str:
    """The example's bytes, part by part, with what each says."""
    data = example_group()
    group = "crc length epoch first last clock mark kind zeros"
    frame = "length seqno unix-ms flags operations"
    operation = "kind database flags other key-length value-length"
    parts: list[tuple[str, str, list[int]]] = [
        ("the group's head", group, [4, 4, 8, 8, 8, 8, 8, 1, 7]),
        ("the first frame", frame, [4, 8, 8, 4, 4]),
        ("its operation, a put", operation, [1, 1, 1, 1, 4, 4]),
        ("", "key value", [8, 5]),
        ("the second frame", frame, [4, 8, 8, 4, 4]),
        ("its operation, a delete", operation, [1, 1, 1, 1, 4, 4]),
        ("", "key", [8]),
    ]
    lines: list[str] = []
    at = 0
    for title, names, sizes in parts:
        if title:
            lines.append(f"; {title}")
        for name, size in zip(names.split(), sizes, strict=True):
            piece = data[at : at + size]
            lines.append(f"{at:4}  {piece.hex(' '):23}  {name:12} {_value(name, piece)}".rstrip())
            at += size
    assert at == len(data), "the layout has changed: describe the new one here"
    return "```text\n" + "\n".join(lines) + "\n```\n"


def _value(name: str, piece: bytes) -> str:
    if name in ("key", "value"):
        return piece.decode()
    number = int.from_bytes(piece, "little")
    if name in ("crc", "epoch"):
        return f"{number:#x}"
    return "" if name == "zeros" else str(number)


# all of them


def pages() -> dict[Path, str]:
    """Every page that is generated, whole or in part, as it should be."""
    blocks = {
        "settings": setting_table,
        "limits": limit_tables,
        "journal-grammar": lambda: grammar(layout),
        "manifest-grammar": lambda: grammar(manifest),
        "record-grammar": lambda: grammar(record),
        "journal-example": worked_example,
    }
    found = {REFERENCE / "commands.md": commands()}
    for name in ("settings.md", "limits.md", "journal.md"):
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
