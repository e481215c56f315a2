"""What is counted of a sample, and specs without a fold, against the files read by other means."""

import json

import numpy as np
import pytest
from tinyroot import write_events, write_tree

from mlaas4hep.errors import ConfigError
from mlaas4hep.reader import DataReader
from mlaas4hep.stream import PARTS, DataGenerator
from mlaas4hep.stream.fold_specs import specs_by_fold
from mlaas4hep.stream.split import fold_of, identity_hash


def where(batches):
    """File and entry of each event, in order."""
    return [pair for batch in batches for pair in zip(batch.file.tolist(), batch.entry.tolist(), strict=True)]


@pytest.fixture
def two(tmp_path):
    """Two files of 900 and 300 events with weights, some of them negative."""
    paths = []
    for number, events in enumerate((900, 300)):
        weight = np.where(np.arange(events) % 7 == 0, -0.5, 1.5)
        paths.append(str(tmp_path / f"{number}.root"))
        write_events(paths[-1], events, seed=number, run=number + 1, w=weight)
    return paths


def test_the_composition_agrees_with_the_sums_over_the_batches(two):
    with DataGenerator(two, ["s", "b"], {"weight": "w", "workers": 2}) as generator:
        counted = generator.sample.composition
        for part, name in enumerate(PARTS):
            batches = list(generator.batches(name))
            y, weight = (np.concatenate([getattr(b, field) for b in batches]) for field in ("y", "weight"))
            assert counted.events[part].tolist() == [(y == 0).sum(), (y == 1).sum()]
            np.testing.assert_allclose(counted.weight[part], [weight[y == 0].sum(), weight[y == 1].sum()], rtol=1e-6)
            assert counted.totals[part] == len(y)
            assert counted.negative[part] == (weight < 0).sum() > 0
    assert counted.weights.sum() == pytest.approx(counted.weight.sum())


def test_composition_of_labels_counts_an_event_for_each_of_its_labels(tmp_path):
    flags = {"is_a": np.arange(60) % 2, "is_b": np.arange(60) % 3 == 0}
    write_events(tmp_path / "a.root", 60, **flags)
    with DataGenerator(str(tmp_path / "a.root"), "is_*", {"task": "multilabel"}) as generator:
        counted = generator.sample.composition
    assert counted.events.sum(axis=0).tolist() == [30, 20]
    assert counted.totals.sum() == 60


@pytest.mark.parametrize("weight", ["", "w"])
def test_balancing_by_weights_gives_classes_the_same_sum_in_training(two, weight):
    params = {"weight": weight, "balance": "weights"}
    with DataGenerator(two, ["s", "b"], params) as generator, DataGenerator(two, ["s", "b"]) as plain:
        sums = np.zeros(2)
        for batch in generator.batches("train"):
            sums += np.bincount(batch.y, batch.weight, 2)
        assert sums[0] == pytest.approx(sums[1], rel=1e-5)
        assert sums.sum() == pytest.approx(generator.sample.composition.weights[0], rel=1e-5)
        test = np.concatenate([batch.weight for batch in generator.batches("test", shuffle=False)])
        assert set(np.unique(test)) == ({1.0} if not weight else {-0.5, 1.5})
        assert generator.sample.composition.totals.tolist() == plain.sample.composition.totals.tolist()


def test_balancing_by_sampling_repeats_events_of_the_smaller_class_in_training_alone(two):
    with DataGenerator(two, ["s", "b"], {"balance": "sampling"}) as generator:
        y = np.concatenate([batch.y for batch in generator.batches("train")])
        test = where(generator.batches("test"))
        larger = generator.sample.composition.events[0].max()
    counts = np.bincount(y)
    assert counts[1] == larger  # each event of the larger class once
    assert counts[0] == pytest.approx(larger, abs=4 * np.sqrt(larger))
    assert len(test) == len(set(test))


def test_a_class_without_training_weight_cannot_be_balanced(tmp_path):
    for number in (0, 1):
        write_events(tmp_path / f"{number}.root", 200, w=np.full(200, 1.0 - 2 * number))
    files = [str(tmp_path / f"{number}.root") for number in (0, 1)]
    params = {"balance": "weights", "weight": "w"}
    with (
        DataGenerator(files, ["s", "b"], params) as generator,
        pytest.raises(ConfigError, match="cannot balance the classes"),
    ):
        next(generator.batches("train"))


