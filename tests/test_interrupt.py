"""Ctrl-C stops a run at any stage with one line and exit code 130, never with SIGABRT."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripts import run_forked, run_script
from tinyroot import write_events

MODEL = """
import os, signal
count = 0
def interrupt(mark, after=0):
    global count
    count += mark == "{mark}"
    if mark == "{mark}" and count > after and not os.path.exists("done"):
        open("done", "w").close()
        os.kill(os.getpid(), signal.SIGINT)
"""

SKLEARN = """
from sklearn.linear_model import LogisticRegression
interrupt("import")
def model(idim):
    interrupt("model")
    return LogisticRegression()
def metric(y, scores):
    interrupt("metric", after=1)
    return 1.0
metrics = [metric]
"""

PYTORCH = """
import torch
def model(idim):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(idim, 2))
def loss(scores, y):
    interrupt("loss", after=7)
    return torch.nn.functional.cross_entropy(scores, y.long(), reduction="none")
"""


Start = Callable[..., subprocess.CompletedProcess[str]]


def run(
    folder: Path, mark: str, model: str, *options: str, start: Start = run_forked
) -> subprocess.CompletedProcess[str]:
    """Run workflow.py in a folder with a model file that interrupts it once at a mark."""
    for index in range(2):
        if not (folder / f"{index}.root").exists():
            write_events(folder / f"{index}.root", 400, seed=index, run=index)
    (folder / "model.py").write_text(MODEL.format(mark=mark) + model)
    (folder / "params.json").write_text('{"epochs": 2, "batch_size": 64, "tfaas": false}')
    return start("workflow.py", "--files=0.root,1.root", "--labels=a,b", "--model=model.py", *options, cwd=folder)


def figures(folder: Path) -> dict[str, Any]:
    """Return the metrics of a run without durations."""
    found = json.loads((folder / "mlaas4hep_model/metrics.json").read_text())
    for epoch in found["epochs"]:
        del epoch["seconds"], epoch["waiting"]
    return found


@pytest.mark.parametrize("mark", ["import", "model", "metric"])
def test_an_interrupted_run_prints_one_line_and_leaves_no_bundle(tmp_path: Path, mark: str) -> None:
    done = run(tmp_path, mark, SKLEARN, start=run_script if mark == "import" else run_forked)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert (done.returncode, lines) == (130, ["error: interrupted by Ctrl-C; run the same command to start again"])
    assert not (tmp_path / "mlaas4hep_model").exists()


def test_ctrl_c_after_the_end_of_a_run_has_no_effect(tmp_path: Path) -> None:
    """The interpreter is exiting, which takes a while with a framework."""
    done = run(tmp_path, "", 'import atexit\natexit.register(interrupt, "")\n' + SKLEARN, start=run_script)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert (done.returncode, lines) == (0, [])
    assert (tmp_path / "done").exists()
    assert (tmp_path / "mlaas4hep_model/metrics.json").exists()


def test_an_interrupted_training_gives_the_same_result_after_resume(tmp_path: Path) -> None:
    for name in ("whole", "twice"):
        (tmp_path / name).mkdir()
    (tmp_path / "whole" / "done").touch()
    assert run(tmp_path / "whole", "loss", PYTORCH).returncode == 0
    done = run(tmp_path / "twice", "loss", PYTORCH)
    assert done.returncode == 130
    assert "error: stopped in epoch " in done.stderr
    assert "; run the same command with --resume to continue from the last checkpoint" in done.stderr
    assert run(tmp_path / "twice", "loss", PYTORCH, "--resume").returncode == 0
    assert figures(tmp_path / "whole") == figures(tmp_path / "twice")


XGBOOST = """
import numpy as np
from mlaas4hep.backends.xgboost import _make_matrix

rng = np.random.default_rng(1)
chunk = {"data": rng.normal(size=(3000, 6)).astype("f4"), "label": np.arange(3000) % 2}
for interrupted in range(1, 6):
    passes = 0
    def chunks():
        global passes
        passes += 1
        number = passes
        for index in range(3):
            if index == 1 and number == interrupted:
                raise KeyboardInterrupt
            yield chunk
    try:
        _make_matrix(chunks, 1e9, "")
        print("whole", passes)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_an_interruption_in_any_pass_of_xgboost_is_raised_and_does_not_abort_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", XGBOOST], capture_output=True, text=True, check=False)
    assert done.returncode != -signal.SIGABRT, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "interrupted"
    assert lines.count("interrupted") >= 3
