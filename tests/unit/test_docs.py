"""The documentation says what the code does: generated pages are fresh, examples are real."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from docs.generate import pages
from keyhaus.client import errors as client_errors
from keyhaus.core import errors
from keyhaus.core.disk import OsDisk
from keyhaus.core.ids import read_id
from keyhaus.core.transactional import TransactionEnded
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal import recovery
from keyhaus.protocol.resp import RespCodec
from keyhaus.store import layout as rows
from keyhaus.store import record

_ROOT = Path(__file__).resolve().parents[2]
_DOCS = _ROOT / "docs"


@pytest.mark.parametrize(("path", "text"), [pytest.param(*page, id=page[0].name) for page in pages().items()])
def test_a_generated_page_is_up_to_date(path: Path, text: str) -> None:
    assert path.read_text() == text, "run: make reference"


def _block(page: str, name: str) -> str:
    """What stands in a generated block of a page, without its fence."""
    text = (_DOCS / "reference" / page).read_text()
    return text.split(f"<!-- generated: {name} -->")[1].split("<!-- end -->")[0].split("```")[1].removeprefix("text\n")


_DUMPED = re.compile(r" *(\d+)  ((?:[0-9a-f]{2} ?)+)(?: |$)")


def _bytes(lines: Iterable[str], size: int = 0) -> bytes:
    """The bytes of a dump, each where it says; what is not shown is zeros."""
    data = bytearray(size)
    for line in lines:
        if match := _DUMPED.match(line):
            piece = bytes.fromhex(match[2])
            at = int(match[1])
            data[at : at + len(piece)] = piece
    return bytes(data)


def test_a_start_reads_the_journals_worked_example_as_the_page_says(tmp_path: Path) -> None:
    disk = OsDisk(tmp_path)
    (tmp_path / manifests.DIRECTORY).mkdir()
    (tmp_path / manifests.NAME).write_text(_block("journal.md", "manifest-example"))
    found = manifests.read(disk)
    assert found is not None
    (line,) = found.segments
    data = _bytes(_block("journal.md", "journal-example").splitlines(), 64 << 10)
    (tmp_path / line.name).write_bytes(data)
    heads = list(layout.groups(data, line.epoch))
    assert [head.kind for head in heads] == [layout.START, layout.COMMITS, layout.END]
    assert [head.mark for head in heads] == [0, 16_777_217, 16_777_219]
    assert heads[0].jump == (0, 16_777_218)
    frames: list[layout.Frame] = []
    started = recovery.start(disk, secrets.token_bytes, frames.append, segment_bytes=64 << 10)
    started.segment.file.close()
    assert [(frame.seqno, frame.operations) for frame in frames] == [
        (16_777_218, [(layout.PUT, 0, b"greeting", b"hello", 0, 0)]),
        (16_777_219, [(layout.DELETE, 0, b"farewell")]),
    ]
    assert started.rewritten == 0, "the end mark proves them"


def test_the_bases_worked_example_reads_as_the_page_says() -> None:
    parts = re.split(r"^; .*\n", _block("base.md", "base-example"), flags=re.MULTILINE)[1:]
    pieces = [_bytes(part.splitlines()) for part in parts]
    found = dict(zip(pieces[::2], pieces[1::2], strict=True))
    assert list(found) == sorted(found)
    meta = rows.decode_meta(found.pop(rows.META), "base")
    assert meta is not None
    (space,) = meta.spaces
    assert (meta.seqno, space.generation, space.count, space.volatile) == (16_777_219, (0, 0), 2, 1)
    prefix = rows.prefix(space.generation)
    greeting, session = found.pop(prefix + b"greeting"), found.pop(prefix + b"session")
    assert (record.seqno_of(greeting), record.value_of(greeting), record.expires_of(greeting)) == (
        16_777_218,
        b"hello",
        0,
    )
    assert (record.seqno_of(session), record.value_of(session)) == (16_777_219, b"ada")
    (outcome,) = [row for row in found if row.startswith(rows.OUTCOME)]
    shown = _block("base.md", "base-example").split("the transaction ")[1].split("\n")[0]
    assert read_id(shown.encode()) == outcome[1:]
    assert rows.outcome(outcome[1:], record.seqno_of(session)) == (outcome, found.pop(outcome))
    ((deadline, mark),) = found.items()
    assert rows.read_deadline(deadline) == (record.expires_of(session), prefix, b"session")
    assert mark == rows.DEADLINE_VALUE


def _tree(kind: type[errors.Error]) -> Iterator[type[errors.Error]]:
    for child in kind.__subclasses__():
        yield child
        yield from _tree(child)


def test_every_error_is_described_with_its_wire_form_and_whether_to_retry() -> None:
    page = (_DOCS / "reference" / "errors.md").read_text()
    rows = {
        match[1]: (match[2], match[3])
        for match in re.finditer(r"^\| `([A-Z]+)` \| `([A-Z]+)` \| (yes|no) \|", page, re.MULTILINE)
    }
    codes = {kind.code: kind for kind in _tree(errors.Error) if "code" in vars(kind)}
    codes = {code: kind for code, kind in codes.items() if kind.__module__ == errors.__name__}
    assert set(rows) == set(codes)
    for code, kind in codes.items():
        error = kind.__new__(kind)
        errors.Error.__init__(error, "message")
        wire = RespCodec().encode(error)[1:].split(b" ")[0].decode()
        assert rows[code] == (wire, "yes" if kind.retryable else "no"), code


def test_every_error_of_the_python_client_is_described_with_whether_to_retry() -> None:
    page = (_DOCS / "reference" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z][A-Za-z]+)` \| (yes|no) \|", page, re.MULTILINE))
    own = [kind for kind in vars(client_errors).values() if getattr(kind, "__module__", "") == client_errors.__name__]
    kinds = {kind.__name__: kind for kind in own if isinstance(kind, type)} | {"TransactionEnded": TransactionEnded}
    assert rows == {name: "yes" if kind.retryable else "no" for name, kind in kinds.items()}


def test_every_limit_that_an_error_names_is_on_the_page() -> None:
    page = (_DOCS / "reference" / "limits.md").read_text()
    source = "".join(path.read_text() for path in (_ROOT / "src").rglob("*.py"))
    names = set(re.findall(r'LimitExceeded\(\s*"([a-z-]+)"', source))
    assert len(names) > 15
    assert [name for name in sorted(names) if name not in page] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (_ROOT / "mkdocs.yml").read_text()
    missing = [str(path.relative_to(_DOCS)) for path in _DOCS.rglob("*.md")]
    assert [name for name in missing if name not in navigation] == []


_RELATIVE_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md"])
def test_the_links_of_the_pages_beside_the_docs_lead_somewhere(name: str) -> None:
    links = _RELATIVE_LINK.findall((_ROOT / name).read_text())
    assert [link for link in links if not (_ROOT / link).exists()] == []
