"""No script changes a file that it did not write, wherever its folders are, and whatever names are taken there."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import stat
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scripts import only_error_line, run_forked
from serving_fixtures import Server, run_client, write_bundle
from tinyroot import write_events

MODEL = "from sklearn.linear_model import LogisticRegression\ndef model(idim): return LogisticRegression()\n"
TORCH = "from torch import nn\ndef model(idim): return nn.Linear(idim, 1)\n"
PARAMS = {"epochs": 2, "batch_size": 50, "chunk_size": 100, "tfaas": False, "trial_export": False, "cache_gb": 1e-6}


Snapshot = dict[str, tuple[str, str]]


def snapshot(folder: Path) -> Snapshot:
    """Return type and permissions, and a digest of the content or the target of a link, of every path of a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if path.is_symlink():
            content = os.readlink(path)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (stat.filemode(mode), content)
    return found


def make_foreign(folder: Path) -> None:
    """Fill a folder with things of other programs, some of them under names that our temporary things could have."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for name in (
        "thesis.pdf", ".ses", ".bashrc", "0-0-100", ".block-0", "lock", "default", "owner", "notes/chapter.tex",
        "events.out.tfevents.1.other", "fold1/events.out.tfevents.1.other", "work-1/results.txt", "replaced/old",
        "mlaas4hep-model-x/model", "mlaas4hep-metrics-x/a.db", "mlaas4hep-cache-0/0f/0-0-100", "0f/0-0-100",
        "config/params.yaml", ".out.json-abc/new/file", ".evicted-1/0-0-1", ".tmp/0-0-1",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(random.bytes(3000))
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("notes")
    (folder / "broken").symlink_to("nowhere")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of foreign files that is the current folder, and the one for the cache and for temporary files."""
    make_foreign(tmp_path / "home")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "home"))
    monkeypatch.setenv("MLAAS4HEP_CACHE", str(tmp_path / "home"))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a file of events, a model file and parameters."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, seed in (("a", 1), ("b", 2)):
        write_events(folder / f"{name}.root", 200, seed=seed, run=seed)
    (folder / "sklearn_model.py").write_text(MODEL)
    (folder / "torch_model.py").write_text(TORCH)
    (folder / "params.json").write_text(json.dumps(PARAMS))
    return folder


def by_libraries() -> set[str]:
    """Return the names that libraries create in the folder for temporary files: PyTorch, and TensorFlow's AutoGraph."""
    return {f"torchinductor_{getpass.getuser()}", "__pycache__"}


def check_unchanged(before: Snapshot, folder: Path) -> set[str]:
    """Check that everything is as it was; return the names of what is new."""
    after = snapshot(folder)
    assert {path: after.get(path) for path in before} == before
    return {path.split("/")[0] for path in after.keys() - before.keys()} - by_libraries()


def train(inputs, place, *more, model="torch_model.py", fout="out"):
    return run_forked(
        "workflow.py", f"--files={inputs}/a.root,{inputs}/b.root", "--labels=a,b", f"--model={inputs}/{model}",
        f"--params={inputs}/params.json", f"--fout={fout}", *more, cwd=place,
    )  # fmt: skip


def test_reader_adds_its_outputs_only(inputs, place):
    before = snapshot(place)
    for option in ("--fout=out.json", "--fout=out.npz", "--hists=.", "--info"):
        done = run_forked("reader.py", f"--fin={inputs}/a.root", option, "--workers=2", cwd=place)
        assert done.returncode == 0, done.stderr
    assert check_unchanged(before, place) == {"out.json", "out.npz", "a.html", "a.pdf"}


@pytest.mark.parametrize(
    ("taken", "options"),
    [
        ("out.json", ["--fout=out.json"]),
        ("out.npz", ["--fout=out.npz"]),
        ("out.parquet", ["--fout=out.parquet"]),
        ("a.pdf", ["--hists=."]),
        ("a.html", ["--hists=."]),
    ],
)
def test_reader_replaces_no_foreign_file(inputs, place, taken, options):
    (place / taken).write_text("mine\n")
    before = snapshot(place)
    done = run_forked("reader.py", f"--fin={inputs}/a.root", *options, cwd=place)
    assert taken in only_error_line(done)
    assert check_unchanged(before, place) == set()


