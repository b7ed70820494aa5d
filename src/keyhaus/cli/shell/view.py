"""Replies for people: as redis-cli writes them, and as tables where that reads better and a terminal is there.

Invariant: all text of a reply passes `quoting`, so that only printable characters reach the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final, TextIO, TypeAlias

from rich.box import ROUNDED
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keyhaus.cli.shell.quoting import escaped, paragraphs, quoted, shown
from keyhaus.core.errors import Error
from keyhaus.core.reply import BigNumber, Push, SetReply, Verbatim

CELL_LETTERS_MAX: Final = 1000
TABLE_ROWS_MAX: Final = 1000  # more of them are written as a list: a table is laid out as a whole
_LINES_AT_ONCE: Final = 256
_PROSE: Final = ("INFO", "LOLWUT")

Piece: TypeAlias = tuple[str, str]  # text and its style

_ERROR, _NUMBER, _VALUE, _NOTHING, _STATUS, _COUNT = "bold red", "cyan", "green", "dim", "bold", "dim"


def make_console(stream: TextIO) -> Console:
    """A console that shows text as it is: no markup, no emoji, no colours of rich's own choice."""
    return Console(file=stream, markup=False, emoji=False, highlight=False)


class View:
    """Shows replies on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def show(self, words: Sequence[bytes], reply: Any) -> None:
        """Shows the reply to a request."""
        if self.console.is_terminal and (table := table_of(words, reply)) is not None:
            self.console.print(table)
            if (following := _following(words, reply)) is not None:
                self.console.print(following, soft_wrap=True)
            return
        name = words[0].decode("latin-1").upper() if words else ""
        if isinstance(reply, bytes) and name in _PROSE:
            reply = Verbatim(reply)
        self._write(lines(reply))

    def _write(self, written: Iterable[list[Piece]]) -> None:
        """In portions: a reply may have a million lines."""
        rest = iter(written)
        while portion := list(islice(rest, _LINES_AT_ONCE)):
            if self.console.is_terminal:
                text = Text("\n").join(Text.assemble(*line) for line in portion)
                self.console.print(text, soft_wrap=True)
            else:
                self.console.file.writelines("".join(text for text, _ in line) + "\n" for line in portion)

    def say(self, text: str, style: str = "") -> None:
        """Something that the shell itself has to say, on one line or several."""
        self.console.print(Text(paragraphs(text), style), soft_wrap=True)


# as redis-cli writes them


def lines(reply: Any, prefix: str = "") -> Iterator[list[Piece]]:
    """The lines of a reply; `prefix` is what nested ones are moved in by."""
    if isinstance(reply, dict) and reply:
        yield from _items(chain.from_iterable(reply.items()), len(reply), "#", prefix)
    elif isinstance(reply, list) and reply:
        yield from _items(reply, len(reply), "~" if isinstance(reply, SetReply) else ")", prefix)
    elif isinstance(reply, Verbatim):
        yield from ([(line, "")] for line in paragraphs(reply.removesuffix(b"\n")).split("\n"))
    else:
        yield [_scalar(reply)]


def _items(items: Iterable[Any], count: int, mark: str, prefix: str) -> Iterator[list[Piece]]:
    width = len(str(count))
    inner = prefix + " " * (width + 2)
    rest = iter(items)
    for number in range(1, count + 1):
        head: list[Piece] = [("" if number == 1 else prefix, ""), (f"{number:>{width}}{mark} ", _COUNT)]
        if mark == "#":
            name = _scalar(next(rest))
            head += [name, (" => ", _COUNT)]
            inner = prefix + " " * (width + 2 + len(name[0]) + 4)
        for place, line in enumerate(lines(next(rest), inner)):
            yield [*head, *line] if place == 0 else line


def _scalar(reply: Any) -> Piece:
    if isinstance(reply, Error):
        return f"(error) {reply.code} {escaped(reply.raw)}", _ERROR
    if isinstance(reply, bytes):
        return shown(reply), _VALUE
    if reply is None:
        return "(nil)", _NOTHING
    if isinstance(reply, bool):
        return f"({str(reply).lower()})", _NUMBER
    if isinstance(reply, float):
        return f"(double) {reply:.17g}", _NUMBER
    if isinstance(reply, int):
        return f"({'big number' if isinstance(reply, BigNumber) else 'integer'}) {reply}", _NUMBER
    if isinstance(reply, list | dict):
        kind = "hash" if isinstance(reply, dict) else "set" if isinstance(reply, SetReply) else "array"
        return f"(empty {'push' if isinstance(reply, Push) else kind})", _NOTHING
    return escaped(str(reply)), _STATUS


# tables


def table_of(words: Sequence[bytes], reply: Any) -> Table | None:
    """The table of a reply that is one: a page of RANGE or SCAN, a map, maps that are alike. None for any other."""
    name = words[0].decode("latin-1").upper() if words else ""
    if name in ("RANGE", "SCAN"):
        return _page(name, words, reply)
    if isinstance(reply, dict):
        return _map(reply)
    if isinstance(reply, list) and not isinstance(reply, Push):
        return _rows(reply)
    return None


def _page(name: str, words: Sequence[bytes], reply: Any) -> Table | None:
    if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], list):
        return None
    items = reply[1]
    options = {word.upper() for word in words[3:]}
    pairs = name == "RANGE" and b"KEYS" not in options
    if len(items) > TABLE_ROWS_MAX or not all(isinstance(item, bytes) for item in items):
        return None
    table = _table("key", "value") if pairs else _table("key")
    if pairs:
        if len(items) % 2:
            return None
        for key, value in zip(items[::2], items[1::2], strict=True):
            table.add_row(_cell(key), _cell(value))
    else:
        for key in items:
            table.add_row(_cell(key))
    return table


def _following(words: Sequence[bytes], reply: Any) -> Text | None:
    """What stands below a page: how many keys it has, and the request for the page behind it."""
    name = words[0].decode("latin-1").upper() if words else ""
    if name not in ("RANGE", "SCAN"):
        return None
    following, items = reply
    options = {word.upper() for word in words[3:]}
    count = len(items) if name == "SCAN" or b"KEYS" in options else len(items) // 2
    told = "1 key" if count == 1 else f"{count:,} keys"
    if isinstance(following, bytes) and (name == "RANGE" or following != b"0"):
        again = list(words)
        again[2 if name == "RANGE" and b"REV" in options else 1] = following
        told = f"{told}, more: {' '.join(map(quoted, again))}"
    return Text(told, "dim")


def _map(reply: dict[Any, Any]) -> Table | None:
    if not 0 < len(reply) <= TABLE_ROWS_MAX or not all(map(_is_cell, reply.values())):
        return None
    table = _table("", "", head=False)
    for name, value in reply.items():
        table.add_row(_cell(name), _cell(value))
    return table


def _rows(reply: list[Any]) -> Table | None:
    """Maps with the same names, each a row."""
    if not 0 < len(reply) <= TABLE_ROWS_MAX or not all(isinstance(row, dict) and row for row in reply):
        return None
    names = list(reply[0])
    if not all(list(row) == names and all(map(_is_cell, row.values())) for row in reply):
        return None
    table = _table(*(_cell(name).plain for name in names))
    for row in reply:
        table.add_row(*map(_cell, row.values()))
    return table


def _table(*names: str, head: bool = True) -> Table:
    table = Table(box=ROUNDED, show_header=head, border_style="dim", header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _is_plain(reply: Any) -> bool:
    return not isinstance(reply, dict | list | Verbatim)


def _is_cell(reply: Any) -> bool:
    return _is_plain(reply) or (isinstance(reply, list) and all(map(_is_plain, reply)))


def _cell(reply: Any) -> Text:
    """A value without quotes, unless its blanks would not be seen without them."""
    if isinstance(reply, list):
        return Text(", ").join(map(_cell, reply))
    if not isinstance(reply, bytes):
        text, style = _scalar(reply)
        return Text(text.removeprefix("(integer) ").removeprefix("(double) "), style)
    cut = reply[: 4 * CELL_LETTERS_MAX]
    text = shown(cut) if not reply or reply != reply.strip() else escaped(cut)
    if len(text) > CELL_LETTERS_MAX or len(cut) < len(reply):
        return Text(f"{text[:CELL_LETTERS_MAX]}… ({len(reply):,} bytes)", _VALUE)
    return Text(text, _VALUE)
