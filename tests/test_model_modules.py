"""Models of several files: what they import, what the bundle contains, and arguments of the model function."""

import json
import shutil
import sys

import numpy as np
import pytest
from scripts import only_error_line, run_forked
from tinyroot import write_events

from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, FileUnreadable, PackageMissing
from mlaas4hep.protocol.params import EXPORT_ERROR
from mlaas4hep.scoring.files import score_files
from mlaas4hep.training import train_model
from mlaas4hep.training.destination import is_bundle
from mlaas4hep.training.run import AlreadyTrained

TWO, SHAPES = Task.classification(2), {"x": (7,)}


@pytest.fixture
def write(tmp_path):
    def write_files(**files):
        """Write files, given their names with __ for / and without .py."""
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write_files


IMPORTS = {
    "absolute": "from layers import width\nimport blocks.first as first\n",
    "relative": "from .layers import width\nfrom .blocks import first\n",
    "in the function": "",
}


@pytest.mark.parametrize("how", IMPORTS)
def test_a_model_file_imports_modules_in_its_folder_and_nothing_else_does(how, write):
    inside = "    from layers import width\n    import blocks.first as first\n" if how == "in the function" else ""
    folder = write(
        mine=f"{IMPORTS[how]}def model(idim):\n{inside}    return width * idim + first.one",
        layers="import sizes\nwidth = sizes.WIDTH",
        sizes="WIDTH = 100",
        blocks__first="from . import second\none = second.two - 1",
        blocks__second="two = 2",
        unused="raise SystemExit",
    )
    file = load_model_file(str(folder / "mine.py"))
    assert file.build(SHAPES, TWO) == 701
    assert set(file.helpers()) == {"layers.py", "sizes.py", "blocks/first.py", "blocks/second.py"}
    assert "layers" not in sys.modules
    assert not list(folder.rglob("__pycache__"))


def test_model_files_of_two_folders_have_helper_modules_of_the_same_name(write):
    files = []
    for name in ("a", "b"):
        folder = write(**{f"{name}__net": "def model(idim):\n    import part\n    return part.name",
                          f"{name}__part": f"name = {name!r}"})  # fmt: skip
        files.append(load_model_file(str(folder / name / "net.py")))
        assert files[-1].build(SHAPES, TWO) == name


def test_an_installed_package_takes_precedence_over_a_file_beside_the_model(write):
    folder = write(json="raise SystemExit", numpy="raise SystemExit", model="import json, numpy\nmodel = numpy.sqrt\n")
    file = load_model_file(str(folder / "model.py"))
    assert file.helpers() == {}
    assert file.model is np.sqrt


@pytest.mark.parametrize(
    ("files", "kind", "says"),
    [
        ({"mine": "import parts.missing", "parts__one": ""}, ConfigError, "imports 'parts.missing', which is not in"),
        ({"mine": "import lyers", "layers": ""}, ConfigError, "nor a file in .*closest: 'layers'"),
        ({"mine": "import one", "one": "import lightgbm"}, PackageMissing, "pip install lightgbm"),
        ({"mine": "import one", "one": "\n1 / 0"}, ConfigError, r"mine.py \(one.py, line 2\): ZeroDivisionError"),
        ({"mine": "import one", "one": "a =\n"}, ConfigError, r"mine.py \(one.py, line 1\): SyntaxError"),
        (
            {"mine": "import model", "model": ""},
            ConfigError,
            "imports a helper module model.py; give the module another",
        ),
        ({"mine": "import one", "one": "import mine"}, ConfigError, "imports 'mine', which is this file itself; move"),
        ({"mine": "from one import b", "one": "a = 1"}, ConfigError, "ImportError: cannot import name 'b' from 'one'"),
        ({"mine": "def other(idim): pass"}, ConfigError, "does not define a function 'model'"),
    ],
)
def test_a_failing_import_is_a_line_that_does_not_suggest_to_install_a_file(files, kind, says, write):
    folder = write(**files)
    with pytest.raises(kind, match=says) as caught:
        load_model_file(str(folder / "mine.py"))
    assert ("pip install" in str(caught.value)) == (kind is PackageMissing)


def test_a_relative_path_is_a_model_file_after_the_working_directory_changed(write, monkeypatch):
    folder = write(mine="def model(idim):\n    from part import add\n    return add(idim, 1)",
                   part="def add(a, b):\n    return a / (b - 1)", other__empty="")  # fmt: skip
    monkeypatch.chdir(folder)
    file = load_model_file("mine.py")
    monkeypatch.chdir(folder / "other")
    with pytest.raises(ConfigError, match=r"model\(7\) of mine.py fails.*: ZeroDivisionError"):
        file.build(SHAPES, TWO)
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=r"model\(7\) of mine.py fails \(part.py, line 2\): ZeroDivisionError"):
        file.build(SHAPES, TWO)


def test_a_folder_is_a_model_with_all_of_its_files(write):
    folder = write(net__model="from .part import one\ndef model(idim): return one", net__part="one = 1", net__more="")
    (folder / "net" / "table.txt").write_text("1 2 3")
    for hidden in (".git/config", "__pycache__/part.pyc", "sub/.cache"):
        (folder / "net" / hidden).parent.mkdir(exist_ok=True)
        (folder / "net" / hidden).write_text("")
    file = load_model_file(str(folder / "net"))
    assert file.build(SHAPES, TWO) == 1
    assert set(file.helpers()) == {"part.py", "more.py", "table.txt"}
    with (folder / "net" / "large.root").open("wb") as large:
        large.truncate(60_000_000)
    with pytest.raises(ConfigError, match=r"the model folder .*net has 60 MB, which is too much to copy"):
        load_model_file(str(folder / "net"))
    with pytest.raises(FileUnreadable, match=r"the folder .* has no model\.py"):
        load_model_file(str(folder / "net" / "sub"))


