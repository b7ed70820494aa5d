"""The documentation says what the code does: generated pages are fresh, examples are real."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.generate import EPOCH, pages
from keyhaus.core import errors
from keyhaus.journal import format as layout
from keyhaus.protocol.resp import RespCodec

_ROOT = Path(__file__).resolve().parents[2]
_DOCS = _ROOT / "docs"


@pytest.mark.parametrize(("path", "text"), [pytest.param(*page, id=page[0].name) for page in pages().items()])
def test_a_generated_page_is_up_to_date(path: Path, text: str) -> None:
    assert path.read_text() == text, "run: make reference"


def test_the_journals_worked_example_reads_as_the_page_says() -> None:
    page = (_DOCS / "reference" / "journal.md").read_text()
    block = page.split("<!-- generated: journal-example -->")[1].split("<!-- end -->")[0]
    dumped = re.findall(r"^ *\d+  ((?:[0-9a-f]{2} ?)+) ", block, re.MULTILINE)
    data = bytes(layout.HEADER_BYTES) + bytes.fromhex("".join(dumped))
    (group,) = layout.groups(data, EPOCH)
    assert (group.first, group.last, group.mark, group.kind) == (42, 43, 41, layout.COMMITS)
    put, delete = (layout.read_frame(data, begin) for begin, _ in layout.frames(data, group))
    assert put.seqno == 42
    assert put.operations == [(layout.PUT, 0, b"greeting", b"hello", 0, 0)]
    assert delete.seqno == 43
    assert delete.operations == [(layout.DELETE, 0, b"farewell")]


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
    assert set(rows) == set(codes)
    for code, kind in codes.items():
        error = kind.__new__(kind)
        errors.Error.__init__(error, "message")
        wire = RespCodec().encode(error)[1:].split(b" ")[0].decode()
        assert rows[code] == (wire, "yes" if kind.retryable else "no"), code


def test_every_page_is_in_the_navigation() -> None:
    navigation = (_ROOT / "mkdocs.yml").read_text()
    missing = [str(path.relative_to(_DOCS)) for path in _DOCS.rglob("*.md")]
    assert [name for name in missing if name not in navigation] == []


_RELATIVE_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md"])
def test_the_links_of_the_pages_beside_the_docs_lead_somewhere(name: str) -> None:
    links = _RELATIVE_LINK.findall((_ROOT / name).read_text())
    assert [link for link in links if not (_ROOT / link).exists()] == []
