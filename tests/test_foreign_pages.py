"""Pages of another origin in a real browser: whatever they send, the models stay as they are."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from serving_fixtures import Server, server_fixture, shared_server_fixture, url_fixture  # noqa: F401
from test_page import EXAMPLE, FIRST, browser, put, score, scores_of, sync_api, write_model  # noqa: F401

HOSTILE = """<!doctype html><title>other</title><form method=post enctype=multipart/form-data>
<input name=name value=htautau><input type=file name=params><input type=file name=model></form>"""
FORM = """([url, model]) => {
    const form = document.forms[0], kept = new DataTransfer(), described = new DataTransfer();
    kept.items.add(new File([Uint8Array.from(atob(model), c => c.charCodeAt(0))], 'model.onnx'));
    described.items.add(new File(['{"name": "htautau", "model": "model.onnx"}'], 'params.json'));
    form.elements.model.files = kept.files;
    form.elements.params.files = described.files;
    form.action = url;
    form.submit();
}"""
FETCH = """async ([url, method, mode, body, type]) => {
    const headers = type ? { 'Content-Type': type } : {};
    try {
        const bytes = body === null ? undefined : Uint8Array.from(atob(body), c => c.charCodeAt(0));
        const answer = await fetch(url, { method, mode, headers, body: bytes });
        return answer.type;
    } catch (error) { return String(error); }
}"""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """The URL of a server at another port, with one page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(HOSTILE.encode())

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:  # noqa: F811
    with browser.new_context() as context:
        opened = context.new_page()
        opened.set_default_timeout(10_000)
        yield opened


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def state(server: Server) -> dict[str, bytes]:
    """The whole models directory."""
    return {str(path): path.read_bytes() for path in server.models_dir.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])  # of the same site as the page, and of another one
def test_no_page_of_another_origin_changes_a_model(
    page: Any, elsewhere: str, server: Server, url: str, tmp_path: Path, name: str
) -> None:
    put(url, write_model(tmp_path / "bundle"))
    put(url, write_model(tmp_path / "b2", "another"), "another")
    archive = (tmp_path / "bundle.tar").read_bytes()
    before, target = state(server), url.replace("127.0.0.1", name)
    seen: list[tuple[str, int]] = []
    page.on("response", lambda answer: seen.append((answer.request.method, answer.status)))
    page.goto(elsewhere)
    for path, body in (("bundle", archive), ("upload", archive), ("params", b'{"name": "another"}')):
        for kind in ("text/plain", None):
            assert page.evaluate(FETCH, [f"{target}/{path}", "POST", "no-cors", encoded(body), kind]) == "opaque"
    for path, body in (("delete/htautau", None), ("delete", b"model=htautau")):
        failed = page.evaluate(FETCH, [f"{target}/{path}", "DELETE", "cors", body and encoded(body), None])
        assert failed == "TypeError: Failed to fetch"
    with page.expect_navigation():
        page.evaluate(FORM, [f"{target}/upload", encoded((tmp_path / "bundle" / "model.onnx").read_bytes())])
    assert "a page of another origin sent the request" in page.content()
    posts = [code for method, code in seen if method == "POST"]
    assert posts == [403] * 7
    assert state(server) == before


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_servers_own_page_asks_for_predictions_under_every_name_of_loopback(
    page: Any, url: str, tmp_path: Path, name: str
) -> None:
    put(url, write_model(tmp_path / "bundle"))
    page.goto(f"{url.replace('127.0.0.1', name)}/#model=htautau")
    sync_api.expect(score(page)).to_contain_text("True label: ggH")
    answer = requests.post(f"{url}/json", json={**EXAMPLE, "values": FIRST}, timeout=20)
    assert json.loads(answer.text) == [pytest.approx(scores_of(FIRST))]
