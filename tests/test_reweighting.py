"""Reweighting of the training set, compared with weaver-core and with NumPy."""

import json

import numpy as np
import pytest
from tinyroot import write_events

from mlaas4hep.config import Params, ReweightParams
from mlaas4hep.errors import ConfigError, MLaaS4HEPError
from mlaas4hep.stream import DataGenerator
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.reweighting import Binning, TrainingHistograms, largest_factor, reweighting_factors
from mlaas4hep.stream.split import identity_hash
from mlaas4hep.training import train_model
from mlaas4hep.training.destination import is_bundle

PT, ETA = [100, 200, 300, 500, 1000], [0, 0.5, 1.3, 2.5]
WEAVER = {
    ("flat", False): [
        [[0.1661538, 0.1405917, 0.1923887], [0.3046154, 0.1923887, 0.5538461],
         [0.2436923, 0.2284615, 0.3046154], [0.2150226, 0.1827692, 0.5538461]],
        [[0.41, 0.369, 0.615], [0.369, 0.41, 0.9], [0.369, 0.738, 0.41], [0.46125, 0.41, 0.9]],
    ],
    ("flat", True): [
        [[0.2868125, 0.198882, 0.371342], [0.3620168, 0.2626393, 0.7921484],
         [0.3557676, 0.3438392, 0.4768946], [0.3257743, 0.2979944, 0.7921484]],
        [[0.6617398, 0.6172754, 0.954605], [0.6131976, 0.6529381, 1.151152],
         [0.5385658, 0.9877709, 0.7956339], [0.6922427, 0.6268722, 1.151152]],
    ],
    ("ref", False): [
        [[0.2881858] * 3] * 4,
        [[0.7073954, 0.7524115, 0.9], [0.3472669, 0.6109325, 0.4340836],
         [0.4340836, 0.9, 0.3858521], [0.6149517, 0.6430868, 0.5787781]],
    ],
    ("ref", True): [
        [[0.3718882] * 3] * 4,
        [[0.8529521, 1.050861, 0.9503533], [0.6261916, 0.919068, 0.5070909],
         [0.5596387, 1.050861, 0.6167744], [0.7855557, 0.7776896, 0.7908341]],
    ],
}  # fmt: skip
"""Factors of weaver-core 0.5.3 by `reweight_method` and use of event weights, for class, bin of pt and bin of |eta|.

They are the output of `WeightMaker.make_weights` for the events of `weaver_events`, with `reweight_threshold` 10, equal
`class_weights`, and the background as the first class.
"""


def weaver_events():
    """Class, variables and weight of the events for which WEAVER has the factors."""
    rng = np.random.default_rng(20)
    kind = (np.arange(400) % 4 == 0).astype(int)
    pt = rng.exponential(250, 400) + 150 * kind
    eta = rng.normal(0, 1.2, 400)
    return kind, pt, eta, rng.uniform(0.5, 2, 400)


@pytest.mark.parametrize(("method", "weighted"), WEAVER)
def test_factors_are_those_of_weaver(method, weighted):
    kind, pt, eta, weight = weaver_events()
    params = ReweightParams.parse(
        {"by": {"pt": PT, "abs(eta)": ETA}, "to": {"flat": "flat", "ref": "b"}[method], "max": None, "threshold": 10}
    )
    binning = Binning.of(params)
    bins = binning.index(dict(zip(binning.derived, (pt, np.abs(eta)), strict=True)), 400)
    assert (bins == -1).sum() == 118  # the events to which weaver-core gives weight 0
    zeros, weights = np.zeros(400, np.int8), weight if weighted else np.ones(400)
    histograms = TrainingHistograms(binning.size, 2)
    histograms.add(Batch({}, kind, weights, {}, zeros, zeros, zeros, bins))
    assert histograms.outside.sum() == 118
    factors = reweighting_factors(histograms.sums(), weights.sum(), params, ["b", "s"])
    truth = np.reshape(WEAVER[method, weighted], (2, 12))
    np.testing.assert_allclose(factors / factors[0, 0], truth / truth[0, 0], rtol=1e-6)


