"""tfaas_server.py and tfaas_client.py as commands, run from another directory."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import socket
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from scripts import only_error_line, run_script
from serving_fixtures import (  # noqa: F401
    KEYS,
    MET,
    MET_SCORE,
    ROOT,
    Server,
    bundle_fixture,
    environment,
    run_client,
    server_fixture,
    shared_server_fixture,
    url_fixture,
    write_archive,
)
from stock_tfaas import StockTFaaS


def test_a_session_prints_readable_text(url: str, bundle: Path, tmp_path: Path) -> None:
    def run(*options: object) -> str:
        done = run_client(*options, cwd=tmp_path, TFAAS_URL=url)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    (tmp_path / "input.json").write_text(json.dumps({**MET, "model": "htautau"}))
    many = {"keys": KEYS, "values": [[1, 2, 3, 4, None], [1, 0, 0, 0, 0]], "labels": ["ggH", "VBF"]}
    (tmp_path / "many.json").write_text(json.dumps(many))
    write_archive(tmp_path / "model.tar.gz", bundle)

    assert run("--upload=bundle/upload.json") == f"uploaded model 'htautau' to {url}\n"
    assert run("--bundle=model.tar.gz") == f"uploaded bundle 'model.tar.gz' to {url}\n"
    assert run("--models") == (
        "name     model file  description  timestamp\nhtautau  model.onnx  ggH or VBF   2025-01-02T03:04:05+00:00\n"
    )
    assert json.loads(run("--models", "--json"))[0]["input_node"] == "inputs"
    assert json.loads(run("--params=htautau"))["output_node"] == "scores"
    assert "postRequests" in json.loads(run("--status"))
    assert run("--predict=input.json") == f"[{MET_SCORE}]\n"
    assert run("--predict=many.json") == f"[{MET_SCORE}]  true label: ggH\n[1.0]  true label: VBF\n"
    assert run("--predict=many.json", "--model=htautau", "--json") == f"[[{MET_SCORE}], [1.0]]\n"
    assert run("--delete=htautau") == f"deleted model 'htautau' from {url}\n"
    run("--upload=bundle/upload.json")
    assert run("--delete=htautau", "--json") == '{"deleted": "htautau"}\n'


def test_deleting_a_model_that_does_not_exist_is_an_error(server: Server, bundle: Path) -> None:
    assert run_client("--upload=upload.json", cwd=bundle, TFAAS_URL=server.url).returncode == 0
    for options in ([], ["--json"]):
        done = run_client("--delete=htatau", *options, TFAAS_URL=server.url)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"error: {server.url} has no model 'htatau'; closest: 'htautau'\n"
    assert (server.models_dir / "htautau").is_dir()


def test_a_model_can_be_deleted_if_the_server_cannot_list_its_models() -> None:
    with StockTFaaS() as server:
        server.failures = [(500, {}), (200, {})]
        done = run_client("--delete=broken", TFAAS_URL=server.url)
        assert server.requests == ["GET /models", "DELETE /delete"]
    assert (done.returncode, done.stdout) == (0, f"deleted model 'broken' from {server.url}\n")
    assert done.stderr.startswith("note: cannot check whether the model exists: GET ")


def stock_with(*models: dict[str, Any]) -> StockTFaaS:
    """A server whose models have these params."""
    server = StockTFaaS()
    server.files = {f"{number}/params.json": json.dumps(model).encode() for number, model in enumerate(models)}
    return server


def shown_in_terminal(width: int, *options: str, **env: str) -> list[str]:
    """Run tfaas_client.py in a terminal of this width; return the lines that it prints."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    wanted = {key: value for key, value in environment(**env).items() if key != "COLUMNS"}
    with subprocess.Popen([sys.executable, ROOT / "tfaas_client.py", *options], stdout=theirs, env=wanted) as process:
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 65536):
                seen += piece
    os.close(ours)
    assert process.returncode == 0
    return seen.decode().splitlines()


