"""Large request bodies are read in chunks, with a progress bar in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from serving_fixtures import ROOT, environment, write_bundle
from stock_tfaas import StockTFaaS

from mlaas4hep.client.bodies import FileBody
from mlaas4hep.client.multipart import FilePart, Multipart
from mlaas4hep.errors import FileUnreadable

SIZE = 11_000_001


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The folder of a model of `SIZE` bytes."""
    folder = write_bundle(tmp_path / "bundle")
    with (folder / "model.onnx").open("wb") as file:
        file.truncate(SIZE)
    return folder


def test_a_body_is_never_completely_in_memory(bundle: Path) -> None:
    with (bundle / "model.onnx").open("rb") as file:
        part = FilePart("model.onnx", bundle / "model.onnx")
        for body in (FileBody(file), Multipart({}, {"m": part}), Multipart({}, {"m": part._replace(in_base64=True)})):
            for _ in range(2):  # for a retry
                sizes = [len(piece) for piece in body]
                assert sum(sizes) == len(body) >= SIZE
                assert max(sizes) <= 1_100_000


@pytest.mark.parametrize("option", ["--upload=upload.json", "--upload=upload.json --base64", "--bundle=model.tar"])
def test_a_large_upload_shows_a_bar_in_a_terminal_and_nothing_in_a_pipe(bundle: Path, option: str) -> None:
    (bundle / "model.onnx").rename(bundle / "model.pb")  # stock servers do not run ONNX
    for name in ("upload.json", "params.json"):
        (bundle / name).write_text((bundle / name).read_text().replace("model.onnx", "model.pb"))
    subprocess.run(["tar", "cf", "model.tar", "model.pb"], cwd=bundle, check=True)
    command = [sys.executable, str(ROOT / "tfaas_client.py"), *option.split()]
    with StockTFaaS() as server:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=bundle, env=environment(TFAAS_URL=server.url)
        )
        assert (done.returncode, done.stderr) == (0, "")
        server.files.clear()
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        process = subprocess.Popen(
            command, stderr=theirs, stdout=theirs, cwd=bundle, env=environment(TFAAS_URL=server.url)
        )
        os.close(theirs)
        seen = ""
        try:
            while text := os.read(ours, 65536).decode():
                seen += text
        except OSError:  # its end is closed
            pass
        os.close(ours)
        assert process.wait() == 0
    total = "14.7M" if "base64" in option else "11.0M"
    assert f"/{total} [" in seen
    assert seen.endswith(f"to {server.url}\r\n")


@pytest.mark.parametrize("as_form", [True, False])
def test_a_file_that_changes_while_it_is_sent_is_never_sent_completely(tmp_path: Path, as_form: bool) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"a" * 3_000_000)
    with path.open("rb") as file:
        body = Multipart({}, {"m": FilePart("m", path)}) if as_form else FileBody(file)
        pieces = iter(body)
        sent = len(next(pieces))
        path.write_bytes(b"b" * 4_000_000)
        with pytest.raises(FileUnreadable, match="model changed while it was sent; send it again when it is no longer"):
            sent += sum(map(len, pieces))
    assert sent < len(body)
