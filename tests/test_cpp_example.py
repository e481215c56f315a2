"""The client in C++ is compiled as its first lines say, and asks a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from serving_fixtures import MET, MET_SCORE, ROOT, Server, environment, write_bundle

SOURCE = ROOT / "examples" / "cpp" / "tfaas_predict.cpp"


def test_the_client_prints_the_scores_of_the_server(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    if subprocess.run(["g++", "-std=c++17", "-E", SOURCE, "-o", os.devnull], capture_output=True).returncode:
        pytest.skip("apt-get install libcurl4-openssl-dev nlohmann-json3-dev")
    program = tmp_path / "tfaas_predict"
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", SOURCE, "-o", program, "-lcurl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    write_bundle(tmp_path / "models" / "htautau")
    (tmp_path / "one.json").write_text(json.dumps(MET))
    (tmp_path / "two.json").write_text(json.dumps({**MET, "values": [MET["values"], [0, 0, []]]}))

    def run(*arguments: object) -> tuple[int, str, str]:
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment())
        return done.returncode, done.stdout, done.stderr

    with Server.start(tmp_path / "models") as server:
        assert run(server.url, "htautau", tmp_path / "one.json") == (0, f"[{MET_SCORE}]\n", "")
        assert run(server.url, "htautau", tmp_path / "two.json") == (0, f"[{MET_SCORE}]\n[0.0]\n", "")
        code, out, err = run(server.url, "none", tmp_path / "one.json")
        assert (code, out, err.startswith("error: ")) == (1, "", True)
        assert "none" in err
    code, out, err = run(server.url, "htautau", tmp_path / "one.json")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {server.url}: ")
