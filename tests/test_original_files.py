"""Model files, parameters and options of the original MLaaS4HEP."""

import json
import sys

import numpy as np
import pytest
from scripts import run_forked
from tinyroot import write_tree

from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.errors import ConfigError

LAYER = """
%s
import torch

def model(idim):
    return torch.nn.Sequential(Layer(idim, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
"""
IMPORTS = [
    "from MLaaS4HEP.jarray.pytorch import JaggedArrayLinear as Layer",
    "from jarray.pytorch import JaggedArrayLinear as Layer",
    "import MLaaS4HEP.jarray.pytorch\nLayer = MLaaS4HEP.jarray.pytorch.JaggedArrayLinear",
]
PARAMS = {
    "nevts": 300, "shuffle": True, "chunk_size": 100, "epochs": 1, "batch_size": 50, "identifier": "runNo,evtNo,lumi",
    "branch": "events", "selected_branches": "", "exclude_branches": "", "hist": "pdfs", "redirector": "", "verbose": 1,
}  # fmt: skip


def load(tmp_path, text):
    (tmp_path / "mine.py").write_text(text)
    return load_model_file(str(tmp_path / "mine.py"))


@pytest.mark.framework
@pytest.mark.parametrize("line", IMPORTS)
def test_a_model_file_imports_the_layer_of_the_original(line, tmp_path):
    import torch

    layer = load(tmp_path, LAYER % line).build({"x": (3,)}, Task.classification(2))[0]
    data = torch.tensor([[1.0, 2.0, 7.0]])
    expected = layer.weight[:, 0] + 2 * layer.weight[:, 1] + layer.bias
    torch.testing.assert_close(layer(data, torch.tensor([[1.0, 1.0, 0.0]]))[0], expected)
    torch.testing.assert_close(layer(torch.tensor([[1.0, 2.0, 0.0]]))[0], expected)
    assert "MLaaS4HEP" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        __import__("MLaaS4HEP")


def test_readers_of_the_original_are_those_of_this_package(tmp_path):
    from mlaas4hep import DataGenerator, DataReader

    text = "from MLaaS4HEP.reader import RootDataReader as model\nfrom MLaaS4HEP.generator import RootDataGenerator\n"
    file = load(tmp_path, text + "loss = RootDataGenerator")
    assert (file.model, file.loss) == (DataReader, DataGenerator)
    with pytest.raises(ConfigError, match=r"imports 'MLaaS4HEP\.models', which has no equivalent here"):
        load(tmp_path, "from MLaaS4HEP.models import train_model")


@pytest.mark.framework
def test_the_old_name_of_the_learning_rate_is_translated_in_model_files_only(tmp_path, capsys):
    text = """
from keras.optimizers import Adam
optimizer = Adam(lr=0.25)
def model(idim):
    import keras
    return keras.optimizers.SGD(lr=0.5)
"""
    file = load(tmp_path, text)
    assert float(file.optimizer.learning_rate) == 0.25
    assert float(file.build({"x": (3,)}, Task.classification(2)).learning_rate) == 0.5
    assert capsys.readouterr().err.splitlines() == [
        f"note: {name}(lr=...) is now written as {name}(learning_rate=...)" for name in ("Adam", "SGD")
    ]
    import keras

    assert float(keras.optimizers.Adam(0.125).learning_rate) == 0.125
    with pytest.raises(ValueError, match="lr"):
        keras.optimizers.Adam(lr=0.25)


def test_the_commands_and_params_of_the_original_train_a_model(tmp_path):
    rng = np.random.default_rng(0)
    for name, shift in (("a", 0), ("b", 1)):
        columns = {
            "runNo": np.ones(150, "i4"), "evtNo": np.arange(150, dtype="i8"), "lumi": np.full(150, 3, "i4"),
            "pt": rng.normal(shift, size=150).astype("f4"),
        }  # fmt: skip
        write_tree(tmp_path / f"{name}.root", columns, clusters=1, name="events")
    (tmp_path / "files.txt").write_text("a.root\nb.root\n")
    (tmp_path / "labels.txt").write_text("1\n0\n")
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    (tmp_path / "ex_pytorch.py").write_text(LAYER % IMPORTS[0])
    arguments = ["--files=files.txt", "--labels=labels.txt", "--model=ex_pytorch.py", "--params=params.json"]
    done = run_forked("workflow.py", *arguments, "--dtype=root", "--fout=model.pb", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: --dtype has no effect" in done.stderr
    training = json.loads((tmp_path / "model.pb" / "training.json").read_text())
    assert (training["columns"], training["name"]) == (["pt"], "model")
    assert training["identifier"] == ["runNo", "evtNo", "lumi"]
    assert list((tmp_path / "pdfs").glob("*.pdf"))
