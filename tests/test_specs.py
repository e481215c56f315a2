"""Merging specs is exact in any order, and their numbers agree with NumPy."""

import json
import math
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinyroot import write_events

from mlaas4hep.errors import ConfigError, SpecsMismatch
from mlaas4hep.io import Jagged, Kind
from mlaas4hep.reader import DataReader, Specs
from mlaas4hep.specs.specs import BranchSpecs

VALUES = st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True) | st.integers(-(2**20), 2**20), max_size=20)


def of(values):
    return BranchSpecs.of(np.array(values, np.float64), Kind.FLAT)


@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=6), st.randoms())
def test_merging_gives_the_same_bits_in_any_order_and_grouping(parts, random):
    specs = [of(part) for part in parts]
    left = reduce(BranchSpecs.merge, specs)
    random.shuffle(specs)
    right = specs[-1]
    for part in reversed(specs[:-1]):
        right = part.merge(right)
    assert left == right
    assert (left.mean, left.std) == (right.mean, right.std)


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=6))
def test_merged_specs_have_the_statistics_of_all_values(parts):
    whole = reduce(BranchSpecs.merge, map(of, parts))
    every = [value for part in parts for value in part]
    finite = [float(value) for value in every if math.isfinite(value)]
    assert whole.count == len(finite)
    assert whole.nan == sum(math.isnan(value) for value in every)
    assert whole.inf == sum(math.isinf(value) for value in every)
    assert whole.minimum == min(finite, default=None)
    assert whole.maximum == max(finite, default=None)
    assert sum(whole.bins.values()) == len(finite)
    if finite:
        scale = max(map(abs, finite)) or 1.0
        assert whole.mean == pytest.approx(math.fsum(finite) / len(finite), rel=1e-12, abs=1e-15 * scale)
        assert whole.std == pytest.approx(np.std(finite), rel=1e-6, abs=1e-7 * scale)


def test_a_small_spread_about_a_large_mean_is_not_lost():
    values = 1.5e9 + np.arange(1000.0)
    whole = of(values[:300]).merge(of(values[300:]))
    assert whole.std == pytest.approx(np.std(np.arange(1000.0)), rel=1e-9)


def test_dim_is_the_length_of_the_longest_list():
    lists = Jagged(np.array([0, 2, 2, 5]), np.array([1, 5, 2, 2, 9], np.int32))
    branch = BranchSpecs.of(lists, Kind.JAGGED)
    assert (branch.dim, branch.count, branch.minimum, branch.maximum) == (3, 5, 1, 9)
    assert isinstance(branch.maximum, int)
    assert BranchSpecs.of(np.ones((4, 6)), Kind.FIXED).dim == 6


def test_bool_counts_as_0_and_1():
    branch = BranchSpecs.of(np.array([True, False, True, True]), Kind.FLAT)
    assert (branch.minimum, branch.maximum, branch.mean) == (0, 1, 0.75)


def test_numbers_beyond_float32_are_infinite_as_in_the_vector():
    branch = of([1e300, -1e300, 2.0])
    assert (branch.count, branch.inf, branch.maximum) == (1, 2, 2.0)


def test_large_integers_stay_exact():
    branch = BranchSpecs.of(np.array([2**63 + 1, 5], np.uint64), Kind.FLAT)
    assert branch.maximum == 2**63 + 1


def test_quantiles_agree_with_numpy_within_the_width_of_a_bin():
    values = np.random.default_rng(0).lognormal(2, 1, 20_000)
    found = of(values).quantiles([0.0, 0.16, 0.5, 0.84, 1.0])
    expected = np.quantile(values, [0.0, 0.16, 0.5, 0.84, 1.0])
    np.testing.assert_allclose(found, expected, rtol=0.07)
    assert found[-1] == values.max()