def test_bins_include_their_lower_edges_and_the_last_upper_edge():
    binning = Binning({"a": [0, 1, 3], "b": [0, 10]})
    a = np.array([-0.1, 0, 1, 2.9, 3, 3.1, np.nan, 1])
    b = np.array([5, 0, 10, 5, 5, 5, 5, 11])
    found = binning.index(dict(zip(binning.derived, (a, b), strict=True)), 8)
    assert found.tolist() == [-1, 0, 1, 1, 1, -1, -1, -1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files, in which `pt` of the signal is larger, and weights have both signs."""
    folder, truth = tmp_path_factory.mktemp("files"), {}
    for number, (name, events) in enumerate({"s": 1500, "b": 3500}.items()):
        rng = np.random.default_rng(number)
        more = {"jet": rng.exponential(100 + 100 * (name == "s"), events), "gen": rng.choice([-0.5, 1.0, 2.0], events)}
        truth[name] = write_events(folder / f"{name}.root", events, seed=number, run=number + 1, clusters=4, **more)
    return [str(folder / "s.root"), str(folder / "b.root")], truth


BY = {"jet": [0, 100, 200, 400, 800], "abs(met - 30)": [0, 15, 60]}


def generator(files, reweight, **params):
    params = {"weight": "gen", "cache": False, **params} | (
        {"reweight": {"by": BY, **reweight}} if reweight is not None else {}
    )
    return DataGenerator(files[0], ["s", "b"], params)


def columns_of(truth, name):
    """Part, bin numbers (-1: outside) and weight of the events of a class, computed with NumPy."""
    one = truth[name]
    ids = {key: one[key] for key in ("run", "luminosityBlock", "event")}
    share = identity_hash(ids, np.arange(len(one["met"])), "") / 2.0**64
    values = [one["jet"], np.abs(one["met"].astype("f8") - 30)]
    inside = np.all(
        [(each >= edges[0]) & (each <= edges[-1]) for each, edges in zip(values, BY.values(), strict=True)], 0
    )
    return np.where(share < 0.7, "train", np.where(share < 0.85, "valid", "test")), values, inside, one["gen"]


def collected(made, part, **more):
    """Variables, y and weights of the events of a part."""
    batches = list(made.batches(part, **more))
    return {
        key: np.concatenate([b.ids["event"] if key == "event" else getattr(b, key) for b in batches])
        for key in ("event", "y", "weight", "bin")
    }


def histogram(truth, name, events, weights):
    _, values, _, _ = columns_of(truth, name)
    return np.histogram2d(values[0][events], values[1][events], list(BY.values()), weights=weights)[0]


def test_flat_distributions_in_training_and_the_same_factors_in_validation(files):
    with generator(files, {"max": None}) as made:
        train, valid, test = (collected(made, part) for part in ("train", "valid", "test"))
        plain = collected(made, "train", balanced=False)
    total, factors = plain["weight"].sum(), {}
    for label, name in enumerate(("b", "s")):
        part, _, inside, gen = columns_of(files[1], name)
        events = train["event"][train["y"] == label].astype(int)
        assert sorted(events) == np.flatnonzero(part == "train").tolist()  # no event is lost
        after = histogram(files[1], name, events, train["weight"][train["y"] == label])
        np.testing.assert_allclose(after, total / 2 / after.size, rtol=1e-5)  # the bins of both classes
        before = histogram(files[1], name, events, gen[events])
        factors[label] = total / 2 / after.size / before
        outside = ~inside[events]
        assert outside.any()
        assert (train["weight"][train["y"] == label][outside] == 0).all()
    expected = np.zeros(len(valid["y"]))
    for label, name in enumerate(("b", "s")):
        chosen = valid["y"] == label
        _, _, inside, gen = columns_of(files[1], name)
        events = valid["event"][chosen].astype(int)
        flat = np.where(inside[events], factors[label].ravel()[valid["bin"][chosen]], 0)
        expected[chosen] = gen[events] * flat
    np.testing.assert_allclose(valid["weight"], expected, rtol=1e-5)
    gens = [columns_of(files[1], name)[3] for name in ("b", "s")]
    assert all(
        weight == gens[y][event]
        for y, event, weight in zip(test["y"], test["event"].astype(int), test["weight"], strict=True)
    )


def test_the_distribution_of_a_class_and_given_histograms_are_targets(files):
    with generator(files, {"to": "s", "max": None}) as made:
        found = made.sample.reweighting
        after = found.sums * found.factors
    np.testing.assert_allclose(after[0], after[1], rtol=1e-9)
    np.testing.assert_allclose(found.factors[1], found.factors[1, 0], rtol=1e-12)
    given = {"b": [[1, 2], [3, 4], [5, 6], [7, 8]], "s": [[1, 1], [0, 0], [1, 1], [2, 2]]}
    with generator(files, {"to": given, "max": None}) as made:
        found, total = made.sample.reweighting, made.composition.weights[0]
    expected = np.reshape([given["b"], given["s"]], (2, 8)) / 44
    np.testing.assert_allclose(found.sums * found.factors, total * expected, rtol=1e-9)


def test_the_largest_factor_is_limited_relative_to_the_mean_of_the_class(files):
    with generator(files, {"max": 1.5}) as made:
        found = made.sample.reweighting
    with generator(files, {"max": None}) as made:
        free = made.sample.reweighting
    for factors, sums, without in zip(found.factors, found.sums, free.factors, strict=True):
        limit = np.inf
        for _ in range(200):  # relative to the mean of the limited factors
            limit = 1.5 * (sums * np.minimum(without, limit)).sum() / sums.sum()
        limited = np.minimum(without, limit)
        assert 0 < (limited < without).sum() < len(limited)
        np.testing.assert_allclose(factors / factors[0], limited / limited[0], rtol=1e-9)
    np.testing.assert_allclose(*(found.sums * found.factors).sum(axis=1), rtol=1e-9)


def test_the_largest_factor_is_relative_to_the_mean_of_limited_factors():
    rng = np.random.default_rng(0)
    for most in (1.001, 2, 3, 10, 1e6):
        for bins in (1, 2, 7, 50):
            factors, content = rng.pareto(0.5, bins) * rng.integers(0, 2, bins) + 0.0, rng.exponential(1, bins)
            factors[0] = 1.0
            limit = largest_factor(factors, content, most)
            mean = np.average(np.minimum(factors, limit), weights=content)
            assert limit == pytest.approx(most * mean, rel=1e-9) or limit >= factors.max()
            assert np.minimum(factors, limit).max() <= most * mean * (1 + 1e-9)
    # one full bin and nine with single events: without the limit, these have factor 100
    limit = largest_factor(np.append(np.full(9, 100.0), 1.0), np.append(np.full(9, 1.0), 991.0), 3)
    assert limit == pytest.approx(3 * (991 + 9 * limit) / 1000)


def test_one_bin_is_class_balancing(files):
    found = []
    for reweight, balance in (({"by": {"jet": [0, 1e9]}}, "none"), (None, "weights")):
        with generator(files, reweight, balance=balance) as made:
            found.append(np.concatenate([batch.weight for batch in made.batches("train")]))
            assert made.mean_training_weight() == pytest.approx(
                made.composition.weights[0] / made.composition.totals[0]
            )
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_factors_depend_neither_on_workers_nor_chunks_and_are_those_of_shards_cache_and_folds(files):
    def exact(**params):
        with generator(files, {}, **params) as made:
            return made.sample.reweighting.factors.tobytes()

    first = exact()
    assert exact(workers=3, chunk_size=77, batch_size=13, shuffle=False) == first
    with generator(files, {}, cache=True, workers=2) as made:
        whole = collected(made, "train")
        again, shards = (
            collected(made, "train", epoch=1),
            [collected(made, "train", shard=(rank, 2)) for rank in (0, 1)],
        )
    by_event = dict(zip(zip(whole["y"], whole["event"], strict=True), whole["weight"], strict=True))
    others = {name: np.concatenate([shards[0][name], shards[1][name]]) for name in whole}
    for one in (again, others):
        assert dict(zip(zip(one["y"], one["event"], strict=True), one["weight"], strict=True)) == by_event
    with generator(files, {}, kfold=3) as made:
        fold = made.for_fold(1, made.specs)
        sums = [one.sample.reweighting.sums for one in (made, fold)]
        trained = collected(fold, "train", balanced=False)
    assert not np.allclose(sums[0], sums[1])
    inside = trained["bin"] >= 0
    truth = np.zeros((2, 8))
    np.add.at(truth, (trained["y"][inside], trained["bin"][inside]), trained["weight"][inside].astype("f8"))
    np.testing.assert_allclose(sums[1], truth, rtol=1e-12)


def test_sampling_gives_the_same_distributions_on_average(files):
    with generator(files, {"method": "sampling"}, weight="", batch_size=1000) as made:
        epochs = [collected(made, "train", epoch=epoch) for epoch in range(12)]
        weights = collected(made, "valid")["weight"]
        found, mean = made.sample.reweighting, made.mean_training_weight()
        with pytest.raises(ConfigError, match="with 'reweight' by sampling, the number of events differs"):
            made.num_events("train")
    assert mean == 1
    assert len(set(weights)) > 8  # the validation set is not sampled
    assert all((one["weight"] == 1).all() and (one["bin"] >= 0).all() for one in epochs)
    count = sum(np.bincount(one["y"] * 8 + one["bin"], minlength=16) for one in epochs) / 12
    expected = (found.events * found.factors).ravel()
    np.testing.assert_allclose(count, expected, atol=5 * np.sqrt(expected.max() / 12))


@pytest.mark.parametrize(
    ("reweight", "params", "says"),
    [
        ({"by": {"jet": [1]}}, {}, "'by' in 'reweight' of params cannot be .*: 'jet' needs at least two bin edges"),
        ({"by": {"jet": [2, 1]}}, {}, "'jet' needs at least two bin edges, in increasing order"),
        ({"by": {f"x{n}": [0, 1] for n in range(11)}}, {}, "there are more than 10 variables"),
        ({"by": {"a": list(range(400)), "b": list(range(400))}}, {}, "there are more than 100,000 bins"),
        ({"bay": {}}, {}, "'reweight' of params has an unknown key 'bay'; closest: 'by'"),
        ({"max": 1}, {}, "'max' in 'reweight' of params cannot be 1: .* greater than 1"),
        ({"to": {"s": [1], "b": [1]}}, {}, r"the histogram of 's' must have the shape \(4, 2\)"),
        ({"to": "sig"}, {}, "there is no class 'sig'"),
        ({"to": {"s": [[1, 1]] * 4}}, {}, "has histograms of s, but the classes are b, s"),
        ({"by": {"pt": [0, 1]}}, {}, "reweight 'pt': 'pt' gives a list per event"),
        ({"by": {"jett": [0, 1]}}, {}, "branch 'jett' is not in .*closest: 'jet'"),
        ({"by": {"jet": [-2, -1]}}, {}, "class 'b' has no positive sum of weights in the bins of its target"),
        ({}, {"balance": "weights"}, "set 'balance' to 'none'"),
        ({}, {"task": "regression"}, "'reweight' needs classes"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_line_that_names_the_key(files, reweight, params, says):
    with pytest.raises(MLaaS4HEPError, match=says) as caught, generator(files, reweight, **params) as made:
        made.batches("train")
    assert "\n" not in str(caught.value)


def test_the_bundle_and_the_report_show_the_reweighting(files, tmp_path):
    (tmp_path / "linear.py").write_text("from torch import nn\ndef model(idim): return nn.Linear(idim, 1)\n")
    params = Params.parse({"epochs": 1, "weight": "gen", "reweight": {"by": BY}, "tfaas": False})
    train_model(files[0], ["s", "b"], str(tmp_path / "linear.py"), params, fout=tmp_path / "bundle")
    stored = json.loads((tmp_path / "bundle" / "reweighting.json").read_text())
    part, _, _, gen = columns_of(files[1], "s")
    events = np.flatnonzero(part == "train")
    np.testing.assert_allclose(stored["weights"]["s"], histogram(files[1], "s", events, gen[events]), rtol=1e-9)
    assert np.shape(stored["factors"]["b"]) == (4, 2)
    report = (tmp_path / "bundle" / "report.html").read_text()
    for text in BY:
        assert f"<title>Distribution of {text} before and after reweighting</title>" in report
    assert is_bundle(tmp_path / "bundle")


@pytest.mark.framework
def test_a_dataset_has_the_same_weights(files):
    from mlaas4hep.backends.torch_dataset import EventDataset

    params = {"weight": "gen", "cache": False, "reweight": {"by": BY}}
    found = np.concatenate([batch["weight"].numpy() for batch in EventDataset(files[0], ["s", "b"], params)])
    with generator(files, {}) as made:
        np.testing.assert_array_equal(found, collected(made, "train")["weight"])
