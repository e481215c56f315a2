"""Scoring of files with a bundle, compared with direct evaluation of its ONNX graph."""

import json
import shutil

import awkward as ak
import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet
import pytest
import uproot
from scripts import only_error_line, run_forked
from tinyroot import write_events, write_tree

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, SpecsMismatch
from mlaas4hep.reader import DataReader
from mlaas4hep.scoring.files import score_files
from mlaas4hep.stream.split import fold_of, identity_hash
from mlaas4hep.training import train_model

CUT = {"cut": "met > 10"}
MODEL = "from torch import nn\ndef model(idim, outputs=1): return nn.Linear(idim, outputs)\n"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, without_plots, without_trial_export):
    """Write three bundles for the same events: with a cut, with folds and unusual class names, for regression."""
    folder = tmp_path_factory.mktemp("bundles")
    (folder / "linear.py").write_text(MODEL)
    (folder / "cut.json").write_text(json.dumps(CUT))
    for number in range(2):
        write_events(folder / f"{number}.root", 400, seed=number, run=number + 1)
    files, model = [folder / "0.root", folder / "1.root"], str(folder / "linear.py")
    names = ["ggH", "V B/F"]
    train_model(
        files, names, model, Params(epochs=1, tfaas=False), fout=folder / "cut", preproc=str(folder / "cut.json")
    )
    train_model(files, names, model, Params(epochs=1, kfold=3, tfaas=False), fout=folder / "folds")
    train_model(files, ["90", "125"], model, Params(epochs=1, task="regression", tfaas=False), fout=folder / "mass")
    return folder


@pytest.fixture
def data(tmp_path):
    """Write files without labels that were not trained on, with longer lists than in training."""
    columns = write_events(tmp_path / "data.root", 1234, seed=7, run=9, clusters=5)
    lengths = np.arange(1234) % 9
    columns["pt"] = ak.unflatten(np.random.default_rng(1).exponential(20, lengths.sum()).astype("f4"), lengths)
    write_tree(tmp_path / "data.root", columns, clusters=5)
    return tmp_path / "data.root", columns


def by_hand(graph, columns, width):
    """Evaluate a graph on rows built without the library: sorted flat branches, then padded lists."""
    pt = np.asarray(ak.fill_none(ak.pad_none(columns["pt"], width, clip=True), np.nan), np.float32)
    counts = np.asarray(ak.num(columns["pt"]), np.float32)
    rows = np.column_stack([np.asarray(columns["met"]), counts, pt]).astype(np.float32)
    return onnxruntime.InferenceSession(str(graph)).run(None, {"inputs": rows})[0]


