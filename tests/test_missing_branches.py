"""Files that lack some of the branches: the common branches, or NaN for those that are missing."""

import json

import awkward as ak
import numpy as np
import pytest
import uproot
from scripts import run_forked
from tinyroot import write_events, write_tree

from mlaas4hep import DataGenerator, DataReader
from mlaas4hep.errors import BranchNotFound, SpecsMismatch
from mlaas4hep.reader import Specs

EVENTS = {"new": 400, "old": 300}
EXCLUDED = {"exclude_branches": ["n*"]}
"""The counters of lists."""


def columns_of(era, seed):
    """Columns of an era; the old one lacks a flat, a fixed-size and a jagged branch, and has another one."""
    events, rng = EVENTS[era], np.random.default_rng(seed)
    counts = rng.integers(0, 4, events)
    lists = {
        name: ak.unflatten(rng.exponential(30, counts.sum()).astype(np.float32), counts)
        for name in ("Jet_pt", "Jet_id")
    }
    more = {
        **lists,
        "hlt": rng.integers(0, 2, events).astype(bool),
        "cov": rng.normal(0, 1, (events, 3)).astype(np.float32),
    }
    if era == "old":
        more = {"Jet_pt": more["Jet_pt"], "trigger": rng.integers(0, 9, events).astype(np.int32)}
    return more


@pytest.fixture(scope="module")
def eras(tmp_path_factory):
    """Paths of the files of both eras, and their columns."""
    folder = tmp_path_factory.mktemp("eras")
    written = {}
    for number, era in enumerate(EVENTS):
        more = columns_of(era, number)
        written[era] = write_events(folder / f"{era}.root", EVENTS[era], seed=number, run=number, **more)
    return [str(folder / f"{era}.root") for era in EVENTS], written


def test_a_difference_is_an_error_by_default(eras):
    with pytest.raises(SpecsMismatch, match=r"do not have the same branches: .*'Jet_id' is not in .*old.root"):
        DataGenerator(eras[0], ["a", "b"])


@pytest.mark.parametrize("workers", [1, 2])
def test_common_branches(eras, capsys, workers):
    with DataGenerator(eras[0], ["a", "b"], {**EXCLUDED, "missing_branches": "common", "workers": workers}) as made:
        assert list(made.specs.branches) == ["met", "Jet_pt", "pt"]
        assert made.specs.missing == ("Jet_id", "cov", "hlt", "trigger")
        assert sum(len(batch) for batch in made) == 700
    note = capsys.readouterr().err
    assert "branches that some of the files lack are left out: 'Jet_id' (not in" in note
    assert "and 1 more" in note


@pytest.mark.parametrize("workers", [1, 2])
def test_missing_values_are_nan_and_masked(eras, workers):
    paths, written = eras
    with DataGenerator(
        paths, ["a", "b"], {**EXCLUDED, "missing_branches": "nan", "normalise": "none", "workers": workers}
    ) as made:
        specs, batches = made.specs, list(made.batches(shuffle=False))
        columns = made.columns
    assert list(specs.branches) == ["cov", "hlt", "met", "trigger", "Jet_id", "Jet_pt", "pt"]
    assert (specs.branches["hlt"].count, specs.branches["hlt"].nan) == (400, 300)
    assert (specs.branches["cov"].count, specs.branches["cov"].nan) == (1200, 900)
    assert (specs.branches["trigger"].count, specs.branches["trigger"].nan) == (300, 400)
    x, mask, file, entry = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("x", "mask", "file", "entry")
    )
    rows = {era: np.flatnonzero(file == number)[np.argsort(entry[file == number])] for number, era in enumerate(EVENTS)}
    hlt, trigger = columns.index("hlt"), columns.index("trigger")
    assert x[rows["new"], hlt].tolist() == written["new"]["hlt"].tolist()
    assert mask[rows["new"], hlt].all()
    assert not mask[rows["old"], hlt].any()
    assert x[rows["old"], trigger].tolist() == written["old"]["trigger"].tolist()
    assert not mask[rows["new"], trigger].any()
    ids = [columns.index(name) for name in columns if name.startswith(("Jet_id_", "cov_"))]
    assert not mask[np.ix_(rows["old"], ids)].any()
    truth = ak.to_numpy(ak.fill_none(ak.pad_none(written["new"]["Jet_id"], 3), np.nan))
    first = columns.index("Jet_id_0")
    np.testing.assert_array_equal(x[rows["new"], first : first + 3], np.nan_to_num(truth))


def test_objects_of_an_input_keep_their_number(eras):
    paths, written = eras
    inputs = {"jets": {"branches": ["Jet_pt", "Jet_id"], "length": 4}, "event": {"branches": ["met", "hlt"]}}
    params = {"missing_branches": "nan", "normalise": "none", "inputs": inputs, "shuffle": False}
    with DataGenerator(paths, ["a", "b"], params) as made:
        batch = next(batch for batch in made if (batch.file == 1).any())
    rows = np.flatnonzero(batch.file == 1)
    jets = written["old"]["Jet_pt"][batch.entry[rows]]
    assert batch.inputs["jets_mask"][rows].sum(axis=1).tolist() == ak.num(jets).tolist()
    assert batch.inputs["jets"][rows, 0, 0].tolist() == ak.fill_none(ak.firsts(jets), 0).tolist()
    assert not batch.inputs["jets"][rows, :, 1].any()


