"""The server's OpenAPI description is true: of every route, and in the eyes of schemathesis, which finds no 500."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from serving_fixtures import Server, bundle_fixture  # noqa: F401
from starlette.routing import Route

from mlaas4hep.serving.app import routes
from mlaas4hep.serving.protocols.openapi import description

UNDESCRIBED = {"/", "/static/{file}"}  # for people


def test_exactly_the_existing_routes_are_described() -> None:
    found = {
        (re.sub(r"\{\w+(:\w+)?\}", "{}", route.path), method.lower())
        for route in routes()
        if isinstance(route, Route) and route.path not in UNDESCRIBED
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {
        (re.sub(r"\{\w+\}", "{}", path), method) for path, item in description()["paths"].items() for method in item
    }
    assert described == found


def test_the_description_contains_the_base_path(tmp_path: Path) -> None:
    with Server.start(tmp_path / "models", "--base-path=tfaas") as server:
        assert requests.get(f"{server.url}/openapi.json", timeout=20).json()["servers"] == [{"url": "/tfaas"}]


@pytest.mark.parametrize("examples", [8, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize(
    "operations", [["--exclude-method=DELETE"], ["--include-method=DELETE"]], ids=["use", "delete"]
)
def test_schemathesis_finds_no_500_and_no_undocumented_response(
    operations: list[str], examples: int, tmp_path: Path, bundle: Path
) -> None:
    (tmp_path / "schemathesis.toml").write_text('[parameters]\n"path.model" = "htautau"\n')
    (tmp_path / "models").mkdir()
    shutil.move(bundle, tmp_path / "models/htautau")
    conformance = ("status_code", "content_type", "response_schema", "allow_header")
    checks = ",".join(["not_a_server_error", *(f"{what}_conformance" for what in conformance)])
    with Server.start(tmp_path / "models") as server:
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--no-color", *operations,
            "--seed=1", f"--max-examples={examples}", "--phases=examples,coverage,fuzzing", f"--checks={checks}",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ generated, \d+ passed", done.stdout), done.stdout