@pytest.mark.parametrize("folds", [0, 2])
def test_scoring_truncates_lists_as_training_did(folds, bundles, data, tmp_path):
    path, columns = data
    files, model = [bundles / "0.root", bundles / "1.root"], str(bundles / "linear.py")
    params = Params(epochs=1, max_length="p*=2", kfold=folds, cache=False, tfaas=False)
    train_model(files, ["a", "b"], model, params, fout=tmp_path / "short")
    ((written, _, lost),) = score_files(tmp_path / "short", [path], tmp_path / "scores")
    beyond = np.maximum(np.asarray(ak.num(columns["pt"])) - 2, 0).sum()
    assert lost == [f"{beyond} values of 'pt' were dropped: vectors keep 2 numbers of each list"]
    with uproot.open(written) as file:
        found = file["scores"]["score_b"].array(library="np")
    graphs = [tmp_path / "short" / f"folds/{fold}/model.onnx" for fold in range(folds)]
    graphs = graphs or [tmp_path / "short" / "model.onnx"]
    possible = np.stack([by_hand(graph, columns, 2)[:, -1] for graph in graphs])
    np.testing.assert_allclose(np.abs(possible - found).min(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize("kind", ["root", "rntuple", "parquet"])
@pytest.mark.parametrize("workers", [1, 3])
def test_scores_keep_the_order_of_events_and_flag_those_that_fail_the_cuts(bundles, data, kind, workers, tmp_path):
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
    assert set(found) == {"run", "luminosityBlock", "event", "score_ggH", "passes_cuts", "part"}
    for name in ("run", "luminosityBlock", "event"):
        np.testing.assert_array_equal(found[name], columns[name])
    passes = columns["met"] > 10
    np.testing.assert_array_equal(found["passes_cuts"], passes)
    width = len(json.loads((bundles / "cut" / "training.json").read_text())["columns"]) - 2
    beyond = np.maximum(np.asarray(ak.num(columns["pt"])) - width, 0)[passes].sum()
    assert lost == [f"{beyond} values of 'pt' were dropped: vectors keep {width} numbers of each list"]
    truth = by_hand(bundles / "cut" / "model.onnx", columns, width)[:, 0]
    np.testing.assert_allclose(found["score_ggH"][passes], truth[passes], atol=1e-6)
    assert np.isnan(found["score_ggH"][~passes]).all()


def test_with_folds_each_event_is_scored_by_the_model_not_trained_on_it(bundles, tmp_path):
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


def test_classes_with_the_same_sanitised_name_get_a_suffix(data, tmp_path):
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


def test_the_script_prints_the_paths_of_the_scores(bundles, data, tmp_path):
    done = run_forked("workflow.py", f"--predict={bundles / 'folds'}", "--files=data.root", "--fout=mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Scores: mine/data.scores.root (1234 events)\n"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["data.scores.root"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--predict=nowhere", "--files=data.root"], "cannot read nowhere/training.json"),
        (["--predict=.", "--files=data.root"], "cannot read training.json"),
        (
            ["--predict={folds}", "--files=data.root", "--labels=a"],
            "--labels is an option of training, not of --predict",
        ),
        (["--predict={folds}", "--files=data.root,data.root"], "the scores of two files would be written to"),
        (["--predict={folds}", "--files=other.root"], "missing: npt, pt"),
        (
            ["--predict={python}", "--files=data.root"],
            "which is only run if --preproc names it",
        ),
    ],
)
def test_a_scoring_error_is_printed_in_one_line_and_leaves_no_files(args, says, bundles, data, tmp_path):
    write_tree(tmp_path / "other.root", {"event": np.arange(10), "met": np.arange(10.0)})
    python = tmp_path / "python"
    python.mkdir()
    for name in ("training.json", "specs.json", "model.onnx"):
        (python / name).write_bytes((bundles / "cut" / name).read_bytes())
    (python / "preproc.py").write_text("def preprocessing(events): return events")
    args = [arg.format(folds=bundles / "folds", python=python) for arg in args]
    done = run_forked("workflow.py", *args, "--fout=mine", cwd=tmp_path)
    assert says in only_error_line(done)
    assert not list(tmp_path.glob("mine/*"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("outputs", "1"),
        ("outputs", None),
        ("classes", [1, 2]),
        ("classes", ["only one"]),
        ("columns", "met"),
        ("identifier", [["event"]]),
        ("folds", 10**9),
        ("folds", "3"),
        ("task", "ranking"),
        ("params", []),
        ("params", {"epochs": "five"}),
    ],
)
def test_an_invalid_training_json_is_reported(key, value, bundles, data, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles / "cut", bundle)
    training = json.loads((bundle / "training.json").read_text())
    (bundle / "training.json").write_text(json.dumps({**training, key: value}))
    with pytest.raises(ConfigError, match=f"{key}|training"):
        list(score_files(bundle, [data[0]], tmp_path / "scores"))


def test_a_graph_with_other_inputs_is_reported(bundles, data, tmp_path):
    shutil.copytree(bundles / "cut", tmp_path / "bundle")
    graph = onnx.load(tmp_path / "bundle" / "model.onnx")
    graph.graph.input[0].name = "other"
    for node in graph.graph.node:
        node.input[:] = ["other" if name == "inputs" else name for name in node.input]
    onnx.save(graph, tmp_path / "bundle" / "model.onnx")
    with pytest.raises(ConfigError, match=r"the model of .* cannot score events"):
        list(score_files(tmp_path / "bundle", [data[0]], tmp_path / "scores"))


def test_all_files_are_checked_before_the_first_is_scored(bundles, data, tmp_path):
    write_tree(tmp_path / "other.root", {"event": np.arange(10), "met": np.arange(10.0)})
    with pytest.raises(SpecsMismatch, match="missing: npt, pt"):
        list(score_files(bundles / "cut", [data[0], tmp_path / "other.root"], tmp_path / "scores"))
    assert not (tmp_path / "scores").exists()


def test_scoring_reads_the_same_rows_as_training(bundles, data):
    """`--predict` reads the rows that the reader yields for the bundle's specs."""
    with DataReader(data[0], specs=bundles / "folds" / "specs.json", normalise="none") as reader:
        columns = reader.columns
    assert columns == json.loads((bundles / "folds" / "training.json").read_text())["columns"]


MEAN_OF_LIST = """
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x, mask):
        lists = mask[:, 1:]  # met comes first
        return self.linear((x[:, :2] * lists.sum(1, keepdim=True)) / lists.sum(1, keepdim=True))

def model(idim):
    return Network()
"""


@pytest.fixture(scope="module")
def undefined_bundle(tmp_path_factory, without_plots, without_trial_export):
    """Write a bundle whose scores are NaN for empty lists, which the events of its training do not have."""
    folder = tmp_path_factory.mktemp("undefined")
    (folder / "mean.py").write_text(MEAN_OF_LIST)
    for number in range(2):
        full = ak.unflatten(np.random.default_rng(number).exponential(20, 900).astype("f4"), np.full(300, 3))
        write_events(folder / f"{number}.root", 300, seed=number, run=number + 1, pt=full)
    params = Params(epochs=1, tfaas=False, exclude_branches=["npt"])
    files = [folder / "0.root", folder / "1.root"]
    train_model(files, ["a", "b"], str(folder / "mean.py"), params, fout=folder / "bundle")
    return folder / "bundle"


def test_scores_that_are_not_finite_are_counted_and_an_error(undefined_bundle, data, tmp_path):
    path, columns = data
    args = ["--predict", undefined_bundle, "--files", path, "--fout", tmp_path / "scores"]
    empty = np.flatnonzero(np.asarray(ak.num(columns["pt"])) == 0)
    ids = [f"{name} {columns[name][empty[0]]}" for name in ("run", "luminosityBlock", "event")]
    says = f"{len(empty)} of 1234 events of {path} are not finite; the first is entry {empty[0]} ({', '.join(ids)})"
    failed = run_forked("workflow.py", *args, cwd=tmp_path)
    assert failed.returncode == 1
    assert says in only_error_line(failed)
    assert "--allow-nan" in only_error_line(failed)
    assert not list((tmp_path / "scores").glob("*"))
    written = run_forked("workflow.py", *args, "--allow-nan", cwd=tmp_path)
    assert written.returncode == 0
    assert says in written.stderr
    with uproot.open(tmp_path / "scores/data.scores.root") as file:
        scores = file["scores"]["score_b"].array(library="np")
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(scores)), empty)


