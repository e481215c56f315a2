"""A full disk gives one line that says what to do, and --resume then ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from scripts import ROOT, run_forked
from small_disk import disk_fixture, small_fixture  # noqa: F401
from tinyroot import write_events, write_tree

from mlaas4hep import DataReader
from mlaas4hep.config import Params
from mlaas4hep.files import write_lock
from mlaas4hep.histograms.write import write_histograms
from mlaas4hep.reader.deferred_error_file import DeferredErrorFile
from mlaas4hep.reader.export import write_vectors
from mlaas4hep.scoring.files import score_files
from mlaas4hep.training import train_model
from mlaas4hep.write_errors import WriteFailed

FULL = "No space left on device"
TORCH = """
import torch
def model(idim):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(idim, 3000), torch.nn.ReLU(), torch.nn.Linear(3000, 1))
"""
KERAS = """
import keras
def model(idim):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((idim,)), keras.layers.Dense(8), keras.layers.Dense(1, activation="sigmoid")])
"""
SKLEARN = """
from sklearn.linear_model import LogisticRegression
def model(idim):
    return LogisticRegression()
"""


@pytest.fixture(name="inputs", scope="module")
def inputs_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two files of events."""
    folder = tmp_path_factory.mktemp("inputs")
    for index, name in enumerate("ab"):
        write_events(folder / f"{name}.root", 300, seed=index, run=index)
    return folder


def train(inputs: Path, fout: Path, text: str, resume: bool = False, **params: Any) -> None:
    (inputs / "model.py").write_text(text)
    params = {"epochs": 2, "batch_size": 100, "tfaas": False, "trial_export": False, "cache": False, **params}
    files = [str(inputs / "a.root"), str(inputs / "b.root")]
    train_model(files, ["a", "b"], str(inputs / "model.py"), Params(**params), fout=str(fout), resume=resume)


def figures(bundle: Path) -> dict[str, Any]:
    """Return the metrics of a run without durations."""
    found = json.loads((bundle / "metrics.json").read_text())
    for epoch in found["epochs"]:
        del epoch["seconds"], epoch["waiting"]
    return found


