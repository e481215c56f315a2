"""Ctrl-C at random moments of a run: one line, exit code 130, no incomplete files; --resume completes the run.

.venv/bin/python -m pytest -s -m slow tests/test_interrupted_anywhere.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import HTAUTAU, ROOT, run_script
from test_full_disk import figures, weights
from test_hep_resnet import write_images

KILLS = int(os.environ.get("MLAAS4HEP_KILLS", "6"))
"""Per case; MLAAS4HEP_SEED chooses other moments."""

FILES = f"--files={HTAUTAU}/ggH.root,{HTAUTAU}/VBF.root"
TRAIN = ["workflow.py", FILES, "--labels=ggH,VBF", "--params=params.json"]
KERAS = """
import keras
def model(idim):
    return keras.Sequential([keras.Input((idim,)), keras.layers.Dense(8), keras.layers.Dense(1)])
"""
TORCH = """
import torch
def model(idim):
    return torch.nn.Sequential(torch.nn.Linear(idim, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
"""
SKLEARN = """
from sklearn.linear_model import LogisticRegression
def model(idim):
    return LogisticRegression()
"""
XGBOOST = """
import xgboost
def model(idim):
    return xgboost.XGBClassifier(n_estimators=100, n_jobs=1)
"""


@dataclass
class Case:
    """A command, the option for its output, and what identifies the content of that output."""

    command: list[str]
    output: str = "--fout"
    content: Callable[[Path], Any] = lambda bundle: (figures(bundle), weights(bundle), names_in(bundle))
    model: str = ""
    resumes: bool = True


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def scores_in(folder: Path) -> Any:
    uproot = pytest.importorskip("uproot", reason="uproot is not installed")
    found = {}
    for path in sorted(folder.iterdir()):
        with uproot.open(path) as file:
            for name in file.keys(filter_classname="TTree"):
                found[path.name, name] = {
                    key: values.tobytes() for key, values in file[name].arrays(library="np").items()
                }
    return found


CASES = {
    "pytorch": Case([*TRAIN, "--model=small.py"], model=TORCH),
    "keras": Case([*TRAIN, "--model=small.py"], model=KERAS),
    "scikit-learn": Case([*TRAIN, "--model=small.py"], model=SKLEARN),
    "xgboost": Case([*TRAIN, "--model=small.py"], model=XGBOOST),
    "predict": Case(["workflow.py", FILES, "--predict=bundle"], content=scores_in, resumes=False),
    "resnet": Case(["hep_resnet.py", "--fdir=images", "--flabels=labels.csv", "--epochs=2"], "--mdir"),
}  # fmt: skip


def prepare(folder: Path, name: str) -> None:
    """Write the inputs of a case."""
    params = {
        "epochs": 3,
        "batch_size": 128,
        "patience": 9,
        "checkpoint": 0,
        "nevts": 1500,
        "tfaas": False,
        "trial_export": False,
    }
    params["selected_branches"] = ["MET_*", "Muon_pt"]
    (folder / "params.json").write_text(json.dumps(params))
    (folder / "small.py").write_text(CASES[name].model or SKLEARN)
    if name == "resnet":
        write_images(folder)
    if name == "predict":
        done = run_script(*TRAIN, "--model=small.py", "--fout=bundle", cwd=folder)
        assert done.returncode == 0, done.stderr


def interrupt(command: list[str], folder: Path, seconds: float) -> tuple[int, str]:
    """Send SIGINT to a script after a time; return its exit code and what it wrote to stderr."""
    whole = [sys.executable, str(ROOT / command[0]), *command[1:]]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    with subprocess.Popen(whole, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            errors = process.communicate(timeout=seconds)[1]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            sent = time.monotonic()
            errors = process.communicate(timeout=120)[1]
            assert time.monotonic() - sent < 60
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_ctrl_c_at_any_moment_prints_one_line_and_resume_completes_the_run(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    prepare(tmp_path, name)
    inputs = {path.name for path in tmp_path.iterdir()}
    began = time.monotonic()
    done = run_script(*case.command, f"{case.output}=whole", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    duration = time.monotonic() - began
    whole = case.content(tmp_path / "whole")
    rng = np.random.default_rng(int(os.environ.get("MLAAS4HEP_SEED", "0")))
    failures = []
    for number in range(KILLS):
        moment = 0.1 + (number + rng.uniform()) / KILLS * (duration - 0.1)  # each part of the run once
        command = [*case.command, f"{case.output}=out{number}"]
        out = tmp_path / f"out{number}"
        code, errors = interrupt(command, tmp_path, moment)
        while code == 0:  # it was faster than the first
            assert case.content(out) == whole
            shutil.rmtree(out)
            moment *= 0.8
            code, errors = interrupt(command, tmp_path, moment)
        said = [line for line in errors.splitlines() if not line.startswith("note: ")]
        left = {path.name for path in tmp_path.iterdir()} - inputs - {"whole"}
        with capsys.disabled():
            print(f"\n{name}: after {moment:.1f} s of {duration:.1f} s: exit code {code}, {said}, left: {sorted(left)}")
        if code != 130 or len(said) != 1:
            failures.append(f"{moment:.2f} s: exit code {code}: {errors}")
        allowed = {f"{out.name}.checkpoint", f"{out.name}.epochs.csv"}
        if case.resumes and left - allowed:
            failures.append(f"{moment:.2f} s: left behind: {left - allowed}")
        if not case.resumes:  # files of scores under their final names are complete
            present = scores_in(out) if out.exists() else {}
            if names := [key for key, values in present.items() if whole.get(key) != values]:
                failures.append(f"{moment:.2f} s: incomplete: {names}")
        again = run_script(*command, *(["--resume"] if case.resumes else []), cwd=tmp_path)
        if again.returncode or case.content(out) != whole:
            failures.append(f"{moment:.2f} s: the next run ended with {again.returncode}: {again.stderr}")
        if {path.name for path in tmp_path.iterdir()} != inputs | {"whole", out.name}:
            failures.append(f"{moment:.2f} s: the next run left {sorted(path.name for path in tmp_path.iterdir())}")
        inputs |= {out.name}
    assert not failures, "\n".join(failures)