def test_reader_replaces_its_own_outputs(inputs, place):
    for _ in range(2):
        for option in ("--fout=out.json", "--fout=out.npz", "--hists=."):
            done = run_forked("reader.py", f"--fin={inputs}/a.root", option, cwd=place)
            assert done.returncode == 0, done.stderr


def test_training_and_scoring_add_their_outputs_only(inputs, place):
    params = {**PARAMS, "tensorboard": ".", "hist": "."}
    (inputs / "logging.json").write_text(json.dumps(params))
    before = snapshot(place)
    for _ in range(2):  # the second run replaces the first one's bundle
        done = train(inputs, place, f"--params={inputs}/logging.json")
        assert done.returncode == 0, done.stderr
    done = run_forked("workflow.py", "--predict=out", f"--files={inputs}/a.root", "--fout=.", cwd=place)
    assert done.returncode == 0, done.stderr
    new = check_unchanged(before, place)
    events = {name for name in new if name.startswith("events.out.tfevents.")}
    assert events
    blocks = f"mlaas4hep-blocks-{os.getuid()}"
    assert new - events == {"out", "a.scores.root", "0_a.html", "0_a.pdf", "1_b.html", "1_b.pdf", blocks}


@pytest.mark.parametrize(
    "taken",
    [
        "out/notes.txt",
        "out/folds/notes.txt",
        "out/training.json",
        "out",
        "out.checkpoint",
        "out.epochs.csv",
        ".out.lock",
    ],
)
def test_training_replaces_no_files_of_users(inputs, place, taken):
    (place / taken).parent.mkdir(parents=True, exist_ok=True)
    (place / taken).write_text('{"name": "of another program"}\n')
    before = snapshot(place)
    done = train(inputs, place, model="sklearn_model.py")
    assert taken.split("/")[0] in only_error_line(done)
    assert check_unchanged(before, place) == set()


@pytest.mark.parametrize("name", [".out.unfinished", ".out.checkpoint.unfinished", ".out.epochs.csv.unfinished"])
def test_something_else_under_a_temporary_name_stays(inputs, place, name):
    (place / name).mkdir()
    (place / name / "notes.txt").write_text("mine")
    before = snapshot(place)
    done = train(inputs, place, model="sklearn_model.py")
    assert f"{name} exists and was not created by MLaaS4HEP" in only_error_line(done)
    assert check_unchanged(before, place) == set()


@pytest.mark.parametrize("kind", ["root", "parquet"])
def test_scoring_replaces_no_foreign_file(inputs, place, kind):
    assert train(inputs, place, model="sklearn_model.py").returncode == 0
    (place / f"a.scores.{kind}").write_text("mine")
    before = snapshot(place)
    done = run_forked(
        "workflow.py", "--predict=out", f"--files={inputs}/b.root,{inputs}/a.root", "--fout=.", f"--format={kind}",
        cwd=place,
    )  # fmt: skip
    assert "a.scores" in only_error_line(done)
    assert check_unchanged(before, place) == set()


@pytest.mark.parametrize("workers", [1, 2])
def test_server_and_client_change_their_own_models_only(place, tmp_path, workers):
    bundle = write_bundle(tmp_path / "bundle")
    before, before_bundle = snapshot(place), snapshot(tmp_path / "bundle")
    with Server.start(place, f"--workers={workers}") as server:
        ask = partial(run_client, f"--url={server.url}", cwd=place)
        for _ in range(2):
            assert ask(f"--bundle={bundle}").returncode == 0
            assert ask(f"--upload={bundle}/upload.json").returncode == 0
        assert ask("--models").returncode == 0
        assert ask("--delete=notes").returncode == 1
        assert ask("--delete=htautau").returncode == 0
    assert check_unchanged(before, place) == {".tfaas"}
    assert snapshot(tmp_path / "bundle") == before_bundle


def test_the_image_classifier_replaces_no_foreign_folder(place, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for path in (tmp_path / "images/a/0.png", tmp_path / "images/b/1.png"):
        path.parent.mkdir(parents=True)
        image.new("L", (8, 8)).save(path)
    before, before_images = snapshot(place), snapshot(tmp_path / "images")
    done = run_forked("hep_resnet.py", f"--fdir={tmp_path}/images", "--mdir=notes", cwd=place)
    assert "notes contains files that are not part of a bundle" in only_error_line(done)
    assert check_unchanged(before, place) == set()
    assert snapshot(tmp_path / "images") == before_images