def weights(bundle: Path) -> list[bytes]:
    """The constants of the graph, bit for bit."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    graph = onnx.load(str(bundle / "model.onnx")).graph
    return [onnx.numpy_helper.to_array(each).tobytes() for each in graph.initializer]


def cannot_write(path: Path) -> str:
    return f"cannot write {path}: {FULL}; free some space on its disk"


def check_walk(disk: Any, inputs: Path, whole: Path, text: str, frees: list[int], **params: Any) -> list[str]:
    """Train with less and less room on the disk, each time resume with room, and return the last words of each run."""
    train(inputs, whole / "out", text, **params)
    said = []
    for free in frees:
        disk.clear()
        disk.fill(free=free)
        with pytest.raises(WriteFailed) as caught:
            train(inputs, disk.path / "out", text, **params)
        said.append(str(caught.value).removeprefix(f"{cannot_write(disk.path / 'out')}, and "))
        left = {path.name for path in disk.path.iterdir()}
        assert left <= {"filler", "out.checkpoint", "out.epochs.csv"}
        disk.free_all()
        train(inputs, disk.path / "out", text, resume=True, **params)
        assert {path.name for path in disk.path.iterdir()} == {"out"}
        assert figures(disk.path / "out") == figures(whole / "out")
        assert weights(disk.path / "out") == weights(whole / "out")
    return said


ANEW = "run the same command to start again"
RESUME = "run the same command with --resume to continue from the last checkpoint"


@pytest.mark.parametrize(
    ("free", "said"),
    [
        pytest.param(0, None, id="nothing"),
        pytest.param(16_000, ANEW, id="a table", marks=pytest.mark.slow),
        pytest.param(360_000, ANEW, id="a model without its graph", marks=pytest.mark.slow),
        pytest.param(450_000, RESUME, id="a checkpoint"),
    ],
)
def test_a_training_that_filled_the_disk_can_be_resumed_with_the_same_result(
    disk: Any, inputs: Path, tmp_path: Path, free: int, said: str | None
) -> None:
    """Of the disk so much is free that there is room for this."""
    assert check_walk(disk, inputs, tmp_path, TORCH, [free]) == [said or cannot_write(disk.path / "out")]


def test_an_estimator_that_filled_the_disk_is_trained_again(disk: Any, inputs: Path, tmp_path: Path) -> None:
    assert check_walk(disk, inputs, tmp_path, SKLEARN, [8_000, 40_000]) == [ANEW, ANEW]


@pytest.mark.slow
def test_the_saved_model_of_keras_fills_the_disk(disk: Any, inputs: Path, tmp_path: Path) -> None:
    frees = [*range(20_000, 200_000, 30_000), 260_000, 300_000]
    said = check_walk(disk, inputs, tmp_path, KERAS, frees, tfaas=True)
    assert said[-1] == RESUME


def test_a_full_disk_for_tensorboard_stops_no_training(
    disk: Any, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    disk.fill()
    train(inputs, tmp_path / "out", SKLEARN, tensorboard=str(disk.path))
    said = [line for line in capsys.readouterr().err.splitlines() if "TensorBoard" in line]
    assert len(said) == 1
    assert said[0].startswith(
        f"note: training continues without event files for TensorBoard: cannot write {disk.path}: "
    )
    assert said[0].endswith(FULL)


def test_the_lock_of_a_run_that_had_no_room_for_it_does_not_stay(disk: Any) -> None:
    disk.fill()
    with pytest.raises(WriteFailed, match=f"cannot write {disk.path}/out: {FULL}"), write_lock(disk.path / "out"):
        pass
    assert [path.name for path in disk.path.iterdir()] == ["filler"]


@pytest.mark.parametrize("ending", ["npz", "parquet", "h5"])
def test_writing_vectors_on_a_full_disk_is_an_error_of_one_line_and_leaves_no_files(
    disk: Any, inputs: Path, ending: str
) -> None:
    pytest.importorskip({"npz": "numpy", "parquet": "pyarrow", "h5": "h5py"}[ending])
    path = disk.path / f"v.{ending}"
    disk.fill(free=8_000)
    with DataReader(inputs / "a.root") as reader, pytest.raises(WriteFailed) as caught:
        write_vectors(reader, path)
    assert str(caught.value) == cannot_write(path)
    assert [each.name for each in disk.path.iterdir()] == ["filler"]
    disk.free_all()
    with DataReader(inputs / "a.root") as reader:
        assert write_vectors(reader, path) == 300


@pytest.mark.parametrize("free", [0, 100_000, 300_000, 1_000_000, 2_500_000])
def test_hdf5_of_many_columns_on_a_full_disk_ends_with_an_error_and_no_crash(
    disk: Any, free: int, tmp_path: Path
) -> None:
    pytest.importorskip("h5py")
    counts = np.full(50, 2)
    counts[7] = 100_000
    lists = ak.unflatten(np.random.default_rng(0).normal(size=counts.sum()).astype(np.float32), counts)
    write_tree(tmp_path / "wide.root", {"hits": lists})
    disk.fill(free=free)
    done = run_forked("reader.py", "--fin=wide.root", f"--fout={disk.path}/v.h5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"error: {cannot_write(disk.path / 'v.h5')}\n")
    assert [each.name for each in disk.path.iterdir()] == ["filler"]


def test_a_file_whose_writes_fail_reads_as_if_they_had_not(disk: Any) -> None:
    random = np.random.default_rng(0)
    disk.fill(free=200_000)
    with pytest.raises(OSError, match=FULL), DeferredErrorFile(disk.path / "a") as file:  # noqa: PT012
        expected = bytearray()
        for _ in range(300):
            start, size = int(random.integers(0, 500_000)), int(random.integers(1, 100_000))
            content = random.bytes(size)
            assert file.seek(start) == start
            assert file.write(content) == size
            assert file.tell() == start + size
            expected.extend(bytes(max(start + size - len(expected), 0)))
            expected[start : start + size] = content
            assert file.seek(0, os.SEEK_END) == len(expected)
            start, size = int(random.integers(0, 500_000)), int(random.integers(1, 100_000))
            file.seek(start)
            buffer = bytearray(size)
            assert buffer[: file.readinto(buffer)] == expected[start : start + size]
        assert file.truncate(100_000) == 100_000
        assert file.seek(0, os.SEEK_END) == 100_000


@pytest.mark.parametrize(("free", "left"), [(0, []), (20_000, ["a.html"])])
def test_histograms_on_a_full_disk_are_one_line(disk: Any, inputs: Path, free: int, left: list[str]) -> None:
    pytest.importorskip("mplhep", reason="mplhep is not installed")
    disk.fill(free=free)
    with DataReader(inputs / "a.root") as reader, pytest.raises(WriteFailed, match=FULL):
        write_histograms(reader, disk.path)
    assert sorted(each.name for each in disk.path.iterdir()) == [*left, "filler"]


@pytest.fixture(name="bundle", scope="module")
def bundle_fixture(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle."""
    folder = tmp_path_factory.mktemp("bundle") / "small"
    train(inputs, folder, SKLEARN)
    return folder