TRAINING_CUT = {"cut": "kind < 2", "training_only": True}
DEFINED = {"w": "abs(genWeight)", "ht": "sum(pt)", "half": "mass / 2", "truth": "genWeight + kind"}


@pytest.fixture(scope="module")
def data_bundle(tmp_path_factory, without_plots):
    """Train on two files with labels and weights; return the folder, with data that have neither in `data.root`."""
    folder = tmp_path_factory.mktemp("needs")
    (folder / "linear.py").write_text(MODEL)
    (folder / "preproc.json").write_text(
        json.dumps(
            {"define": DEFINED, "cuts": ["met > 10", TRAINING_CUT, {"cut": "truth > -9", "training_only": True}]}
        )
    )
    rng = np.random.default_rng(3)
    for number in range(2):
        branches = {"kind": rng.integers(0, 3, 400), "genWeight": rng.choice([-1.0, 1.0], 400)}
        write_events(
            folder / f"{number}.root", 400, seed=number, run=number + 1, mass=rng.uniform(50, 90, 400), **branches
        )
    write_events(folder / "data.root", 300, seed=7, run=9, mass=rng.uniform(50, 90, 300))
    params = Params(
        epochs=1,
        weight="w",
        exclude_branches=["genWeight", "mass", "half", "truth"],
        observers=["run", "mass", "half", "ht"],
        nevts=350,
        tfaas=False,
    )
    files = [folder / "0.root", folder / "1.root"]
    train_model(
        files, "kind", str(folder / "linear.py"), params, fout=folder / "bundle", preproc=str(folder / "preproc.json")
    )
    return folder