def test_the_folder_of_a_bundle_is_its_model_file_with_helper_modules(write):
    code = "from part import one\ndef model(idim): return one"
    folder = write(out__model=code, out__model_code__model=code, out__model_code__part="one = 1")
    (folder / "out" / "model.onnx").write_bytes(b"graph")
    file = load_model_file(str(folder / "out"))
    assert file.build(SHAPES, TWO) == 1
    assert set(file.helpers()) == {"part.py"}
    with pytest.raises(ConfigError, match=r"has no function after the colon; leave out the colon: .*out/model\.py"):
        load_model_file(f"{folder / 'out/model.py'}:")


def test_another_function_of_the_file_is_named_after_a_colon(write):
    folder = write(mine="def small(idim): return 1\ndef large(idim, width=5): return width")
    file = load_model_file(f"{folder / 'mine.py'}:large")
    assert file.build(SHAPES, TWO) == 5
    assert file.build(SHAPES, TWO, {"width": 9}) == 9
    with pytest.raises(ConfigError, match="does not define a function 'larger'; closest: 'large'"):
        load_model_file(f"{folder / 'mine.py'}:larger")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"widht": 1},
            "'model_args' has the argument 'widht' of model of .*, which the function does not have; closest: 'w",
        ),
        ({"classes": 3}, "'classes' of model of .*, which is set by the labels"),
        ({"idim": 3}, "'idim' of model of .*, which is set by the inputs"),
    ],
)
def test_an_unknown_argument_of_the_model_function_is_named(arguments, says, write):
    folder = write(mine="def model(idim, classes, width=1): return width")
    with pytest.raises(ConfigError, match=says):
        load_model_file(str(folder / "mine.py")).build(SHAPES, TWO, arguments)


NET = """
import torch
from layers import Block

def other(idim, width): return torch.nn.Sequential(Block(idim, width), torch.nn.Linear(width, 1))
"""
LAYERS = """
import torch
class Block(torch.nn.Linear):
    def forward(self, x): return torch.relu(super().forward(x))
"""


@pytest.mark.framework
def test_a_model_of_several_files_is_trained_resumed_and_run_from_its_bundle(write, monkeypatch, capsys):
    folder = write(work__net=NET, work__layers=LAYERS)
    events = folder / "a.root"
    kind = np.arange(300) % 2
    write_events(events, 300, kind=kind, shift=(kind + np.random.default_rng(0).normal(size=300)).astype("f4"))
    monkeypatch.chdir(folder / "work")
    options = {"epochs": 1, "tfaas": False, "model_args": {"width": 3}}
    arguments = [str(events), "kind", "net.py:other", Params.parse(options)]
    train_model(*arguments, fout=folder / "out")
    bundle = folder / "out"
    training = json.loads((bundle / "training.json").read_text())
    assert training["params"]["model_args"] == {"width": 3}
    assert training["size"] == f"{len(training['columns']) * 3 + 3 + 3 + 1} weights"
    assert (training["model_function"], training["model_code"]) == ("other", ["layers.py"])
    assert "model_args" in (bundle / "report.html").read_text()
    assert (bundle / "model.py").read_text() == (bundle / "model_code" / "model.py").read_text() == NET
    assert (bundle / "model_code" / "layers.py").read_text() == LAYERS

    with pytest.raises(AlreadyTrained):
        train_model(*arguments, fout=folder / "out", resume=True)
    (folder / "work" / "layers.py").write_text(LAYERS.replace("relu", "tanh"))
    shutil.copytree(bundle, folder / "other")
    train_model(*arguments, fout=folder / "other", resume=True)  # another model
    assert (folder / "other" / "model_code" / "layers.py").read_text() != LAYERS

    with_graph, without = (folder / name for name in ("with_graph", "without"))
    list(score_files(bundle, [events], with_graph))
    (bundle / "model.onnx").unlink()
    (bundle / EXPORT_ERROR).write_text("for a test\n")
    shutil.rmtree(folder / "work")
    monkeypatch.chdir(folder)
    list(score_files(bundle, [events], without, model=str(bundle / "model.py")))
    import uproot

    first, second = (uproot.open(one / "a.scores.root")["scores/score_1"].array(library="np") for one in
                     (with_graph, without))  # fmt: skip
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert is_bundle(bundle)
    (bundle / "model_code" / "mine.txt").write_text("keep")
    assert not is_bundle(bundle)


def test_a_bundle_in_the_folder_of_its_model_is_refused(write):
    folder = write(net__model="def model(idim): return 1")
    with pytest.raises(ConfigError, match=r"out is in the folder of the model, .*; choose another --fout"):
        train_model("a.root", "kind", str(folder / "net"), fout=folder / "net" / "out")


@pytest.mark.parametrize(
    ("value", "says"), [("{width: 3}", "--model-args is not JSON"), ("3", "--model-args is 3, not a JSON object")]
)
def test_invalid_model_args_are_a_line(value, says, tmp_path):
    done = run_forked("workflow.py", "--files=a.root", "--model=ex_pytorch.py", f"--model-args={value}", cwd=tmp_path)
    assert done.returncode == 1
    assert says in only_error_line(done)
