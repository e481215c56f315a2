"""workflow.py as a person runs it, from another folder: what it prints, what it leaves, and what it refuses."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import uproot
from scripts import HTAUTAU, ROOT, only_error_line, run_forked, run_script
from tinyroot import write_tree

from mlaas4hep.report.terminal import format_metrics

FILES, LABELS = HTAUTAU / "files.txt", HTAUTAU / "labels.txt"
FAST = {
    "nevts": 1500,
    "epochs": 2,
    "tfaas": False,
    "trial_export": False,
    "selected_branches": ["MET_pt", "nJet", "Jet_pt", "Jet_eta"],
}
BUNDLE = {
    "assets",
    "epochs.csv",
    "example.json",
    "labels.txt",
    "metrics.json",
    "model.onnx",
    "model.pb",
    "model.py",
    "params.json",
    "params_tfaas.json",
    "report.html",
    "saved_model.pb",
    "specs.json",
    "training.json",
    "upload.json",
    "upload_tfaas.json",
    "variables",
}
QUICK = "from sklearn.linear_model import LogisticRegression\ndef model(idim): return LogisticRegression()\n"
FOR_TFAAS = {"assets", "model.pb", "params_tfaas.json", "saved_model.pb", "upload_tfaas.json", "variables"}


def train(folder, *more, model="ex_pytorch.py", fout="out", run=run_forked):
    """Train on the example files with the parameters `FAST`."""
    (folder / "fast.json").write_text(json.dumps(FAST))
    args = [f"--files={FILES}", f"--labels={LABELS}", f"--model={model}", "--params=fast.json", f"--fout={fout}"]
    return run("workflow.py", *args, *more, cwd=folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train with PyTorch twice; return the output, the folder of the bundle, and its content after the first run."""
    folder = tmp_path_factory.mktemp("trained")
    done, before = train(folder, run=run_script), {}
    assert done.returncode == 0, done.stderr
    for name in ("training.json", "metrics.json"):
        before[name] = json.loads((folder / "out" / name).read_text())
    assert train(folder).returncode == 0
    return done, folder, before