def test_data_without_labels_weights_and_branches_of_training_cuts_are_scored(data_bundle, tmp_path):
    ((path, _, _),) = score_files(data_bundle / "bundle", [data_bundle / "data.root"], tmp_path)
    with uproot.open(data_bundle / "data.root") as file:
        data = {name: file["Events"][name].array(library="np") for name in ("run", "met", "mass")}
        ht = ak.to_numpy(ak.sum(ak.values_astype(file["Events"]["pt"].array(), "f8"), axis=1))
    with uproot.open(path) as file:
        found = file["scores"].arrays(library="np")
    names = {"run", "luminosityBlock", "event", "mass", "half", "ht", "score_1", "passes_cuts", "part"}
    assert set(found) == names
    passes = data["met"] > 10
    np.testing.assert_array_equal(found["passes_cuts"], passes)
    np.testing.assert_array_equal(np.isfinite(found["score_1"]), passes)
    np.testing.assert_array_equal(found["mass"], data["mass"])
    for name, values in (("half", data["mass"] / 2), ("ht", ht)):
        np.testing.assert_allclose(found[name], np.where(passes, values, np.nan), rtol=1e-12)
    assert (found["part"] == -1).all()


def test_the_part_of_an_event_is_that_of_the_training(data_bundle, tmp_path):
    """A file is recognised under another name; events beyond `nevts`, and those that fail a cut, were not used."""
    shutil.copy(data_bundle / "1.root", tmp_path / "renamed.root")
    ((path, _, _),) = score_files(
        data_bundle / "bundle", [tmp_path / "renamed.root"], tmp_path, params=Params(observers=[])
    )
    with uproot.open(path) as file:
        found = file["scores"].arrays(library="np")
    assert "mass" not in found
    ids = {name: found[name] for name in ("run", "luminosityBlock", "event")}
    share = identity_hash(ids, np.arange(400), "") / 2.0**64
    part = np.where(share < 0.7, 0, np.where(share < 0.85, 1, 2))
    used = found["passes_cuts"] & (np.arange(400) < 350)
    np.testing.assert_array_equal(found["part"], np.where(used, part, -1))
    assert set(found["part"]) == {-1, 0, 1, 2}


def test_files_of_a_sample_of_the_training_keep_the_part_of_the_sample(bundles, tmp_path):
    """A sample is recognised by its name; the part that an expression selects needs branches of known files alone."""
    names = {"a": {"label": "s"}, "b": {"label": "b"}, "late": {"label": "b", "part": "test"}}
    for number, (name, sample) in enumerate(names.items()):
        write_events(tmp_path / f"{name}.root", 200, seed=number, run=number, turn=np.arange(200) % 4)
        sample["files"] = str(tmp_path / f"{name}.root")
    split = {"valid": "turn == 1", "test": "turn == 2"}
    params = Params(epochs=1, split=split, exclude_branches=["turn"], tfaas=False)
    trained = train_model(names, None, str(bundles / "linear.py"), params, fout=tmp_path / "bundle")
    assert len(trained.fits[0].test.y) == 50 + 50 + 200
    again = {
        name: {"files": str(write_again(tmp_path / f"{name}_2.root", number, **more))}
        for number, (name, more) in enumerate(
            {"a": {"turn": np.arange(200) % 4}, "late": {"turn": np.zeros(200, int)}, "new": {}}.items(), 7
        )
    }
    written = score_files(tmp_path / "bundle", again, tmp_path / "scores")
    parts = {
        path.name.partition("_")[0]: uproot.open(path)["scores"]["part"].array(library="np") for path, _, _ in written
    }
    np.testing.assert_array_equal(parts["a"], np.array([0, 1, 2, 0])[np.arange(200) % 4])
    assert set(parts["late"]) == {2}
    assert set(parts["new"]) == {-1}


