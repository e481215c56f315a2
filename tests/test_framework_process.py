"""Bundles without ONNX graphs: their models score events with their framework, and servers refuse them."""

import json
import shutil

import numpy as np
import pytest
import requests
import uproot
from scripts import only_error_line, run_forked
from serving_fixtures import Server, run_client
from tinyroot import write_events

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.params import EXPORT_ERROR
from mlaas4hep.scoring.files import score_files
from mlaas4hep.training import train_model

TORCH = """
from torch import nn
def model(idim, outputs=1): return nn.Sequential(nn.Linear(idim, 4), nn.Linear(4, outputs))
"""
KERAS = """
import keras
def model(idim, outputs=1):
    return keras.Sequential([keras.Input((idim,)), keras.layers.Dense(4), keras.layers.Dense(outputs)])
"""
XGBOOST = "import xgboost\ndef model(idim): return xgboost.XGB{kind}(n_estimators=5, n_jobs=1)\n"

OBJECTS = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, lists, lists_mask):
        squares = lists.transpose(1, 2) @ lists + torch.eye(1)
        return self.linear((lists * lists_mask[..., None]).sum(1)) + torch.linalg.eigvalsh(squares)

def model(shapes):
    return Network()
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    for number in range(2):
        write_events(folder / f"{number}.root", 400, seed=number, run=number + 1)
    return [folder / "0.root", folder / "1.root"]


def scores_in(folder):
    """Return the scores of both files by name."""
    found = {}
    for number in range(2):
        with uproot.open(folder / f"{number}.scores.root") as file:
            found[number] = file["scores"].arrays(library="np")
    return found


@pytest.mark.parametrize(
    ("text", "params"),
    [
        (TORCH, {"kfold": 3}),
        (TORCH, {"task": "regression"}),
        (KERAS, {}),
        (XGBOOST.format(kind="Classifier"), {}),
        (XGBOOST.format(kind="Regressor"), {"task": "regression", "kfold": 2}),
    ],
    ids=["torch folds", "torch regression", "keras", "xgboost", "xgboost folds"],
)
def test_the_framework_gives_the_scores_of_the_graph(
    text, params, files, without_plots, without_trial_export, tmp_path
):
    labels = ["90", "125"] if "task" in params else ["a", "b"]
    (tmp_path / "network.py").write_text(text)
    params = Params.parse({"epochs": 1, "tfaas": False, "trial_export": False, "shuffle": False, **params})
    train_model(files, labels, str(tmp_path / "network.py"), params, fout=tmp_path / "bundle")
    list(score_files(tmp_path / "bundle", files, tmp_path / "with_graph"))
    shutil.copytree(tmp_path / "bundle", tmp_path / "without")
    for graph in (tmp_path / "without").rglob("*.onnx"):
        graph.unlink()
    (tmp_path / "without" / EXPORT_ERROR).write_text("for a test\n")
    model = str(tmp_path / "without" / "model.py")
    list(score_files(tmp_path / "without", files, tmp_path / "framework", model=model))
    expected = scores_in(tmp_path / "with_graph")
    for number, columns in scores_in(tmp_path / "framework").items():
        for name, values in columns.items():
            np.testing.assert_allclose(values, expected[number][name], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def bundle(files, tmp_path_factory):
    """Train a model that no exporter supports, as a user does."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "network.py").write_text(OBJECTS)
    inputs = {"lists": {"branches": ["pt"], "length": 3}}
    (folder / "p.json").write_text(json.dumps({"epochs": 1, "tfaas": False, "inputs": inputs}))
    args = ["--files", ",".join(map(str, files)), "--labels=a,b", "--model=network.py", "--params=p.json", "--fout=out"]
    done = run_forked("workflow.py", *args, cwd=folder)
    assert done.returncode == 0, done.stderr
    before, after = (line for line in done.stderr.splitlines() if "ONNX" in line or "export" in line)
    assert before.startswith("note: the model can be trained, but it cannot be served as it is: ")
    assert after.startswith("note: the bundle cannot be served, because the model was not exported to ONNX: ")
    assert "Torch IR graph" not in done.stdout
    assert done.stdout.endswith("Bundle: out (score events: workflow.py --predict=out --model=out/model.py)\n")
    return folder / "out"


def test_a_model_without_graph_scores_events_if_its_model_file_is_named(bundle, files, tmp_path):
    names = {path.name for path in bundle.iterdir()}
    assert {"model.pt", "model.py", "specs.json", "report.html", EXPORT_ERROR} <= names
    assert not names & {"model.onnx", "params.json", "upload.json"}
    args = [f"--predict={bundle}", f"--files={files[0]}", "--fout=scores"]
    refused = run_forked("workflow.py", *args, cwd=tmp_path)
    assert refused.returncode == 1
    assert f"which is only run if --model names it; read the code, then use --model={bundle / 'model.py'}" in (
        only_error_line(refused)
    )
    done = run_forked("workflow.py", *args, f"--model={bundle / 'model.py'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with uproot.open(tmp_path / "scores/0.scores.root") as file:
        assert np.isfinite(file["scores"]["score_b"].array(library="np")).all()


def test_another_model_file_is_refused(bundle, files, tmp_path):
    (tmp_path / "other.py").write_text(OBJECTS.replace("self.linear", "self.other"))
    with pytest.raises(ConfigError, match=r"does not fit .*model\.pt: .*; use the model\.py of the bundle"):
        list(score_files(bundle, files, tmp_path / "scores", model=str(tmp_path / "other.py")))
    (tmp_path / "other.py").write_text("import os\nos._exit(7)\n")
    with pytest.raises(ConfigError, match="the process of the model ended with exit code 7"):
        list(score_files(bundle, files, tmp_path / "scores", model=str(tmp_path / "other.py")))
    assert not (tmp_path / "scores").exists()


def test_client_and_server_refuse_the_bundle_with_the_reason(bundle, tmp_path):
    reason = (bundle / EXPORT_ERROR).read_text().strip()[:60]
    with Server.start(tmp_path / "models") as server:
        for option in (f"--upload={bundle / 'upload.json'}", f"--bundle={bundle}"):
            refused = run_client(f"--url={server.url}", option)
            assert refused.returncode == 1
            assert f"cannot be served, because it was not exported to ONNX: {reason}" in refused.stderr
        archive = shutil.make_archive(str(tmp_path / "archive"), "gztar", bundle.parent, bundle.name)
        with open(archive, "rb") as file:
            headers = {"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"}
            answer = requests.post(f"{server.url}/upload", data=file, headers=headers, timeout=60)
    assert answer.status_code == 400
    assert f"model 'out' cannot be served, because it was not exported to ONNX: {reason}" in answer.json()["error"]
