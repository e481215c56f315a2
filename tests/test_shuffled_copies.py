"""Tasks for events without labels: copies of events with independent parts, and telling files apart."""

import awkward as ak
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from tinyroot import write_events, write_tree

from mlaas4hep.backends.metrics import auc_uncertainty
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import DataGenerator
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.shuffled_copies import add_shuffled_copies
from mlaas4hep.training import train_model

COLUMNS = np.arange(3)


@pytest.fixture(scope="module")
def events():
    """3000 events of two equal columns and a third that is there for half of them."""
    count = 3000
    number = np.arange(count)
    x = np.stack([number, number, np.where(number % 2, 0, number + 0.5)], axis=1).astype(np.float32)
    mask = np.stack([number >= 0, number >= 0, number % 2 == 0], axis=1)
    return Batch(
        {"x": x, "mask": mask}, np.ones(count, np.int64), np.ones(count, np.float32), {"event": number},
        np.zeros(count, np.int8), np.zeros(count, np.int32), number,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(events):
    return add_shuffled_copies(events, np.random.default_rng(1), COLUMNS)


def test_every_event_is_yielded_once_unchanged_with_one_shuffled_copy(events, both):
    assert len(both) == 6000
    real = both[both.y == 1]
    real = real[np.argsort(real.entry)]
    for name in ("x", "mask", "entry"):
        np.testing.assert_array_equal(getattr(real, name), getattr(events, name))
    copies = both[both.y == 0]
    assert set(copies.entry.tolist()) == {-1}
    assert set(copies.ids["event"].tolist()) == {0}


def test_copies_have_the_same_columns_but_no_relation_between_them(events, both):
    copies = both[both.y == 0]
    for column in range(3):
        np.testing.assert_array_equal(np.sort(copies.x[:, column]), np.sort(events.x[:, column]))
    assert abs(np.corrcoef(copies.x[:, 0], copies.x[:, 1])[0, 1]) < 0.08


def test_value_and_mask_are_moved_together(both):
    assert both.mask[:, 2].sum() == 3000
    assert (both.x[~both.mask] == 0).all()
    assert (both.x[:, 2][both.mask[:, 2]] % 1 == 0.5).all()


def test_events_and_copies_are_mixed(both):
    assert 0.45 < both.y[:1000].mean() < 0.55


def test_the_same_seed_gives_the_same_copies(events, both):
    again = add_shuffled_copies(events, np.random.default_rng(1), COLUMNS)
    np.testing.assert_array_equal(again.x, both.x)


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    """Two independent collections, of which jets are sorted by pT and eta depends on pT, and an independent number."""
    rng, events = np.random.default_rng(4), 6000
    branches = {"event": np.arange(events), "met": rng.exponential(30, events)}
    for name, mean in (("Jet", 2.0), ("Muon", 1.0)):
        counts = rng.poisson(mean, events)
        pt = ak.unflatten(rng.exponential(40, counts.sum()), counts)
        pt = ak.sort(pt, ascending=False)
        branches |= {f"{name}_pt": pt, f"{name}_eta": np.exp(-pt / 40) + 0.0, f"n{name}": counts}
    path = tmp_path_factory.mktemp("collections") / "a.root"
    write_tree(path, {name: values for name, values in branches.items() if name[0] != "n"}, clusters=2)
    return path


def test_the_objects_of_a_collection_and_their_number_stay_together(collections):
    params = {"normalise": "none", "batch_size": 12_000, "chunk_size": 6000, "cache": False}
    with DataGenerator([collections], None, params) as generator:
        slots = {slot.branch: slice(slot.first, slot.first + slot.width) for slot in generator.layout.slots}
        units = generator.sample.shuffling_units
        (batch,) = generator
    by_branch = {name: set(units[columns].tolist()) for name, columns in slots.items()}
    assert by_branch["Jet_pt"] == by_branch["Jet_eta"] == by_branch["nJet_pt"] == by_branch["nJet_eta"]
    assert len({frozenset(by_branch[name]) for name in ("Jet_pt", "Muon_pt", "met")}) == 3
    copies = batch[batch.y == 0]
    pt, there = copies.x[:, slots["Jet_pt"]], copies.mask[:, slots["Jet_pt"]]
    np.testing.assert_array_equal(there.sum(axis=1), copies.x[:, slots["nJet_pt"]][:, 0])
    assert (np.diff(pt, axis=1) <= 0).all()
    np.testing.assert_allclose(copies.x[:, slots["Jet_eta"]][there], np.exp(-pt[there] / 40), rtol=1e-5)


def test_copies_of_events_with_independent_parts_cannot_be_told_from_them(collections):
    params = {"batch_size": 12_000, "chunk_size": 6000, "split": [0.5, 0.1, 0.4], "cache": False}
    with DataGenerator([collections], None, params) as generator:
        (train,), (test,) = (list(generator.batches(part)) for part in ("train", "test"))
    used = train.mask.sum(axis=0) > 20  # scikit-learn refuses columns without values
    x, unseen = (np.where(batch.mask, batch.x, np.nan)[:, used] for batch in (train, test))
    some = np.random.default_rng(0).uniform(size=len(train)) < 0.8  # no first cut separates exact permutations
    model = HistGradientBoostingClassifier(max_iter=30, random_state=0).fit(x[some], train.y[some])
    area = roc_auc_score(test.y, model.predict_proba(unseen)[:, 1])
    assert abs(area - 0.5) < 4 * auc_uncertainty(0.5, len(test) / 2, len(test) / 2)


def test_files_without_labels_are_told_apart(tmp_path, without_plots):
    (tmp_path / "linear.py").write_text("from torch import nn\ndef model(idim): return nn.Linear(idim, 1)\n")
    for number, name in enumerate(("2024", "2023")):
        write_events(tmp_path / f"{name}.root", 800, seed=number, run=number)
    files = [tmp_path / "2024.root", tmp_path / "2023.root"]
    params = Params(labels="files", epochs=1, tfaas=False)
    trained = train_model(files, None, str(tmp_path / "linear.py"), params, fout=tmp_path / "bundle")
    assert trained.source.classes == ("2024", "2023")
    count = [int((trained.test.y == label).sum()) for label in (0, 1)]
    error = np.sqrt((sum(count) + 1) / (12 * count[0] * count[1]))  # of the Mann-Whitney statistic
    area = trained.metrics()["test"]["auc"]
    report = (tmp_path / "bundle" / "report.html").read_text()
    assert f"the AUC is 0.5 ± {error:.4f} for this test set" in report
    assert f"The AUC of {area:.4f} differs from this by {(area - 0.5) / error:+.1f} standard errors" in report
    with DataGenerator(files, ["a", "b"], params) as generator:  # labels take precedence
        assert generator.classes == ("a", "b")
    with pytest.raises(ConfigError, match="there is only one file; give two files, or set --labels"):
        DataGenerator(files[:1], None, params)
