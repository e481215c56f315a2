"""Samples: weights, cuts, trees and labels by sample, against uproot and NumPy alone."""

import json

import awkward as ak
import numpy as np
import pytest
import uproot
from tinyroot import write_events

from mlaas4hep import DataGenerator
from mlaas4hep.errors import BranchNotFound, ConfigError, MLaaS4HEPError, TreeNotFound
from mlaas4hep.stream.split import identity_hash

LUMI = 3.5


def write_sample(path, events, seed, *, weights=True, runs=2):
    """Write events with generator weights, some of them negative, and a tree `Runs` with their sums."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(1, 0.7, events)
    columns = write_events(path, events, seed=seed, run=seed, **({"genWeight": weight} if weights else {}))
    if weights:
        with uproot.update(path) as file:
            file["Runs"] = {"genEventSumw": 5 * weight.sum() * np.full(runs, 1 / runs), "count": np.arange(runs)}
    return {**columns, "genWeight": weight if weights else np.ones(events)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="module")
def truth(folder):
    """Columns of every file by name."""
    sizes = {"sig0": 300, "sig1": 200, "bkg": 900}
    files = {
        name: write_sample(folder / f"{name}.root", size, index) for index, (name, size) in enumerate(sizes.items())
    }
    files["data"] = write_sample(folder / "data.root", 150, 9, weights=False)
    return files


def generator(folder, samples, params=None, **more):
    return DataGenerator(
        {name: {**one, "files": [str(folder / file) for file in one["files"]]} for name, one in samples.items()},
        params={"lumi": LUMI, "cache": False, **(params or {})},
        **more,
    )


def yields(made):
    """Events, sum of weights and error by sample, of all classes together."""
    return {one.sample: (one.events, one.weighted, one.error) for one in made.sample.yields if one.sample}


def expected(weights, scale=1.0):
    return (
        len(weights),
        pytest.approx(scale * weights.sum(), rel=1e-6),
        pytest.approx(scale * np.sqrt((weights**2).sum()), rel=1e-6),
    )


def test_weights_are_scaled_to_cross_section_and_luminosity(folder, truth):
    signal = {"files": ["sig0.root", "sig1.root"], "xsec": 2.5, "sumw": "Runs:genEventSumw", "cut": "met > 20"}
    samples = {
        "signal": {**signal, "weight": "genWeight * 2"},
        "background": {"files": ["bkg.root"], "xsec": 40.0, "sumw": 1234.5, "weight": "genWeight"},
        "data": {"files": ["data.root"], "is_data": True},
    }
    with generator(folder, samples) as made:
        found = yields(made)
        batches = list(made)
    signal = {name: np.concatenate([truth["sig0"][name], truth["sig1"][name]]) for name in ("met", "genWeight")}
    passing = 2 * signal["genWeight"][signal["met"] > 20]
    scale = LUMI * 1000 * 2.5 / (5 * signal["genWeight"].sum())
    assert found["signal"] == expected(passing, scale)
    assert found["background"] == expected(truth["bkg"]["genWeight"], LUMI * 1000 * 40 / 1234.5)
    assert found["data"] == expected(np.ones(150))
    assert made.classes == ("background", "data", "signal")
    weights = np.concatenate([batch.weight for batch in batches])
    files = np.concatenate([batch.file for batch in batches])
    assert np.sort(weights[files < 2]) == pytest.approx(np.sort(passing * scale), rel=1e-6)
    assert "genWeight" not in made.columns


@pytest.mark.parametrize(
    ("sumw", "of"),
    [
        ("", lambda weight, met: weight),
        ("genWeight * met", lambda weight, met: weight * met),
        ("1", lambda weight, met: np.ones(len(weight))),
        ("Runs:genEventSumw + 0 * count", lambda weight, met: 5 * weight),
    ],
)
def test_sums_of_weights_count_events_that_fail_the_cuts(folder, truth, tmp_path, sumw, of):
    sample = {
        "files": ["bkg.root"],
        "xsec": 7.0,
        "weight": "genWeight",
        "cut": "met > 30",
        **({"sumw": sumw} if sumw else {}),
    }
    (tmp_path / "preproc.json").write_text('{"cut": "met < 60"}')
    with generator(folder, {"b": sample, "s": {"files": ["sig0.root"]}}, preproc=tmp_path / "preproc.json") as made:
        found = yields(made)["b"]
    weight, met = truth["bkg"]["genWeight"], truth["bkg"]["met"]
    passing = weight[(met > 30) & (met < 60)]
    assert found == expected(passing, LUMI * 1000 * 7 / of(weight, met).sum())


def test_a_sum_of_weights_counts_the_events_that_are_read(folder, truth):
    weight = truth["bkg"]["genWeight"]
    for sumw, total in (("genWeight", weight[:300].sum()), ("Runs:genEventSumw", 5 * weight.sum() * 300 / 900)):
        sample = {"files": ["bkg.root"], "xsec": 7.0, "weight": "genWeight", "sumw": sumw, "nevts": 300}
        with generator(folder, {"b": sample, "s": {"files": ["sig0.root"]}}) as made:
            assert yields(made)["b"] == expected(weight[:300], LUMI * 1000 * 7 / total)
            assert yields(made)["s"][0] == 300


def test_two_trees_of_a_file_are_two_samples(tmp_path):
    rng = np.random.default_rng(3)
    values = {"signal": rng.normal(1, 1, 120).astype(np.float32), "background": rng.normal(0, 1, 80).astype(np.float32)}
    with uproot.recreate(tmp_path / "both.root") as file:
        for name, x in values.items():
            file[name] = {"x": x}
    samples = {name: {"files": {str(tmp_path / "both.root"): name}} for name in values}
    with DataGenerator(samples, params={"normalise": "none", "cache": False}) as made:
        batches = list(made)
        assert {name: row[0] for name, row in yields(made).items()} == {"signal": 120, "background": 80}
    x, y = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("x", "y"))
    for label, name in enumerate(made.classes):
        assert np.sort(x[y == label, 0]).tolist() == np.sort(values[name]).tolist()


def write_skim(path, events, total):
    """Write a tree of events with `x`, and a tree `Runs` whose `sumw` adds up to a total."""
    with uproot.recreate(path) as file:
        for name, count in events.items():
            file.mktree(name, {"x": np.float32}).extend({"x": np.arange(count, dtype=np.float32)})
        file.mktree("Runs", {"sumw": np.float64}).extend({"sumw": np.array([total / 4, 3 * total / 4])})


def scale_of(samples, params=None):
    with DataGenerator(samples, params={"lumi": 10.0, "cache": False, **(params or {})}) as made:
        return made.sample.scales[0]


def test_a_skim_without_events_counts_in_the_sum_of_weights(tmp_path):
    write_skim(tmp_path / "none.root", {"Events": 0}, 5000)
    write_skim(tmp_path / "some.root", {"Events": 100}, 3000)
    write_skim(tmp_path / "other.root", {"Events": 30}, 1)
    files = [str(tmp_path / "none.root"), str(tmp_path / "some.root")]
    samples = {"s": {"files": files, "xsec": 1.0, "sumw": "Runs:sumw"}, "b": {"files": str(tmp_path / "other.root")}}
    assert scale_of(samples) == pytest.approx(10 * 1000 / 8000)
    assert scale_of(samples, {"nevts": 50}) == pytest.approx(10 * 1000 / (5000 + 1500))


def test_two_trees_of_a_sample_share_a_sum_of_weights(tmp_path):
    write_skim(tmp_path / "two.root", {"muons": 60, "electrons": 40}, 1000)
    write_skim(tmp_path / "other.root", {"Events": 30}, 1)
    files = [f"{tmp_path}/two.root:muons", f"{tmp_path}/two.root:electrons"]
    samples = {"s": {"files": files, "xsec": 1.0, "sumw": "Runs:sumw"}, "b": {"files": str(tmp_path / "other.root")}}
    assert scale_of(samples) == pytest.approx(10 * 1000 / 1000)
    assert scale_of(samples, {"nevts": 20}) == pytest.approx(10 * 1000 / (1000 * 40 / 100))


def test_a_sum_of_weights_in_another_tree_needs_a_format_with_trees(tmp_path):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    parquet.write_table(pyarrow.table({"x": np.arange(30.0), "w": np.ones(30)}), tmp_path / "a.parquet")
    write_skim(tmp_path / "other.root", {"Events": 30}, 1)
    sample = {"files": str(tmp_path / "a.parquet"), "xsec": 1.0, "sumw": "Runs:w"}
    samples = {"s": sample, "b": {"files": str(tmp_path / "other.root")}}
    with pytest.raises(MLaaS4HEPError, match=r"sample 's': .*a\.parquet.*correct 'sumw'"):
        scale_of(samples, {"selected_branches": ["x"]})


def test_a_weight_that_the_preprocessing_defines_needs_a_sum_of_weights(folder, truth, tmp_path):
    (tmp_path / "preproc.json").write_text('{"define": {"w": "genWeight * 2"}}')
    samples = {"s": {"files": ["sig0.root"], "xsec": 1.0, "weight": "w"}, "b": {"files": ["bkg.root"]}}
    with pytest.raises(BranchNotFound, match="without 'sumw', the weight is summed over all events before the preproc"):
        generator(folder, samples, preproc=tmp_path / "preproc.json")
    samples["s"]["sumw"] = "genWeight * 2"
    with generator(folder, samples, preproc=tmp_path / "preproc.json") as made:
        weight = 2 * truth["sig0"]["genWeight"]
        assert yields(made)["s"] == expected(weight, LUMI * 1000 / weight.sum())


def test_a_sample_without_events_has_one_yield(folder, truth):
    samples = {
        "s": {"files": ["sig0.root"], "cut": "met < 0", "label": "x"},
        "b": {"files": ["bkg.root"], "label": "y"},
    }
    with generator(folder, samples) as made:
        rows = [(one.sample, one.label, one.events) for one in made.sample.yields]
    assert rows == [("s", "x", 0), ("b", "y", 900), ("", "x", 0), ("", "y", 900)]


def test_an_unused_cross_section_is_pointed_out(folder, truth, capsys):
    samples = {"s": {"files": ["sig0.root"], "metadata": {"xsec": 2.0, "year": 2018}}, "b": {"files": ["bkg.root"]}}
    generator(folder, samples).close()
    assert "note: sample 's': 'xsec' in its metadata is not used; move it out of" in capsys.readouterr().err


def test_weights_that_float32_cannot_hold_are_refused(folder, truth):
    samples = {"s": {"files": ["sig0.root"], "xsec": 1e-45, "sumw": 1.0}, "b": {"files": ["bkg.root"]}}
    with generator(folder, samples) as made, pytest.raises(ConfigError, match="change 'weight' in the samples file"):
        list(made)


def test_samples_share_a_label(folder, truth):
    samples = {
        "a": {"files": ["sig0.root"], "label": "signal"},
        "b": {"files": ["sig1.root"], "label": "signal"},
        "c": {"files": ["bkg.root"], "label": "background"},
    }
    with generator(folder, samples) as made:
        assert made.classes == ("background", "signal")
        assert [(one.sample, one.label, one.events) for one in made.sample.yields] == [
            ("a", "signal", 300), ("b", "signal", 200), ("c", "background", 900),
            ("", "background", 900), ("", "signal", 500),
        ]  # fmt: skip


def test_labels_of_a_sample_may_be_targets_of_a_regression(folder, truth):
    samples = {"light": {"files": ["sig0.root"], "label": 125}, "heavy": {"files": ["bkg.root"], "label": 300.5}}
    with generator(folder, samples, {"task": "regression"}) as made:
        assert sorted({float(value) for batch in made for value in batch.y[:, 0]}) == [125.0, 300.5]


def test_one_sample_has_no_labels(folder, truth):
    with generator(folder, {"only": {"files": ["sig0.root"]}}) as made:
        assert made.classes == ("shuffled", "event")
        assert [(one.sample, one.label, one.events) for one in made.sample.yields] == [("only", "", 300)]


def test_names_are_relative_to_the_samples_file(folder, truth, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "s.json").write_text('{"s": {"files": "sig*.root"}, "b": {"files": {"bkg.root": "Events"}}}')
    with DataGenerator(str(folder / "s.json"), params={"cache": False}) as made:
        assert [one.events for one in made.sample.yields if one.sample] == [500, 900]


@pytest.mark.parametrize(
    ("change", "params", "kind", "reason"),
    [
        ({"xsec": 2.0}, {"lumi": None}, ConfigError, "sample 'b' has a cross section, but there is no 'lumi'"),
        ({"xsec": 2.0, "sumw": "Runs:sumw"}, {}, BranchNotFound, "b': sumw: branch 'sumw' is not in tree 'Runs'"),
        ({"xsec": 2.0, "sumw": "Lumi:sumw"}, {}, TreeNotFound, "sample 'b': tree 'Lumi' not found in .*correct 'sumw'"),
        ({"xsec": 2.0, "sumw": "genW"}, {}, BranchNotFound, "sample 'b': sumw: branch 'genW' is not in .*'genWeight'"),
        ({"xsec": 2.0, "sumw": "met - met"}, {}, ConfigError, "sample 'b': the sum of weights 'met - met' is 0"),
        ({"xsec": 2.0, "sumw": "genWeight / 0"}, {}, ConfigError, "sample 'b': sumw: 'genWeight / 0' is"),
        ({"weight": "genW"}, {}, BranchNotFound, "sample 'b': weight: branch 'genW' is not in tree 'Events' of .*bkg"),
        ({"cut": "mett > 3"}, {}, BranchNotFound, "sample 'b': cut: branch 'mett' is not in tree .*closest: 'met'"),
        ({"cut": "met >"}, {}, ConfigError, "sample 'b': cut: expression 'met >'"),
        ({"cut": "met + 1"}, {}, ConfigError, "sample 'b': cut: .*condition"),
        ({"cut": "1 > 0"}, {}, ConfigError, "sample 'b': cut: expression '1 > 0' uses no branch"),
        ({"branch": "Evts"}, {}, TreeNotFound, "sample 'b': tree 'Evts' not found in .*bkg.root"),
        ({"files": ["nothing*.root"]}, {}, MLaaS4HEPError, "sample 'b': no file matches .*nothing"),
        ({"files": ["gone.root"]}, {}, MLaaS4HEPError, "sample 'b': file not found: .*gone.root"),
    ],
)  # fmt: skip
def test_an_error_names_sample_file_and_branch(folder, truth, change, params, kind, reason):
    samples = {"s": {"files": ["sig0.root"]}, "b": {"files": ["bkg.root"], **change}}
    with pytest.raises(kind, match=reason) as caught, generator(folder, samples, params):
        pass
    assert "\n" not in str(caught.value)


def test_a_file_that_is_named_twice_is_an_error(folder, truth, tmp_path):
    copy = tmp_path / "renamed.root"
    copy.write_bytes((folder / "sig0.root").read_bytes())
    samples = {"s": {"files": ["sig0.root"]}, "b": {"files": [str(copy)]}}
    with pytest.raises(
        ConfigError, match=r"sig0.root of sample 's' and .*renamed.root of sample 'b' are the same file"
    ):
        generator(folder, samples)
    with pytest.raises(ConfigError, match=r"sig0.root and .*renamed.root are the same file"):
        DataGenerator([folder / "sig0.root", copy])


def test_a_cut_of_a_sample_may_use_new_branches_and_lists(folder, truth, tmp_path):
    (tmp_path / "preproc.json").write_text('{"define": {"ht": "sum(pt)"}}')
    samples = {"s": {"files": ["sig0.root"], "cut": "ht > 50 & any(pt > 30)"}, "b": {"files": ["bkg.root"]}}
    with generator(folder, samples, preproc=tmp_path / "preproc.json") as made:
        found = yields(made)
    pt = ak.from_iter(truth["sig0"]["pt"].tolist())
    assert found["s"][0] == int((ak.sum(pt, axis=1) > 50).to_numpy()[ak.any(pt > 30, axis=1).to_numpy()].sum())
    assert found["b"][0] == 900


def test_the_key_of_a_sample_covers_its_parameters(folder, truth):
    base = {"s": {"files": ["sig0.root"], "xsec": 1.0}, "b": {"files": ["bkg.root"]}}
    changes = [
        base,
        {**base, "s": {**base["s"], "xsec": 2.0}},
        {**base, "s": {**base["s"], "cut": "met > -1"}},
        {**base, "s": {**base["s"], "weight": "genWeight"}},
        {**base, "s": {**base["s"], "label": "z"}},
        {**base, "s": {**base["s"], "nevts": 299}},
        {**base, "s": {**base["s"], "part": "train"}},
    ]
    keys = []
    for samples in changes:
        with generator(folder, samples) as made:
            keys.append(made.sample.key)
    assert len(set(keys)) == len(changes)
    with generator(folder, json.loads(json.dumps(base))) as made:
        assert made.sample.key == keys[0]


def test_a_sample_may_name_the_part_of_its_events(folder, truth):
    samples = {
        "signal": {"files": ["bkg.root"], "label": "s"},
        "late": {"files": ["sig1.root"], "label": "b", "part": "valid"},
        "data": {"files": ["data.root"], "label": "b", "part": "test"},
    }
    with generator(folder, samples, {"exclude_branches": ["genWeight"]}) as made:
        files = [np.concatenate([batch.file for batch in made.batches(part)]) for part in ("train", "valid", "test")]
    ids = {name: truth["bkg"][name] for name in ("run", "luminosityBlock", "event")}
    share = identity_hash(ids, np.arange(900), "") / 2.0**64
    split = np.histogram(share, [0, 0.7, 0.85, 1])[0]
    found = [np.bincount(part, minlength=3).tolist() for part in files]
    assert found == [[split[0], 0, 0], [split[1], 200, 0], [split[2], 0, 150]]
    with pytest.raises(ConfigError, match="sample 'late' has the part 'valid', but 'kfold' divides all events"):
        generator(folder, samples, {"kfold": 2})