def test_control_characters_in_params_are_escaped() -> None:
    hostile = {"name": "m\x1b[2J", "description": "\x1b[31mred\nlast\x07 \u202eevil", "timestamp": "\x9b1m"}
    with stock_with(hostile) as server:
        done = run_client("--models", TFAAS_URL=server.url)
    assert done.stdout.splitlines() == [
        r"name      model file  description                       timestamp",
        r"m\x1b[2J              \x1b[31mred\nlast\x07 \u202eevil  \x9b1m",
    ]


def test_a_list_of_models_fits_the_terminal_and_names_are_complete() -> None:
    date = "2025-01-02T03:04:05+00:00"
    models = [
        {"name": "htautau", "model": "model.onnx", "description": "ggH or VBF", "timestamp": date},
        {"name": "n" * 128, "model": "x" * 60 + ".onnx", "description": "long " * 50, "timestamp": date},
    ]
    with stock_with(*models) as server:
        lines = shown_in_terminal(80, "--models", TFAAS_URL=server.url)
        piped = run_client("--models", TFAAS_URL=server.url).stdout
    assert lines[1].split() == ["htautau", "model.onnx", "ggH", "or", "VBF", "2025-01-02T…"]
    assert [len(line) <= 80 for line in lines] == [True, True, False]
    assert lines[2].split("  ") == ["n" * 128, "x" * 11 + "…", "long long l…", "2025-01-02T…"]
    assert all(text in piped for text in (models[1]["model"], models[1]["description"].strip(), date))