def test_specs_are_the_same_after_saving_and_loading(tmp_path):
    rng = np.random.default_rng(1)
    lists = Jagged(np.array([0, 3, 3, 5]), rng.normal(size=5).astype(np.float32))
    whole = Specs({"x": of(rng.normal(size=9)), "empty": of([]), "pt": BranchSpecs.of(lists, Kind.JAGGED)}, 9)
    whole.save(str(tmp_path / "specs.json"))
    assert Specs.load(str(tmp_path / "specs.json")) == whole
    content = json.loads((tmp_path / "specs.json").read_text())
    assert content["fkeys"] == ["x", "empty"]
    assert content["jdim"] == {"pt": 3}
    assert content["minv"]["x"] == whole.branches["x"].minimum


def test_specs_of_the_original_mlaas4hep_are_loaded():
    old = {"jdim": {"Jet_pt": 4}, "minv": {"MET": 0.5, "Jet_pt": 15.0}, "maxv": {"MET": 200.0, "Jet_pt": 300.0},
           "fkeys": ["MET"], "jkeys": ["Jet_pt"], "nans": {"MET": -0.1, "Jet_pt": -0.05}}  # fmt: skip
    specs = Specs.from_json(old)
    assert specs.legacy
    assert specs.width == 5
    assert (specs.branches["Jet_pt"].dim, specs.branches["Jet_pt"].maximum) == (4, 300.0)


@pytest.mark.parametrize("content", [[], 3, {}, {"format": 1}, {"fkeys": 1}, {"format": 2, "branches": {}}, None])
def test_content_that_is_not_specs_is_refused(content):
    with pytest.raises(ConfigError):
        Specs.from_json(content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("total", "1e999999999"),  # a fraction of it would have a billion digits
        ("total", "1e300"),
        ("squares", "-1"),
        ("count", 10**30),
        ("count", 4),
        ("bins", [[1 << 40, 3]]),
        ("bins", [[-1, 3]]),
        ("bins", [[1016, -3]]),
        ("min", "1"),
        ("max", float("inf")),
        ("max", None),
        ("min", 100),
        ("dim", 2_000_000),
        ("kind", "other"),
    ],
)
def test_impossible_statistics_of_a_branch_are_refused(key, value):
    content = Specs(
        {"pt": BranchSpecs.of(Jagged(np.array([0, 3]), np.array([1.0, 2.0, 3.0])), Kind.JAGGED)}, 1
    ).to_json()
    Specs.from_json(content)
    content["branches"]["pt"][key] = value
    with pytest.raises(ConfigError):
        Specs.from_json(content)


@pytest.mark.parametrize(
    ("key", "value"),
    [("jdim", {"pt": 10**12}), ("jdim", {"pt": -1}), ("minv", {"pt": "x"}), ("minv", []), ("maxv", {"pt": 1e400})],
)
def test_impossible_statistics_in_specs_of_the_original_mlaas4hep_are_refused(key, value):
    old = {"jdim": {"pt": 4}, "minv": {"pt": 15.0}, "maxv": {"pt": 300.0}, "fkeys": [], "jkeys": ["pt"]}
    with pytest.raises(ConfigError):
        Specs.from_json({**old, key: value})


def test_specs_of_different_branches_cannot_be_merged():
    one = Specs({"x": of([1.0])})
    with pytest.raises(SpecsMismatch, match="missing: x; not in the specs: y"):
        one.merge(Specs({"y": of([1.0])}))
    with pytest.raises(SpecsMismatch, match="of different kinds: x"):
        one.merge(Specs({"x": BranchSpecs(Kind.JAGGED, 2)}))


def test_a_first_pass_does_not_depend_on_chunks_or_threads(tmp_path):
    write_events(tmp_path / "a.root", 30_000, clusters=13)
    passes = [
        DataReader(tmp_path / "a.root", chunk_size=chunk_size, workers=workers).specs
        for chunk_size, workers in ((10_000, 1), (17, 1), (50_000, 2))
    ]
    assert passes[0] == passes[1] == passes[2]


def test_specs_list_the_files_that_they_were_computed_from(tmp_path):
    write_events(tmp_path / "a.root", 100)
    reader = DataReader(tmp_path / "a.root", nevts=60)
    (file,) = reader.specs.files
    assert (file.name, file.entries, file.entries_read) == (str(tmp_path / "a.root"), 100, 60)
    assert file.identity == reader.identity
