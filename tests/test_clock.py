"""A clock that is set back by an hour changes no result, ends no wait too late and shows no negative time."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from serving_fixtures import MET, MET_SCORE, Server, write_archive, write_bundle
from tinyroot import write_events


@pytest.fixture(name="library", scope="module")
def library_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that gives processes a clock of their own."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler, for a clock that can be set back")
    path = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock_set_back.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(path), str(source), "-ldl"], check=True)
    return path


class Clock:
    """The clock of the processes that a test starts."""

    def __init__(self, library: Path, mark: Path) -> None:
        self.mark = mark
        self.env = {"LD_PRELOAD": str(library), "CLOCK_SET_BACK": str(mark)}

    def set_back(self) -> None:
        """Set the clock back by an hour."""
        self.mark.touch()


@pytest.fixture(name="clock")
def clock_fixture(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that all processes have which the test starts from here on."""
    clock = Clock(library, tmp_path / "clock-set-back")
    for name, value in clock.env.items():
        monkeypatch.setenv(name, value)
    return clock


def test_the_clock_of_these_tests_can_be_set_back(clock: Clock) -> None:
    code = "import os, time; print(time.time()); open(os.environ['CLOCK_SET_BACK'], 'w'); print(time.time())"
    before, after = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert -3601 < float(after) - float(before) < -3590
    assert abs(float(before) - time.time()) < 60


BAR = """
import os, sys
from mlaas4hep import console
with console.progress("reading", 100, delay=0.1) as bar:
    for line in sys.stdin:
        bar.advance(30)
"""


def test_a_progress_bar_shows_no_negative_time(clock: Clock) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    with subprocess.Popen([sys.executable, "-c", BAR], stdin=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        assert process.stdin is not None
        seen = ""
        for step, pattern in enumerate([r"0\.00/100 ", r"30\.0/100 ", r"60\.0/100 ", r"90\.0/100 "]):
            while not re.search(pattern, seen):
                seen += os.read(ours, 65536).decode()
            if step == 1:
                clock.set_back()
            if step < 3:
                process.stdin.write("\n")
                process.stdin.flush()
        process.stdin.close()
        with suppress(OSError):  # its end is closed
            while more := os.read(ours, 65536).decode():
                seen += more
    os.close(ours)
    times = re.findall(r"\[([^\]]*)\]", seen)
    assert len(times) >= 4
    assert [text for text in times if "-" in text] == []


MODEL = """
import os, signal, torch
batches = 0
def model(idim):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(idim, 2))
def loss(scores, y):
    global batches
    batches += 1
    if batches == 4 and os.environ["MOMENT"] == "first":
        open(os.environ["CLOCK_SET_BACK"], "w").close()
    if batches == 14 and os.environ["MOMENT"] == "first":
        os.kill(os.getpid(), signal.SIGINT)
    return torch.nn.functional.cross_entropy(scores, y.long(), reduction="none")
"""


TRAINING = """
import os
from mlaas4hep.config import Params
from mlaas4hep.report import plots
from mlaas4hep.training import train_model
from mlaas4hep.training.callbacks import Callbacks, Stopped
plots.available = lambda: False  # saves seconds
def run(fout, moment, resume=False):
    os.environ["MOMENT"] = moment
    callbacks = Callbacks()
    with callbacks.stop_on_signals():
        params = Params(epochs=3, batch_size=64, tfaas=False)
        train_model(
            ["0.root", "1.root"], ["a", "b"], "model.py", params, fout=fout, callbacks=callbacks, resume=resume
        )
run("whole", "")
try:
    run("twice", "first")
except Stopped as stopped:
    print(stopped)
run("twice", "second", resume=True)
"""


def test_a_training_whose_clock_is_set_back_and_that_is_resumed_ends_as_one_that_was_not(
    clock: Clock, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    for index in range(2):
        write_events(tmp_path / f"{index}.root", 400, seed=index, run=index)
    (tmp_path / "model.py").write_text(MODEL)
    done = subprocess.run([sys.executable, "-c", TRAINING], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--resume to continue from the last checkpoint" in done.stdout
    assert clock.mark.exists()

    def metrics(name: str) -> Any:
        found = json.loads((tmp_path / name / "metrics.json").read_text())
        for epoch in found["epochs"]:
            assert 0 <= epoch.pop("waiting") <= 1
            assert 0 <= epoch.pop("seconds") < 600
        return found

    assert metrics("twice") == metrics("whole")


def test_a_clock_that_is_set_back_does_not_affect_responses_limits_and_timeouts(clock: Clock, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "m.tar", write_bundle(tmp_path / "b")).read_bytes()
    (tmp_path / "tokens").write_text("first-token-of-16\n")
    options = ["--timeout=2", "--rate=20", f"--token-file={tmp_path}/tokens"]

    def upload(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.post(f"{server.url}/upload", archive, headers=headers, timeout=20).status_code

    def score() -> Any:
        return requests.post(f"{server.url}/json", json={**MET, "model": "htautau"}, timeout=20)

    with Server.start(tmp_path / "models", *options) as server:
        assert upload("first-token-of-16") == 200
        assert score().json() == [MET_SCORE]
        host, port = "127.0.0.1", int(server.url.rpartition(":")[2])
        with socket.create_connection((host, port)) as slow:
            slow.sendall(b"POST /json HTTP/1.1\r\nHost: localhost\r\n")
            clock.set_back()
            slow.settimeout(30)
            with suppress(ConnectionResetError):
                while slow.recv(1000):  # it may be told why the connection ends
                    pass
        (tmp_path / "tokens").write_text("second-token-of-16\n")
        os.utime(tmp_path / "tokens", (time.time() - 3600, time.time() - 3600))
        assert upload("first-token-of-16") in (401, 403)
        assert upload("second-token-of-16") == 200
        assert score().json() == [MET_SCORE]
        codes = [score().status_code for _ in range(60)]
        assert set(codes) == {200, 429}
        assert codes[:5] == [200] * 5
        assert server.stop() == 0