def test_a_password_in_the_url_is_not_printed(server: Server, bundle: Path) -> None:
    done = run_client(f"--url={server.url.replace('//', '//me:secret@')}/", "--upload=upload.json", cwd=bundle)
    assert done.stdout == f"uploaded model 'htautau' to {server.url}\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--image=x.png", "--model=ImageModel"], "cannot read x.png: No such file"),
        (["--image=x.png"], "--image needs a model; add --model=NAME"),
        (["--predict=x.root", "--branches=a"], "file not found: x.root"),
        (
            ["--predict=input.json", "--nevts=1"],
            "--branches, --branch, --preproc and --nevts need a data file (ROOT,",
        ),
        (["--predict=input.json", "--nevts=-1"], "--nevts need a data file (ROOT, Parquet, ...); a JSON file"),
        (["--predict=input.json", "--branch=Events"], "a JSON file has its own keys and is sent as a whole"),
        (["--models", "--branches=x", "--nevts=3"], "--branches cannot be used with --models, only with --predict"),
        (["--status", "--nevts=0"], "--nevts cannot be used with --status, only with --predict"),
        (["--delete=m", "--branch=Events"], "--branch cannot be used with --delete, only with --predict"),
        (["--params=m", "--model=m"], "--model cannot be used with --params, only with --predict or --image"),
        (["--bundle=m.tar", "--base64"], "--base64 cannot be used with --bundle, only with --upload"),
        (["--models", "--cert=x", "--url=http://localhost"], "--cert needs a URL that begins with https"),
        (["--models", "--capath=/", "--url=http://localhost"], "--capath needs a URL that begins with https"),
        (["--predict=input.json", "--branches=MET_pt"], "a JSON file has its own keys and is sent as a whole"),
        (["--models", "--timeout=0"], "--timeout must be a positive number of seconds, not 0"),
        (["--models", "--retries=-1"], "--retries is -1 but must not be negative"),
        (["--models", "--protocol=v3"], "unknown protocol 'v3'; available: tfaas, v2"),
        (["--models", "--token-file=nix"], "cannot read --token-file (nix): No such file"),
        (["--models", "--token-file=input.json"], "invalid token in input.json"),
        (["--models", "--token-file=input.json", "--url=http://host"], "the token is not sent over http"),
        (["--models", "--url=http://[::1"], "invalid server URL 'http://[::1'"),
        (["--upload=nix.json"], "cannot read nix.json: No such file"),
        (["--bundle=nix.tar"], "cannot read nix.tar: No such file"),
        (["--predict=nix.json"], "cannot read nix.json: No such file"),
        (["--predict=broken.json"], "broken.json is not JSON: Expecting"),
        (["--predict=input.json", "--model=nix"], "404: unknown model 'nix'"),
        (["--models", "--url=nix"], "invalid server URL 'nix'"),
        (
            ["--models", "--url=https://localhost", "--key=x"],
            "--key needs --cert; as in --cert=usercert.pem --key=",
        ),
    ],
)
def test_an_error_is_printed_in_one_line_on_stderr_with_exit_code_1(
    url: str,
    tmp_path: Path,
    options: list[str],
    reason: str,
) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "input.json").write_text(json.dumps(MET))
    done = run_client(*options, cwd=tmp_path, TFAAS_URL=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_that_is_down_is_an_error_of_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = run_client(f"--url=http://127.0.0.1:{port}", "--models")
    expected = f"error: GET http://127.0.0.1:{port}/models: connection refused; start a server: tfaas_server.py\n"
    assert (done.returncode, done.stderr) == (1, expected)


@pytest.mark.parametrize("options", [[], ["--models", "--status"]])
def test_exactly_one_action_is_needed(options: list[str]) -> None:
    done = run_client(*options)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("; all options: tfaas_client.py --help\n")


def test_grid_certificates_are_defaults_for_https_only(url: str, tmp_path: Path) -> None:
    grid = {"X509_USER_PROXY": str(tmp_path / "proxy"), "TFAAS_URL": url}
    assert run_client("--models", **grid).returncode == 0
    done = run_client("--models", f"--url={url.replace('http:', 'https:')}", **grid)
    assert done.stderr == f"error: the certificate or key {tmp_path / 'proxy'} is missing or unreadable\n"


def test_the_token_in_the_environment_is_sent_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of.the.file\n")
    with StockTFaaS() as server:
        for options in ([], ["--token-file=token"], ["--token-file=token", "--verbose", "--params=x"]):
            action = [] if "--params=x" in options else ["--models"]
            done = run_client(*action, *options, cwd=tmp_path, TFAAS_URL=server.url, BEARER_TOKEN="of.the.environment")
            assert "of.the" not in done.stdout + done.stderr
        sent = [headers["Authorization"] for headers in server.headers]
    assert sent == ["Bearer of.the.environment", "Bearer of.the.file", "Bearer of.the.file"]
    assert "Traceback" in done.stderr


def test_a_port_in_use_is_an_error_of_one_line_and_changes_no_models(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, ROOT / "tfaas_server.py", f"--port={port}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=60)
    assert done.returncode == 1
    reason = f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; "
    assert done.stderr == f"{reason}another port: --port=8084, a free one: --port=0\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--port=99999", "--host=256.1.1.1", "--models-dir=/dev/null/x"])
def test_a_server_that_cannot_start_prints_the_reason_in_one_line(option: str, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tfaas_server.py", "--port=0", option]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: cannot ")


@pytest.mark.parametrize("script", ["tfaas_client.py", "tfaas_server.py"])
def test_help_is_fast(script: str) -> None:
    seconds = []
    for _ in range(3):
        start = os.times()
        done = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True)
        end = os.times()  # time on the processor, so that other work on the machine does not count
        seconds.append(end.children_user + end.children_system - start.children_user - start.children_system)
    assert f"{script} --" in done.stdout
    assert min(seconds) < 0.3
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--max-upload=-1", "invalid --max-upload -1: it must be finite and more than 0 MB"),
        ("--max-upload=nan", "invalid --max-upload nan: it must be finite and more than 0 MB"),
    ],
)
def test_a_server_does_not_start_with_options_that_make_no_sense(tmp_path: Path, option: str, says: str) -> None:
    assert only_error_line(run_script("tfaas_server.py", option, "--port=0", cwd=tmp_path)) == f"error: {says}"