@pytest.mark.parametrize("kind", ["root", "rntuple", "parquet"])
def test_scoring_on_a_full_disk_is_an_error_of_one_line_and_leaves_no_files(
    disk: Any, inputs: Path, bundle: Path, kind: str
) -> None:
    disk.fill(free=4_000)
    with pytest.raises(WriteFailed) as caught:
        list(score_files(bundle, [inputs / "a.root"], disk.path, kind))
    name = "a.scores.parquet" if kind == "parquet" else "a.scores.root"
    assert str(caught.value) == cannot_write(disk.path / name)
    assert [each.name for each in disk.path.iterdir()] == ["filler"]
    disk.free_all()
    assert [events for _, events, _ in score_files(bundle, [inputs / "a.root"], disk.path, kind)] == [300]


def test_results_that_do_not_fit_on_the_disk_are_one_line(disk: Any, inputs: Path) -> None:
    disk.fill()
    with (disk.path / "result").open("w") as file:
        done = subprocess.run(
            [sys.executable, str(ROOT / "reader.py"), f"--fin={inputs}/a.root", "--info"],
            stdout=file, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1,
        f"error: cannot write to standard output: {FULL}; free some space on its disk\n",
    )


@pytest.mark.parametrize("branches", [1, 300])
def test_results_to_a_device_that_is_full_name_standard_output(branches: int, tmp_path: Path) -> None:
    write_tree(tmp_path / "a.root", {f"a_long_name_{i}": np.arange(3.0) for i in range(branches)})
    with open("/dev/full", "w") as file:
        done = subprocess.run(
            [sys.executable, str(ROOT / "reader.py"), f"--fin={tmp_path}/a.root", "--info"],
            stdout=file, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.stderr == f"error: cannot write to standard output: {FULL}; free some space on its disk\n"
    assert done.returncode == 1


def test_text_that_is_converted_on_a_full_disk_is_an_error_of_one_line(disk: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    numbers = np.random.default_rng(0).normal(size=(5_000, 2))
    lines = [f"{event},{x},{y}" for event, (x, y) in enumerate(numbers)]
    (tmp_path / "a.csv").write_text("\n".join(["event,x,y", *lines]))
    disk.fill(free=20_000)
    done = run_forked("reader.py", "--fin=a.csv", "--info", cwd=tmp_path, env={"TMPDIR": str(disk.path)})
    assert done.stderr == (
        f"error: cannot write a file, perhaps a temporary one in {disk.path}: {FULL}; free some space on its disk\n"
    )
    assert done.returncode == 1
    assert [each.name for each in disk.path.iterdir()] == ["filler"]