@pytest.mark.parametrize(("model", "saved"), [("ex_keras.py", "model.keras"), ("ex_pytorch.py", "model.pt")])
def test_training_prints_every_epoch_and_writes_a_bundle(model, saved, trained, tmp_path):
    done, folder = trained[:2] if model == "ex_pytorch.py" else (train(tmp_path, model=model, run=run_script), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Sample: 3000 events of 2 files, 2 flat and 2 jagged branches")
    assert lines[0].endswith("classes VBF, ggH")
    for number, line in enumerate(lines[2:4], start=1):
        assert re.match(
            rf"epoch +{number}  training loss 0\.\d+  validation loss 0\.\d+  accuracy 0\.\d+  AUC 0\.\d+", line
        )
    test = re.match(r"Test  : (\d+) events  loss (\S+)  accuracy (\S+)  AUC (\S+) \+- (\S+)", lines[4])
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    assert float(test[4]) == pytest.approx(metrics["test"]["auc"], abs=1e-4)
    assert int(test[1]) == metrics["test"]["events"] == pytest.approx(0.15 * 3000, abs=60)
    assert len(metrics["epochs"]) == 2
    assert {path.name for path in (folder / "out").iterdir()} == {*(BUNDLE - FOR_TFAAS), saved}
    assert (folder / "out" / "labels.txt").read_text().split() == ["VBF", "ggH"]
    assert sorted(path.name for path in folder.iterdir()) == ["fast.json", "out"]


def test_the_report_agrees_with_the_metrics(trained):
    _, folder, _ = trained
    page = (folder / "out" / "report.html").read_text()
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    assert f"AUC {metrics['test']['auc']:.4f}" in page
    assert page.count("<svg") == 8
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", page)
    assert "ggH.root" in page


def test_training_works_without_labels_and_model(tmp_path):
    (tmp_path / "files.txt").write_text(f"# H to tau tau\n{HTAUTAU / 'ggH.root'}\n\n{HTAUTAU / 'VBF.root'}\n")
    (tmp_path / "params.json").write_text(json.dumps(FAST))
    done = run_forked("workflow.py", "--files=files.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: no labels: training a self-supervised baseline" in done.stderr
    assert "classes shuffled, event" in done.stdout
    assert (tmp_path / "mlaas4hep_model" / "model.onnx").is_file()
    training = json.loads((tmp_path / "mlaas4hep_model" / "training.json").read_text())
    assert training["contrast"] is True


def test_labels_can_be_a_comma_list_or_the_name_of_a_branch(tmp_path):
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 3000)
    with uproot.recreate(tmp_path / "toy.root") as file:
        columns = {"event": np.arange(3000), "kind": kind, "x": rng.normal(kind, 0.3), "y": rng.normal(size=3000)}
        file.mktree("Events", {name: values.dtype for name, values in columns.items()}).extend(columns)
    (tmp_path / "toy.json").write_text(json.dumps({"tfaas": False, "trial_export": False}))
    (tmp_path / "quick.py").write_text(QUICK)
    toy = ["--files=toy.root", "--labels=kind", "--params=toy.json"]
    by_branch = run_forked("workflow.py", *toy, "--model=quick.py", "--fout=a", cwd=tmp_path)
    assert by_branch.returncode == 0, by_branch.stderr
    assert "2 flat and 0 jagged branches, 2 columns, classes 0, 1, 2" in by_branch.stdout
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics["test"]["auc"] > 0.98
    (tmp_path / "fast.json").write_text(json.dumps(FAST))
    files = f"{HTAUTAU / 'ggH.root'},{HTAUTAU / 'VBF.root'}"
    by_list = run_forked(
        "workflow.py",
        f"--files={files}",
        "--labels=1,0",
        "--params=fast.json",
        "--model=quick.py",
        "--fout=b",
        cwd=tmp_path,
    )
    assert by_list.returncode == 0, by_list.stderr
    assert "classes 0, 1" in by_list.stdout


def test_a_new_run_replaces_only_a_bundle(trained, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("ten years")
    refused = train(tmp_path, fout="precious")
    assert "precious contains files that are not part of a bundle" in only_error_line(refused)
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["thesis.tex"]
    _, folder, before = trained
    again = json.loads((folder / "out" / "training.json").read_text())
    assert again["created"] > before["training.json"]["created"]
    assert sorted(path.name for path in folder.iterdir()) == ["fast.json", "out"]


def test_the_same_seed_gives_the_same_model(trained):
    _, folder, before = trained
    assert json.loads((folder / "out" / "metrics.json").read_text())["test"] == before["metrics.json"]["test"]


def test_a_model_that_cannot_be_exported_is_saved_nevertheless(tmp_path):
    (tmp_path / "odd.py").write_text(
        "import numpy as np, torch\n"
        "class Odd(torch.nn.Module):\n"
        "    def __init__(self, idim):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(idim, 1)\n"
        "    def forward(self, x):\n"
        "        y = self.layer(x)\n"
        "        return y + float(np.random.default_rng(int(abs(float(y.detach().sum()) * 1e4))).uniform())\n"
        "def model(idim):\n"
        "    return Odd(idim)\n"
    )
    done = train(tmp_path, model="odd.py")
    assert done.returncode == 0
    assert "the bundle cannot be served, because the model was not exported to ONNX: " in done.stderr.splitlines()[-1]
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.pt", "metrics.json", "report.html"} <= left
    assert not {"model.onnx", "upload.json", "params.json"} & left


def test_a_bundle_that_contains_a_file_of_the_user_is_not_replaced(trained, tmp_path):
    shutil.copytree(trained[1] / "out", tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    line = only_error_line(train(tmp_path))
    assert line == "error: out contains files that are not part of a bundle: notes.txt; choose a new folder"
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


ANY = "import torch\ndef model(idim, classes): return torch.nn.Linear(idim, classes if classes > 2 else 1)\n"


def test_infinite_values_and_a_class_missing_in_a_set_do_not_fail_a_training(tmp_path):
    rng = np.random.default_rng(0)
    label = np.arange(400) % 2
    label[7] = 2  # in one of the sets only
    x = rng.normal(label, 1)
    x[::50] = np.inf
    x[1::50] = -np.inf
    write_tree(tmp_path / "a.root", {"x": x, "event": np.arange(400), "label": label})
    (tmp_path / "any.py").write_text(ANY)
    (tmp_path / "p.json").write_text(
        json.dumps({"epochs": 2, "identifier": ["event"], "tfaas": False, "trial_export": False})
    )
    done = run_forked(
        "workflow.py",
        "--files=a.root",
        "--labels=label",
        "--model=any.py",
        "--params=p.json",
        "--fout=out",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "AUC undefined: a class is missing" in done.stdout
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["test"]["auc"] is None
    values = json.loads((tmp_path / "out" / "example.json").read_text())["values"]
    assert np.isfinite(values).all()
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_a_closed_pipe_does_not_stop_the_training(tmp_path):
    write_tree(tmp_path / "a.root", {"x": np.arange(600.0), "event": np.arange(600), "label": np.arange(600) % 2})
    (tmp_path / "any.py").write_text(QUICK)
    (tmp_path / "p.json").write_text(
        json.dumps({"epochs": 3, "identifier": ["event"], "tfaas": False, "trial_export": False})
    )
    command = [sys.executable, str(ROOT / "workflow.py"), "--files=a.root", "--labels=label", "--model=any.py",
               "--params=p.json", "--fout=out"]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:
        assert process.stdout.readline().startswith("Sample: ")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("def training_step(*arguments): raise ValueError('no')", "odd.py, line 3: ValueError: no"),
    ],
)
def test_an_error_of_a_model_file_during_training_is_printed_in_one_line(tmp_path, more, says):
    write_tree(tmp_path / "a.root", {"x": np.arange(600.0), "event": np.arange(600), "label": np.arange(600) % 2})
    (tmp_path / "odd.py").write_text(ANY + more + "\n")
    (tmp_path / "p.json").write_text(json.dumps({"epochs": 1, "identifier": ["event"]}))
    args = ["--files=a.root", "--labels=label", "--model=odd.py", "--params=p.json", "--fout=out"]
    assert says in only_error_line(run_forked("workflow.py", *args, cwd=tmp_path))
    assert not (tmp_path / "out").exists()


BAD = [
    ([], {}, "--files"),
    (["--files=absent.txt"], {}, "cannot read absent.txt"),
    (["--files=absent.root"], {}, "file not found: absent.root"),
    (["--files=*.parquet"], {}, "no file matches *.parquet"),
    (["--files={files}", "--labels=a,b,c"], {}, "there are 3 labels for 2 files"),
    (["--files={files}", "--labels=absent/labels.txt"], {}, "file not found: absent/labels.txt"),
    (["--files={files}", "--labels=a,a"], {}, "a classification needs two classes"),
    (["--files={files}", "--labels=is_signal"], {}, "branch 'is_signal' is not in"),
    (["--files={files}", "--labels=Jet_pt"], {}, "is not one number per event: it is jagged"),
    (["--files={files}", "--labels=MET_pt"], {}, "values that are not integers"),
    (["--files={files}", "--model=nothing.py"], {}, "model file nothing.py not found"),
    (["--files={files}", "--model=bad.py"], {"bad.py": "x = 1"}, "does not define a function 'model'"),
    (["--files={files}", "--params=absent.json"], {}, "cannot read absent.json"),
    (["--files={files}", "--params=p.json"], {"p.json": '{"epochs": 5,}'}, "p.json is not JSON: "),
    (["--files={files}", "--params=p.json"], {"p.json": '{"epoch": 5}'}, "unknown key 'epoch'; closest: 'epochs'"),
    (["--files={files}", "--params=p.json"], {"p.json": '{"epochs": "5"}'}, "'epochs' in p.json cannot be '5'"),
    (["--files={files}", "--params=p.json"], {"p.json": "[1]"}, "p.json must contain a JSON object"),
    (["--files={files}", "--params=p.json"], {"p.json": '{"split": [1, 1, 1]}'}, "add up to 1"),
    (["--files={files}", "--params=p.json"], {"p.json": '{"branch": "events"}'}, "choose one: --branch=Events"),
    (["--files={files}", "--preproc=p.json"], {"p.json": '{"cut": "nJet > 1000"}'}, "no events"),
    (["--files={files}", "--preproc=p.json"], {"p.json": '{"cutt": "nJet > 1"}'}, "closest: 'cut'"),
    (["--files={files}", "--fout=file/out"], {"file": ""}, "cannot write file/out: "),
    (["--files={files}", "--fout=file"], {"file": ""}, "file is a file"),
]


@pytest.mark.parametrize(("args", "written", "says"), BAD)
def test_invalid_input_is_reported_in_one_line_and_leaves_no_files(args, written, says, tmp_path):
    written = {"any.py": "def model(idim): pass\n", **written}  # imports no framework, which saves time
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    filled = [arg.format(files=FILES) for arg in args]
    if not any(arg.startswith("--model") for arg in args):
        filled.append("--model=any.py")
    done = run_forked("workflow.py", *filled, cwd=tmp_path)
    assert says in only_error_line(done)
    assert {path.name for path in tmp_path.iterdir()} == set(written)


def test_undefined_metrics_are_shown_as_such():
    assert format_metrics({"auc": None, "own": None, "other": 0.5}) == (
        "  AUC undefined: a class is missing  own not a number  other 0.5000"
    )


def test_help_names_every_option_of_the_original(tmp_path):
    text = run_script("workflow.py", "--help", cwd=ROOT).stdout
    for option in ("--files", "--labels", "--model", "--params", "--specs", "--preproc", "--fout"):
        assert option in text


@pytest.mark.parametrize("name", ["preproc.json", "preproc.py"])
def test_new_branches_and_cuts_are_trained_on_and_kept_in_the_bundle(name, tmp_path):
    json_text = json.dumps({"define": {"ht": "sum(Jet_pt)"}, "cut": "nJet >= 2"})
    python_text = (
        "import awkward as ak\n"
        "branches = ['Jet_pt', 'nJet']\n"
        "def preprocessing(events):\n"
        "    events = events[events.nJet >= 2]\n"
        "    events['ht'] = ak.sum(events.Jet_pt, axis=1)\n"
        "    return events\n"
    )
    (tmp_path / "quick.py").write_text(QUICK)
    (tmp_path / name).write_text(json_text if name.endswith("json") else python_text)
    (tmp_path / "p.json").write_text(json.dumps({**FAST, "selected_branches": ["ht", "MET_pt"]}))
    done = run_forked("workflow.py", f"--files={FILES}", f"--labels={LABELS}", "--params=p.json", f"--preproc={name}",
                      "--model=quick.py", "--fout=out", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["columns"] == ["MET_pt", "ht"]
    assert (tmp_path / "out" / name).is_file()
    specs = json.loads((tmp_path / "out" / "specs.json").read_text())
    trees = [uproot.open(HTAUTAU / file)["Events"] for file in ("ggH.root", "VBF.root")]
    assert specs["events"] == sum(int((tree["nJet"].array(entry_stop=1500) >= 2).to_numpy().sum()) for tree in trees)
