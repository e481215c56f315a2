"""Permutation importance finds the branches that distinguish the classes."""

import awkward as ak
import numpy as np
import pytest
from tinyroot import write_tree

from mlaas4hep.backends.task import Task
from mlaas4hep.report.importance import RANKING_EVENTS, permutation_importance
from mlaas4hep.stream import Batch, DataGenerator

EVENTS = 3000
TASK = Task.classification(2)


class Sum:
    """A backend whose score is a given function of the inputs."""

    outputs = 1

    def __init__(self, score):
        self.score = score
        self.sizes = []

    def predict(self, inputs):
        self.sizes.append(len(next(iter(inputs.values()))))
        found = np.clip(self.score(inputs), -20, 20)
        return (1 / (1 + np.exp(-found)))[:, None].astype(np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """`signal` and `jet` depend on the label, `noise` and `other` do not; uproot adds lengths `njet` and `nother`."""
    rng = np.random.default_rng(3)
    label, counts = np.arange(EVENTS) % 2, rng.integers(1, 4, EVENTS)
    columns = {
        "event": np.arange(EVENTS).astype(np.uint64),
        "label": label,
        "signal": rng.normal(2 * label, 1),
        "noise": rng.normal(size=EVENTS),
        "jet": ak.unflatten(rng.normal(np.repeat(label, counts), 1), counts),
        "other": ak.unflatten(rng.normal(size=counts.sum()), counts),
    }
    path = tmp_path_factory.mktemp("importance") / "a.root"
    write_tree(path, columns)
    return str(path)


def every(generator):
    """All events of a sample as one batch."""
    return Batch.concatenate(list(generator))


def test_the_informative_branch_is_important_and_noise_is_not(path):
    with DataGenerator([path], "label", {"identifier": ["event"]}) as generator:
        events, columns = every(generator), generator.columns
        signal, noise = columns.index("signal"), columns.index("noise")
        backend = Sum(lambda inputs: 5 * inputs["x"][:, signal] + inputs["x"][:, noise])
        before = {name: values.copy() for name, values in events.inputs.items()}
        found = permutation_importance(backend, events, generator.sample.inputs, TASK, seed=1)
    assert all(np.array_equal(events.inputs[name], values) for name, values in before.items())
    assert (found.measure, found.tried, found.branches, found.events, found.repeats) == ("AUC", 6, 6, EVENTS, 5)
    assert max(backend.sizes) == RANKING_EVENTS
    drops = {drop.branch: drop for drop in found.drops}
    assert found.drops[0].branch == "signal"
    assert drops["signal"].value > 0.35
    assert abs(drops["noise"].value) < 4 * drops["noise"].uncertainty
    assert 0 < drops["noise"].uncertainty < 0.02
    assert drops["jet"].value == drops["other"].value == drops["jet"].uncertainty == 0


def test_all_columns_of_a_list_and_their_mask_are_permuted_together(path):
    with DataGenerator([path], "label", {"identifier": ["event"], "selected_branches": ["jet", "other"]}) as generator:
        events, columns = every(generator), generator.columns
        jets = [index for index, name in enumerate(columns) if name.startswith("jet")]

        def score(inputs):
            x, mask = inputs["x"][:, jets], inputs["mask"][:, jets]
            assert (x[~mask] == 0).all()
            return np.where(mask, x, 0).sum(axis=1)

        found = permutation_importance(Sum(score), events, generator.sample.inputs, TASK)
    assert [drop.branch for drop in found.drops] == ["jet", "other"]
    assert found.drops[0].value > 0.2
    assert found.drops[1].value == 0


def test_a_feature_of_objects_is_permuted_among_events_with_as_many_objects(path):
    params = {"identifier": ["event"], "inputs": {"jets": {"branches": ["jet", "other"], "length": 3},
                                                  "event": {"branches": ["noise"]}}}  # fmt: skip
    with DataGenerator([path], "label", params) as generator:
        events = every(generator)

        def score(inputs):
            x, mask = inputs["jets"], inputs["jets_mask"]
            assert (x[~mask] == 0).all()
            return x[:, :, 0].sum(axis=1)

        found = permutation_importance(Sum(score), events, generator.sample.inputs, TASK)
    drops = {drop.branch: drop.value for drop in found.drops}
    assert drops["jet"] > 0.2
    assert drops["other"] == drops["noise"] == 0


def test_the_loss_is_used_if_a_class_is_missing(path):
    with DataGenerator([path], "label", {"identifier": ["event"]}) as generator:
        events, signal = every(generator), generator.columns.index("signal")
        ones = events[events.y == 1]
        backend = Sum(lambda inputs: inputs["x"][:, signal])
        found = permutation_importance(backend, ones, generator.sample.inputs, TASK)
    assert found.measure == "loss"
    assert found.events == len(ones)


def test_a_slow_model_has_fewer_branches_and_two_repeats(path):
    with DataGenerator([path], "label", {"identifier": ["event"]}) as generator:
        events = every(generator)
        backend = Sum(lambda inputs: inputs["x"][:, 0])
        found = permutation_importance(backend, events, generator.sample.inputs, TASK, seconds=0)
    assert (found.tried, found.branches, found.events, found.repeats) == (1, 6, RANKING_EVENTS, 2)