def test_targets_are_numbers_with_the_moments_of_all_but_the_test_part(tmp_path):
    mass, width = np.random.default_rng(0).normal(125, 10, (2, 500))
    write_events(tmp_path / "a.root", 500, mass=mass, width=width)
    with DataGenerator(str(tmp_path / "a.root"), "mass,width", {"task": "regression"}) as generator:
        labels = generator.sample.labels
        assert generator.classes == ("mass", "width")
        assert not {"mass", "width"} & set(generator.columns)
        seen = np.concatenate([batch.entry for name in ("train", "valid") for batch in generator.batches(name)])
        np.testing.assert_allclose(labels.centre, [mass[seen].mean(), width[seen].mean()])
        np.testing.assert_allclose(labels.spread, [mass[seen].std(), width[seen].std()])
        for batch in generator.batches():
            np.testing.assert_allclose(batch.y, np.stack([mass, width], axis=1)[batch.entry], rtol=1e-6)


def test_a_target_of_each_file_is_a_number(two):
    with DataGenerator(two, "90,125.5", {"task": "regression"}) as generator:
        assert generator.sample.labels.centre == pytest.approx([(900 * 90 + 300 * 125.5) / 1200])
        for batch in generator.batches():
            np.testing.assert_array_equal(batch.y[:, 0], np.array([90, 125.5])[batch.file])


@pytest.mark.parametrize(
    ("labels", "params", "message"),
    [
        (None, {"task": "regression"}, "'task' is 'regression', which needs labels"),
        ("run", {"task": "regression"}, "target 'run' has the same value in all events"),
        ("met,mas", {"task": "regression"}, "branch 'mas' is not in"),
        ("met", {"task": "regression", "balance": "weights"}, "'balance' needs classes"),
        ("met", {}, "set 'task' to 'regression'"),
        ("kind", {"kfold": 1}, "'kfold' is 1; give 0 for a single model, or at least 2 folds"),
        (
            "kind",
            {"kfold": 3, "split": {"valid": "met>1", "test": "met>2"}},
            "'split' has expressions, which 'kfold' does not support",
        ),
    ],
)
def test_tasks_that_make_no_sense_are_refused(labels, params, message, tmp_path):
    write_events(tmp_path / "a.root", 50, kind=np.arange(50) % 2)
    with pytest.raises(ConfigError if "branch" not in message else Exception, match=message):
        DataGenerator(str(tmp_path / "a.root"), labels, params)


def test_every_event_is_in_the_test_part_of_one_fold(two):
    seen = []
    for fold in range(3):
        with DataGenerator(two, ["s", "b"], {"kfold": 3}, fold=fold) as generator:
            parts = {name: set(where(generator.batches(name))) for name in PARTS}
        assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 1200
        assert len(parts["valid"]) == pytest.approx(800 * 0.15 / 0.85, abs=50)
        seen += parts["test"]
    assert len(seen) == len(set(seen)) == 1200


def test_specs_of_a_fold_agree_with_a_file_without_its_events(two, tmp_path):
    with DataGenerator(two, ["s", "b"], {"kfold": 3, "exclude_branches": ["w"]}) as generator:
        found = specs_by_fold(generator.sample, 3)
    for fold in range(3):
        (tmp_path / f"fold{fold}").mkdir()
        merged = None
        for number, events in enumerate((900, 300)):
            ids = {
                "run": np.full(events, number + 1, np.uint64),
                "luminosityBlock": (np.arange(events) // 7).astype(np.uint64),
                "event": np.arange(events).astype(np.uint64),
            }
            kept = fold_of(identity_hash(ids, np.arange(events), ""), 3) != fold
            whole = write_events(tmp_path / "all.root", events, seed=number, run=number + 1)
            rest = {name: whole[name][kept] for name in ("met", "pt")}
            path = tmp_path / f"fold{fold}" / f"{number}.root"
            write_tree(path, {"event": np.arange(kept.sum()), **rest}, 3)
            specs = DataReader(path).specs
            merged = specs if merged is None else merged.merge(specs)
        assert json.dumps(found[fold].to_json()["branches"]) == json.dumps(merged.to_json()["branches"])
