"""A page in a real browser posts to the ports of the dialects; nothing of what it posts is run."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.load import Link
from tests.support.processes import HOST
from tests.support.programs import require_program

SECONDS: Final = 120
_PORTS: Final = ("resp", "text", "json", "auto")  # the last one recognises HTTP: that is no broken stream there
# All that a page may send without asking first: simple requests with texts of its own, and forms.
BODIES: Final = [
    "SET evil 1\r\nPUT evil 1\r\n",
    "*3\r\n$3\r\nSET\r\n$4\r\nevil\r\n$1\r\n1\r\n",
    '{"command": "put", "key": "evil", "value": "1"}\n',
]
PAGE: Final = """<!doctype html><title>working</title><pre id="said"></pre><script>
const said = [];
async function post(port, body) {
  for (const type of ["text/plain", "application/x-www-form-urlencoded"]) {
    try {
      const headers = {"Content-Type": type};
      await fetch(`http://127.0.0.1:${port}/`, {method: "POST", mode: "no-cors", headers, body});
      said.push("answered");
    } catch (error) { said.push("refused"); }
  }
}
(async () => {
  for (const port of PORTS) for (const body of BODIES) await post(port, body);
  await fetch("/done", {method: "POST", body: JSON.stringify(said)});
})();
</script>"""


class Site(http.server.BaseHTTPRequestHandler):
    """Has one page, and hears when it is done."""

    page: bytes
    done: threading.Event
    said: list[str]

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page if self.path == "/" else b"")

    def do_POST(self) -> None:
        said = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        type(self).said.extend(json.loads(said))
        type(self).done.set()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def site(ports: dict[str, int]) -> Iterator[tuple[str, type[Site]]]:
    numbers = [ports[name] for name in _PORTS]
    page = PAGE.replace("PORTS", json.dumps(numbers)).replace("BODIES", json.dumps(BODIES))
    handler = type("ThisSite", (Site,), {"page": page.encode(), "done": threading.Event(), "said": []})
    with http.server.ThreadingHTTPServer((HOST, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://{HOST}:{server.server_address[1]}/", handler
        server.shutdown()
        thread.join()


def _refused(ports: dict[str, int]) -> int:
    """How many streams were broken off."""
    with Link(ports["resp"]) as link:
        stats: bytes = link.ask(b"INFO", b"stats")
    return int(dict(line.split(":", 1) for line in stats.decode().splitlines() if ":" in line)["protocol_errors"])


def test_nothing_that_a_page_posts_is_run(site: tuple[str, type[Site]], ports: dict[str, int], tmp_path: Path) -> None:
    chromium = require_program("chromium")
    address, seen = site
    before = _refused(ports)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}"]
    with (tmp_path / "browser.log").open("wb") as log:
        browser = subprocess.Popen([chromium, *options, "--remote-debugging-port=0", address], stdout=log, stderr=log)
    try:
        assert seen.done.wait(SECONDS), (tmp_path / "browser.log").read_text(errors="replace")[-3000:]
    finally:
        browser.terminate()
        browser.wait(SECONDS)
    assert len(seen.said) == len(_PORTS) * len(BODIES) * 2
    assert _refused(ports) - before == (len(_PORTS) - 1) * len(BODIES) * 2, "the posts did not arrive"
    with Link(ports["resp"]) as link:
        assert link.ask(b"EXISTS", b"evil") == 0
        assert link.ask(b"DBSIZE") == 0
    print(f"{len(seen.said)} posts of a browser: nothing was run")