def write_again(path, seed, **more):
    write_events(path, 200, seed=seed, run=seed, **more)
    return path


def test_with_folds_all_events_of_the_training_count_as_tested(bundles, data, tmp_path):
    written = list(score_files(bundles / "folds", [bundles / "0.root", data[0]], tmp_path))
    parts = [uproot.open(path)["scores"]["part"].array(library="np") for path, _, _ in written]
    assert [set(part) for part in parts] == [{2}, {-1}]


def test_observers_are_columns_of_friends_too_and_missing_ones_are_an_error(bundles, data, tmp_path):
    columns = {"b tag": np.arange(1234.0), "flag": np.arange(1234) % 2 == 0}
    write_tree(tmp_path / "friend.root", columns, name="Extra")
    friends = {"extra": f"{tmp_path / 'friend.root'}:Extra"}
    params = Params.parse({"observers": ["extra.b tag", "extra.flag", "npt"], "friends": friends})
    for kind in ("root", "rntuple"):
        ((path, _, _),) = score_files(bundles / "folds", [data[0]], tmp_path / kind, kind, params)
        with uproot.open(path) as file:
            found = file["scores"].arrays()
        np.testing.assert_array_equal(found["extra_b_tag"], columns["b tag"])
        np.testing.assert_array_equal(found["extra_flag"], columns["flag"])
        np.testing.assert_array_equal(found["npt"], ak.num(data[1]["pt"]))
    for observers, says in ((["mett"], "branch 'mett' is not in .*closest: 'met'"), (["pt"], "is jagged")):
        with pytest.raises(MLaaS4HEPError, match=says):
            list(score_files(bundles / "folds", [data[0]], tmp_path / "none", params=Params(observers=observers)))
    assert not (tmp_path / "none").exists()


def test_without_identifiers_the_part_depends_on_file_and_entry(bundles, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "new"):
        write_tree(
            tmp_path / f"{name}.root", {"met": rng.exponential(30, 300), "ht": rng.exponential(90, 300)}, clusters=2
        )
    files = [tmp_path / "a.root", tmp_path / "b.root"]
    train_model(files, ["a", "b"], str(bundles / "linear.py"), Params(epochs=1, tfaas=False), fout=tmp_path / "bundle")
    scored = [tmp_path / "a.root", tmp_path / "new.root"]
    parts = [
        uproot.open(path)["scores"]["part"].array(library="np")
        for path, _, _ in score_files(tmp_path / "bundle", scored, tmp_path)
    ]
    with DataReader(tmp_path / "a.root") as reader:
        share = identity_hash({}, np.arange(300), reader.identity) / 2.0**64
    np.testing.assert_array_equal(parts[0], np.where(share < 0.7, 0, np.where(share < 0.85, 1, 2)))
    assert set(parts[1]) == {-1}


def test_the_part_is_left_out_if_the_bundle_does_not_know_its_files(bundles, data, tmp_path):
    shutil.copytree(bundles / "cut", tmp_path / "bundle")
    training = json.loads((tmp_path / "bundle" / "training.json").read_text())
    for file in training["files"]:
        del file["identity"]
    (tmp_path / "bundle" / "training.json").write_text(json.dumps(training))
    ((path, _, _),) = score_files(tmp_path / "bundle", [data[0]], tmp_path / "scores")
    with uproot.open(path) as file:
        assert set(file["scores"].keys()) == {"run", "luminosityBlock", "event", "score_ggH", "passes_cuts"}
