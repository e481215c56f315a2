"""Samples, models and scores that use columns of friend trees."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import uproot
from friend_files import EVENTS, INDEX, expected, write_files
from tinyroot import write_events, write_tree

from mlaas4hep import DataGenerator
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.samples.readers import MAX_IDLE
from mlaas4hep.scoring.files import score_files
from mlaas4hep.training import train_model

pytestmark = pytest.mark.usefixtures("without_trial_export")


def test_labels_weights_and_splits_use_columns_of_friends(tmp_path):
    write_events(tmp_path / "a.root", EVENTS, clusters=4)
    rng = np.random.default_rng(6)
    columns = {"kind": rng.integers(0, 3, EVENTS), "w": rng.random(EVENTS), "fold": rng.integers(0, 5, EVENTS)}
    write_tree(tmp_path / "f.root", columns, 3, "truth")
    params = {
        "friends": [f"{tmp_path}/f.root:truth"],
        "weight": "`truth.w` * 2",
        "split": {"valid": "`truth.fold` == 0", "test": "`truth.fold` == 1"},
        "cache": False,
    }
    with DataGenerator([tmp_path / "a.root"], "truth.kind", params) as generator:
        assert generator.classes == ("0", "1", "2")
        assert "truth.kind" not in generator.columns
        assert "truth.w" not in generator.columns
        for part, chosen in (("valid", columns["fold"] == 0), ("test", columns["fold"] == 1)):
            batches = list(generator.batches(part, shuffle=False))
            entry = np.concatenate([batch.entry for batch in batches])
            assert entry.tolist() == np.flatnonzero(chosen).tolist()
            assert np.concatenate([batch.y for batch in batches]).tolist() == columns["kind"][chosen].tolist()
            np.testing.assert_allclose(
                np.concatenate([batch.weight for batch in batches]), 2 * columns["w"][chosen], rtol=1e-6
            )


def test_files_may_differ_in_whether_entries_are_missing(tmp_path):
    """A column is an integer in one file, and a float with NaN in the other; batches have the numbers of both."""
    friends, columns, main = write_files(tmp_path)
    other = write_events(tmp_path / "b.root", 300, run=2, seed=9)
    both = {name: np.concatenate([columns[name], other[name]]) for name in INDEX}
    both["njet"] = np.concatenate([columns["njet"], np.arange(300, dtype=np.int32)])
    write_tree(tmp_path / "f.root", both, 5, "scores")
    params = {"friends": friends, "selected_branches": ["sc.njet"], "normalise": "none", "cache": False}
    with DataGenerator([tmp_path / f"{name}.root" for name in "ab"], ["a", "b"], params) as generator:
        found = {}
        for batch in generator.batches():
            keys = zip(batch.file.tolist(), batch.entry.tolist(), strict=True)
            found.update(zip(keys, zip(batch.x[:, 0].tolist(), batch.mask[:, 0].tolist(), strict=True), strict=True))
    truth = {(0, entry): (njet or 0, njet is not None) for entry, njet in enumerate(expected(main, columns, "njet"))}
    assert found == {**truth, **{(1, entry): (entry, True) for entry in range(300)}}


def test_each_sample_of_a_samples_file_may_have_friends_of_its_own(tmp_path):
    samples = {}
    for number, name in enumerate("ab"):
        write_tree(tmp_path / f"{name}.root", {"x": np.arange(50.0) + 50 * number, "event": np.arange(50)})
        write_tree(tmp_path / f"{name}_more.root", {"y": np.arange(50.0) * (number + 2)}, 1, name)
        friend = {"file": f"{tmp_path}/{{stem}}_more.root", "tree": name}
        samples[name] = {"files": [str(tmp_path / f"{name}.root")], "friends": {"more": friend}}
    params = {"selected_branches": ["x", "more.y"], "normalise": "none", "cache": False}
    with DataGenerator(samples, params=params) as generator:
        assert generator.columns == ["more.y", "x"]
        rows = {tuple(row) for batch in generator.batches() for row in batch.x.tolist()}
    assert rows == {(2.0 * i, float(i)) for i in range(50)} | {(3.0 * i, 50.0 + i) for i in range(50)}


def test_a_main_file_that_is_named_twice_is_found_whatever_its_friends(tmp_path):
    write_tree(tmp_path / "m.root", {"x": np.arange(5.0)})
    samples = {}
    for name in "ab":
        write_tree(tmp_path / f"{name}.root", {"y": np.arange(5.0)}, 1, "more")
        samples[name] = {"files": [str(tmp_path / "m.root")], "friends": [f"{tmp_path}/{name}.root:more"]}
    with pytest.raises(ConfigError, match=r"are the same file, so its events would count twice"):
        DataGenerator(samples)


def test_events_stay_in_their_part_when_a_friend_is_added(tmp_path):
    """Without identifiers, the part depends on the main file alone."""
    write_tree(tmp_path / "a.root", {"x": np.arange(500.0), "kind": np.arange(500) % 2}, 2)
    write_tree(tmp_path / "f.root", {"y": np.arange(500.0)}, 3, "f")

    def parts(friends):
        with DataGenerator([tmp_path / "a.root"], "kind", {"friends": friends, "cache": False}) as generator:
            batches = list(generator.batches(shuffle=False))
            return {e: p for batch in batches for e, p in zip(batch.entry.tolist(), batch.part.tolist(), strict=True)}

    assert parts([f"{tmp_path}/f.root:f"]) == parts([])
    assert set(parts([]).values()) == {0, 1, 2}


def test_a_friend_that_changes_is_read_again_and_its_place_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setenv("MLAAS4HEP_CACHE", str(tmp_path / "cache"))
    write_tree(tmp_path / "a.root", {"x": np.arange(100.0), "kind": np.arange(100) % 2})

    def epoch(file):
        params = {"friends": {"f": f"{file}:f"}, "selected_branches": ["f.y"], "normalise": "none"}
        with DataGenerator([tmp_path / "a.root"], "kind", params) as generator:
            values = np.concatenate([batch.x[:, 0] for batch in generator.batches(shuffle=False)])
            return values.tolist(), generator.sample.key

    write_tree(tmp_path / "f.root", {"y": np.arange(100.0)}, 1, "f")
    values, key = epoch(tmp_path / "f.root")
    assert values == list(range(100))
    (tmp_path / "f.root").rename(tmp_path / "g.root")
    assert epoch(tmp_path / "g.root") == (values, key)
    y = np.append(np.arange(99.0)[::-1], 99)  # the same statistics
    write_tree(tmp_path / "g.root", {"y": y}, 1, "f")
    changed, other = epoch(tmp_path / "g.root")
    assert changed == y.tolist()
    assert other != key


def test_few_files_stay_open_however_many_friends_there_are(tmp_path):
    def count_open():
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return sum(os.path.realpath(link).startswith(str(tmp_path)) for link in links)

    trees = {f"t{number}": {"x": np.arange(20.0)} for number in range(9)}
    for index in range(12):
        with uproot.recreate(tmp_path / f"{index}.root") as file:
            for name, columns in {"Events": {"x": np.arange(20.0)}, **trees}.items():
                file.mktree(name, {"x": "f8"}).extend(columns)
    params = {"friends": [f":{name}" for name in trees], "cache": False}
    files = [tmp_path / f"{index}.root" for index in range(12)]
    with DataGenerator(files, [str(index % 2) for index in range(12)], params) as generator:
        rows = sum(len(batch) for batch in generator.batches())
        assert 0 < count_open() <= MAX_IDLE
    assert rows == 240


ESTIMATOR = """from sklearn.ensemble import HistGradientBoostingClassifier
def model(idim): return HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5, early_stopping=False)
"""


def test_a_bundle_scores_new_files_with_their_friends(tmp_path):
    """Only the friend tells the classes apart; the scores are those of the graph for rows made with NumPy."""
    (tmp_path / "model.py").write_text(ESTIMATOR)
    rng = np.random.default_rng(8)
    for name, shift in (("a", -1), ("b", 1), ("new", 0)):
        main = write_events(tmp_path / f"{name}.root", 400, seed=shift + 1, run=shift + 2, clusters=3)
        rows = rng.permutation(400)[:380]
        mass = (rng.normal(size=380) + 2 * shift).astype(np.float32)
        new = {**{key: main[key][rows] for key in INDEX}, "mass": mass}
        (tmp_path / "more").mkdir(exist_ok=True)
        write_tree(tmp_path / "more" / f"{name}.extra.root", new, 2, "extra")
    friend = {"file": f"{tmp_path}/more/{{stem}}.extra.root", "tree": "extra", "index": INDEX}
    params = Params.parse(
        {"friends": {"ex": friend}, "selected_branches": ["met", "ex.mass"], "tfaas": False, "trial_export": False}
    )
    bundle, files = tmp_path / "bundle", [tmp_path / "a.root", tmp_path / "b.root"]
    trained = train_model(files, ["a", "b"], str(tmp_path / "model.py"), params, fout=bundle)
    assert trained.test.metrics()["accuracy"] > 0.9
    training = json.loads((bundle / "training.json").read_text())
    assert training["friend_features"] == {"ex": ["ex.mass"]}
    assert training["params"]["friends"]["ex"]["tree"] == "extra"
    assert training["columns"] == ["ex.mass", "met"]

    values = dict(zip(new["event"].tolist(), new["mass"], strict=True))
    matrix = np.array(
        [[values.get(event, np.nan), met] for event, met in zip(main["event"].tolist(), main["met"], strict=True)]
    )
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"))
    truth = session.run(["scores"], {"inputs": matrix.astype(np.float32)})[0][:, -1]
    assert np.isnan(matrix[:, 0]).sum() == 20

    def scores(params):
        ((path, events, _),) = score_files(bundle, [tmp_path / "new.root"], tmp_path / "scores", params=params)
        assert events == 400
        with uproot.open(path) as file:
            return file["scores"]["score_b"].array(library="np")

    np.testing.assert_allclose(scores(None), truth, atol=1e-6)
    (tmp_path / "more").rename(tmp_path / "moved")
    with pytest.raises(FileUnreadable, match=r"friend 'ex' \(tree 'extra'\) of .*new\.root: file not found: .*extra"):
        scores(None)
    elsewhere = {"ex": {**friend, "file": f"{tmp_path}/moved/{{stem}}.extra.root"}}
    np.testing.assert_allclose(scores(Params.parse({"friends": elsewhere})), truth, atol=1e-6)


def test_the_scores_of_a_model_are_features_of_the_next(tmp_path):
    """The friend is the file that --predict writes."""
    (tmp_path / "model.py").write_text(ESTIMATOR)
    for name, shift in (("a", 0), ("b", 30)):
        columns = write_events(tmp_path / f"{name}.root", 300, seed=shift, run=shift + 1)
        write_tree(tmp_path / f"{name}.root", {**columns, "met": columns["met"] + np.float32(shift)}, 3)
    files = [tmp_path / "a.root", tmp_path / "b.root"]
    train_model(files, ["a", "b"], str(tmp_path / "model.py"), Params(tfaas=False), fout=tmp_path / "first")
    list(score_files(tmp_path / "first", files, tmp_path / "scores"))
    params = Params.parse(
        {"friends": [f"{tmp_path}/scores/{{stem}}.scores.root:scores"], "tfaas": False, "trial_export": False}
    )
    train_model(files, ["a", "b"], str(tmp_path / "model.py"), params, fout=tmp_path / "second")
    training = json.loads((tmp_path / "second" / "training.json").read_text())
    assert training["friend_features"] == {"scores": ["scores.passes_cuts", "scores.score_b"]}
