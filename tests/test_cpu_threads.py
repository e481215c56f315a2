"""The number of threads of libraries, and the lines of epochs and rounds."""

import json
import os

import pytest
from scripts import run_script
from tinyroot import write_events

from mlaas4hep.config import Params
from mlaas4hep.machine.threads import available_cpus
from mlaas4hep.report.terminal import EpochPrinter
from mlaas4hep.training.history import Epoch

MODEL = """
import os, sys
import torch
import xgboost
def model(idim):
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    print(*(os.environ.get(name) for name in names), file=sys.stderr)
    return torch.nn.Linear(idim, 1)
def loss(output, y):
    if model.first: print("threads", torch.get_num_threads(), file=sys.stderr)
    model.first = False
    return torch.nn.functional.binary_cross_entropy_with_logits(output, y, reduction="none")
model.first = True
"""


@pytest.mark.parametrize(
    ("cpu_max", "outer", "expected"),
    [("max 100000", "max 100000", 64), ("250000 100000", "max 100000", 2), ("400000 100000", "150000 100000", 1),
     ("30000 100000", "max 100000", 1), ("", "", 64)],
)  # fmt: skip
def test_the_number_of_cpus_follows_affinity_and_quota(cpu_max, outer, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "batch" / "job").mkdir(parents=True)
    (tmp_path / "batch" / "job" / "cpu.max").write_text(cpu_max)
    (tmp_path / "batch" / "cpu.max").write_text(outer)
    (tmp_path / "own").write_text("0::/batch/job\n")
    assert available_cpus(tmp_path, tmp_path / "own") == expected


def test_the_quota_of_control_groups_of_version_1_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "cpu" / "job").mkdir(parents=True)
    for folder, quota in (("cpu/job", 350000), ("cpu", -1)):
        (tmp_path / folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (tmp_path / folder / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "own").write_text("7:memory:/job\n4:cpu,cpuacct:/job\n")
    assert available_cpus(tmp_path, tmp_path / "own") == 3


def test_the_affinity_of_this_process_counts():
    assert available_cpus() <= len(os.sched_getaffinity(0))


@pytest.mark.framework
@pytest.mark.parametrize("options", [["--threads=3"], []])
def test_the_option_sets_the_threads_of_all_libraries_before_they_are_loaded(options, tmp_path):
    for name in ("a", "b"):
        write_events(tmp_path / f"{name}.root", 60)
    (tmp_path / "mine.py").write_text(MODEL)
    (tmp_path / "params.json").write_text(json.dumps({"epochs": 1, "tfaas": False, "trial_export": False}))
    environment = dict.fromkeys([name for name in os.environ if "NUM_THREADS" in name], "")
    arguments = ["--files=a.root,b.root", "--labels=a,b", "--model=mine.py", "--fout=out", *options]
    done = run_script("workflow.py", *arguments, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    count = 3 if options else available_cpus()
    assert f"{count} {count} PASSIVE 0 0\n" in done.stderr
    assert f"threads {3 if options else max(1, available_cpus() - 1)}\n" in done.stderr


def test_the_line_of_a_round_has_the_time_of_all_rounds_since_the_previous_line(capsys):
    printer = EpochPrinter(Params(epochs=1))
    printer.noun = "round"
    for number in range(1, 51):
        printer(Epoch(number, 0.5, {"loss": 0.25}, seconds=2.0, events=100), best=False, fold=0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  training")[0] for line in lines] == ["round   1", "round  25", "round  50"]
    assert "     2.0 s  50" in lines[0]
    assert "    48.0 s for 24 rounds  50" in lines[1]
    assert "    50.0 s for 25 rounds  50" in lines[2]