def test_common_branches_of_an_input(eras):
    inputs = {"jets": {"branches": ["Jet_*"], "length": 4}, "event": {"branches": ["met", "hlt"]}}
    with DataGenerator(eras[0], ["a", "b"], {"missing_branches": "common", "inputs": inputs}) as made:
        assert made.shapes == {"jets": (4, 1), "event": (1,)}


def test_selected_branches_need_only_be_in_one_file(eras):
    params = {"selected_branches": ["met", "hlt", "trigger"], "missing_branches": "nan"}
    with DataGenerator(eras[0], ["a", "b"], params) as made:
        assert made.columns == ["hlt", "met", "trigger"]
    with pytest.raises(BranchNotFound, match="branch 'htl' is not in any of the 2 files; closest: 'hlt'"):
        DataGenerator(eras[0], ["a", "b"], {**params, "selected_branches": ["met", "htl"]})


@pytest.mark.parametrize("mode", ["common", "nan"])
def test_a_branch_that_is_flat_in_one_file_and_a_list_in_another_is_an_error(tmp_path, mode):
    write_tree(tmp_path / "a.root", {"x": np.arange(5.0), "y": np.arange(5.0)})
    write_tree(tmp_path / "b.root", {"x": ak.Array([[1.0], [], [2.0, 3.0]]), "z": np.arange(3.0)})
    files = [tmp_path / "a.root", tmp_path / "b.root"]
    with pytest.raises(SpecsMismatch, match=r"'x' is flat in .*a.root, jagged in .*b.root"):
        DataGenerator(files, ["a", "b"], {"missing_branches": mode})


def test_types_may_differ_between_eras(tmp_path):
    write_tree(tmp_path / "v9.root", {"n": np.array([1, -2], np.int32), "x": np.arange(2.0)})
    write_tree(tmp_path / "v12.root", {"n": np.array([200, 255], np.uint8)})
    params = {"missing_branches": "nan", "normalise": "none", "cache": False}
    with DataGenerator([tmp_path / "v9.root", tmp_path / "v12.root"], ["a", "b"], params) as made:
        values = sorted(float(value) for batch in made for value in batch.x[:, made.columns.index("n")])
    assert values == [-2, 1, 200, 255]


def test_specs_remember_the_branches(eras, tmp_path):
    with DataGenerator(eras[0], ["a", "b"], {**EXCLUDED, "missing_branches": "nan"}) as made:
        made.specs.save(str(tmp_path / "specs.json"))
    specs = Specs.load(str(tmp_path / "specs.json"))
    assert specs.missing == ("Jet_id", "cov", "hlt", "trigger")
    for path in eras[0]:
        with DataReader(path, specs=specs) as reader:
            assert sum(len(chunk) for chunk in reader) == reader.num_entries
    write_tree(tmp_path / "other.root", {"hlt": np.arange(3.0), "pt": ak.Array([[1.0], [], [2.0]])})
    with pytest.raises(SpecsMismatch, match=r"missing: .*met"):
        DataReader(tmp_path / "other.root", specs=specs)


@pytest.mark.parametrize("model", ["ex_pytorch.py", "ex_xgboost.py"])
def test_a_model_trained_on_eras_scores_a_file_without_the_branch(tmp_path, model):
    rng = np.random.default_rng(5)
    for number, name in enumerate(("new_a", "new_b", "old_a", "old_b", "apply")):
        label, old = "b" in name, name.startswith(("old", "apply"))
        more = {f"x{index}": rng.normal(label * 0.3, 1, 400).astype(np.float32) for index in range(30)}
        if old:
            more.pop("x7")
        write_events(tmp_path / f"{name}.root", 400, seed=number, run=number, **more)
    samples = {name: {"files": [f"{name}.root"], "label": name[-1]} for name in ("new_a", "new_b", "old_a", "old_b")}
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    scores, read = {}, {}
    for mode in ("common", "nan"):
        (tmp_path / "params.json").write_text(
            json.dumps(
                {
                    "missing_branches": mode,
                    "epochs": 2,
                    "tfaas": False,
                    "trial_export": False,
                    "selected_branches": ["x*"],
                }
            )
        )
        arguments = ["--files=samples.json", f"--model={model}", "--params=params.json", f"--fout={mode}"]
        done = run_forked("workflow.py", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        read[mode] = json.loads((tmp_path / mode / "metrics.json").read_text())["yields"]
        training = json.loads((tmp_path / mode / "training.json").read_text())
        assert training["missing_branches"] == ["x7"]
        assert len(training["columns"]) == {"common": 29, "nan": 30}[mode]
        done = run_forked(
            "workflow.py", f"--predict={mode}", "--files=apply.root", f"--fout={mode}_scores", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        scores[mode] = uproot.open(tmp_path / f"{mode}_scores/apply.scores.root")["scores"]["score_b"].array(
            library="np"
        )
        assert np.isfinite(scores[mode]).all()
    assert read["common"] == read["nan"]
