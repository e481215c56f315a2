"""Scores of a bundle for every event of a file, against the graph asked by hand."""

import json

import awkward as ak
import numpy as np
import onnxruntime
import pyarrow.parquet
import pytest
import uproot
from scripts import only_error_line, run_script
from tinyroot import write_events, write_tree

from mlaas4hep.config import Params
from mlaas4hep.errors import SpecsMismatch
from mlaas4hep.reader import DataReader
from mlaas4hep.stream.split import fold_of, identity_hash
from mlaas4hep.training import train_model
from mlaas4hep.training.scoring import score_files

CUT = {"cut": "met > 10"}
MODEL = "from torch import nn\ndef model(idim, outputs=1): return nn.Linear(idim, outputs)\n"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Three bundles over the same events: with a cut, with folds and two classes of odd names, of numbers."""
    folder = tmp_path_factory.mktemp("bundles")
    (folder / "linear.py").write_text(MODEL)
    (folder / "cut.json").write_text(json.dumps(CUT))
    for number in range(2):
        write_events(folder / f"{number}.root", 400, seed=number, run=number + 1)
    files, model = [folder / "0.root", folder / "1.root"], str(folder / "linear.py")
    names = ["ggH", "V B/F"]
    train_model(files, names, model, Params(epochs=1), fout=folder / "cut", preproc=str(folder / "cut.json"))
    train_model(files, names, model, Params(epochs=1, kfold=3), fout=folder / "folds")
    train_model(files, ["90", "125"], model, Params(epochs=1, task="regression"), fout=folder / "mass")
    return folder


@pytest.fixture
def data(tmp_path):
    """A file that was not trained on, without labels, whose lists are longer than those of training."""
    columns = write_events(tmp_path / "data.root", 1234, seed=7, run=9, clusters=5)
    lengths = np.arange(1234) % 9
    columns["pt"] = ak.unflatten(np.random.default_rng(1).exponential(20, lengths.sum()).astype("f4"), lengths)
    write_tree(tmp_path / "data.root", columns, clusters=5)
    return tmp_path / "data.root", columns


def by_hand(graph, columns, width):
    """Ask a graph for the scores of columns, rows made without the library: flat ones sorted, then lists, padded."""
    pt = np.asarray(ak.fill_none(ak.pad_none(columns["pt"], width, clip=True), np.nan), np.float32)
    counts = np.asarray(ak.num(columns["pt"]), np.float32)
    rows = np.column_stack([np.asarray(columns["met"]), counts, pt]).astype(np.float32)
    return onnxruntime.InferenceSession(str(graph)).run(None, {"inputs": rows})[0]


@pytest.mark.parametrize("kind", ["root", "rntuple", "parquet"])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_event_has_its_scores_in_order_and_cuts_are_a_flag(bundles, data, kind, workers, tmp_path):
    path, columns = data
    ((written, events, lost),) = score_files(
        bundles / "cut", [path], tmp_path / "scores", kind, Params(workers=workers), None
    )
    assert events == 1234
    if kind == "parquet":
        assert written.name == "data.scores.parquet"
        found = {name: np.asarray(values) for name, values in pyarrow.parquet.read_table(written).to_pydict().items()}
    else:
        assert written.name == "data.scores.root"
        with uproot.open(written) as file:
            assert file["scores"].num_entries == 1234
            arrays = file["scores"].arrays()
            found = {name: np.asarray(arrays[name]) for name in arrays.fields}
    assert set(found) == {"run", "luminosityBlock", "event", "score_ggH", "passes_cuts"}
    for name in ("run", "luminosityBlock", "event"):
        np.testing.assert_array_equal(found[name], columns[name])
    passes = columns["met"] > 10
    np.testing.assert_array_equal(found["passes_cuts"], passes)
    width = len(json.loads((bundles / "cut" / "training.json").read_text())["columns"]) - 2
    beyond = np.maximum(np.asarray(ak.num(columns["pt"])) - width, 0)[passes].sum()
    assert lost == [f"{beyond} values of 'pt' lie beyond the longest list that the specs know, and were cut off"]
    truth = by_hand(bundles / "cut" / "model.onnx", columns, width)[:, 0]
    np.testing.assert_allclose(found["score_ggH"][passes], truth[passes], atol=1e-6)
    assert np.isnan(found["score_ggH"][~passes]).all()


def test_of_folds_each_event_is_scored_by_the_model_that_did_not_see_it(bundles, tmp_path):
    files = [bundles / "0.root", bundles / "1.root"]
    written = [path for path, _, _ in score_files(bundles / "folds", files, tmp_path)]
    training = json.loads((bundles / "folds" / "training.json").read_text())
    for source, path in zip(files, written, strict=True):
        with uproot.open(source) as file:
            columns = {name: file["Events"][name].array() for name in ("run", "luminosityBlock", "event", "met", "pt")}
        ids = {name: np.asarray(columns[name]).astype(np.uint64) for name in ("run", "luminosityBlock", "event")}
        fold = fold_of(identity_hash(ids, np.arange(400), ""), 3)
        assert set(fold) == {0, 1, 2}
        with uproot.open(path) as file:
            found = file["scores"]["score_ggH"].array(library="np")
        for index in range(3):
            graph = bundles / "folds" / f"folds/{index}/model.onnx"
            truth = by_hand(graph, columns, len(training["columns"]) - 2)[:, 0]
            np.testing.assert_allclose(found[fold == index], truth[fold == index], atol=1e-6)
            assert not np.allclose(found[fold != index], truth[fold != index], atol=1e-6)


def test_estimates_are_in_the_units_of_the_labels(bundles, data, tmp_path):
    ((path, _, _),) = score_files(bundles / "mass", [data[0]], tmp_path / "scores")
    with uproot.open(path) as file:
        found = file["scores"]["estimate_target"].array(library="np")
    assert 80 < np.median(found) < 135


def test_classes_whose_names_differ_in_signs_alone_have_scores_of_their_own(data, tmp_path):
    names = ["a-b", "a b", "a_b_2"]
    for number in range(3):
        write_events(tmp_path / f"{number}.root", 200, seed=number, run=number + 1)
    (tmp_path / "linear.py").write_text(MODEL)
    files = [tmp_path / f"{number}.root" for number in range(3)]
    train_model(files, names, str(tmp_path / "linear.py"), Params(epochs=1, tfaas=False), fout=tmp_path / "out")
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["classes"] == ["a b", "a-b", "a_b_2"]
    ((path, _, _),) = score_files(tmp_path / "out", [data[0]], tmp_path / "scores")
    truth = by_hand(tmp_path / "out" / "model.onnx", data[1], len(training["columns"]) - 2)
    with uproot.open(path) as file:
        for column, name in enumerate(["score_a_b", "score_a_b_2", "score_a_b_2_2"]):
            np.testing.assert_allclose(file["scores"][name].array(library="np"), truth[:, column], atol=1e-6)


def test_the_script_scores_and_says_where(bundles, data, tmp_path):
    done = run_script("workflow.py", f"--predict={bundles / 'folds'}", "--files=data.root", "--fout=mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Scores: mine/data.scores.root (1234 events)\n"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["data.scores.root"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--predict=nowhere", "--files=data.root"], "cannot read nowhere/training.json"),
        (["--predict=.", "--files=data.root"], "cannot read training.json"),
        (["--predict={folds}", "--files=data.root", "--labels=a"], "--labels is for training"),
        (["--predict={folds}", "--files=data.root,data.root"], "two files would have their scores in"),
        (["--predict={folds}", "--files=other.root"], "missing: npt, pt"),
        (["--predict={python}", "--files=data.root"], "made by Python code, which is not run unasked"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_leaves_nothing(args, says, bundles, data, tmp_path):
    write_tree(tmp_path / "other.root", {"event": np.arange(10), "met": np.arange(10.0)})
    python = tmp_path / "python"
    python.mkdir()
    for name in ("training.json", "specs.json", "model.onnx"):
        (python / name).write_bytes((bundles / "cut" / name).read_bytes())
    (python / "preproc.py").write_text("def preprocessing(events): return events")
    args = [arg.format(folds=bundles / "folds", python=python) for arg in args]
    done = run_script("workflow.py", *args, "--fout=mine", cwd=tmp_path)
    assert says in only_error_line(done)
    assert not list(tmp_path.glob("mine/*"))


def test_all_files_are_looked_at_before_the_first_is_scored(bundles, data, tmp_path):
    write_tree(tmp_path / "other.root", {"event": np.arange(10), "met": np.arange(10.0)})
    with pytest.raises(SpecsMismatch, match="missing: npt, pt"):
        list(score_files(bundles / "cut", [data[0], tmp_path / "other.root"], tmp_path / "scores"))
    assert not (tmp_path / "scores").exists()


def test_a_bundle_reads_files_with_the_same_rows_as_it_was_trained_on(bundles, data):
    """What `--predict` reads is what the reader gives for the bundle's specs."""
    with DataReader(data[0], specs=bundles / "folds" / "specs.json", normalise="none") as reader:
        columns = reader.columns
    assert columns == json.loads((bundles / "folds" / "training.json").read_text())["columns"]
