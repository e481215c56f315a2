"""Normalisation: small inputs against values computed by hand; results are finite for all inputs."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlaas4hep.errors import BranchNotFound, ConfigError
from mlaas4hep.io import Kind
from mlaas4hep.reader import Normalisation, Specs, VectorLayout
from mlaas4hep.specs.specs import BranchSpecs


def normalisation(values, method):
    """The normalisation that a flat branch of these values gets."""
    specs = Specs({"x": BranchSpecs.of(np.asarray(values), Kind.FLAT)}, len(values))
    return Normalisation.of(specs, VectorLayout.of(specs), method)


def normalised(seen, values, method, fill=np.nan):
    x = np.array(values, np.float32)[:, None]
    mask = normalisation(seen, method).apply(x, fill)
    return x[:, 0], mask[:, 0]


def test_minmax_maps_the_extremes_to_0_and_1():
    x, mask = normalised([10.0, 20.0, 50.0], [10, 20, 50, np.nan], "minmax")
    np.testing.assert_array_equal(x, np.array([0, 0.25, 1, np.nan], np.float32))
    assert mask.tolist() == [True, True, True, False]


def test_standard_maps_to_mean_0_and_standard_deviation_1():
    x, _ = normalised([1.0, 3.0], [1, 2, 3, 4], "standard")
    assert x.tolist() == [-1, 0, 1, 2]


def test_none_keeps_values_unchanged():
    x, mask = normalised([1.0, 2.0], [7, np.inf, np.nan], "none", fill=-1)
    assert x.tolist() == [7, np.inf, -1]
    assert mask.tolist() == [True, True, False]


def test_values_are_clipped_ten_ranges_outside_the_training_range():
    x, mask = normalised([0.0, 1.0], [5, 1e30, -1e30, np.inf, -np.inf], "minmax")
    assert x.tolist() == [5, 11, -10, 11, -10]
    assert mask.all()


def test_auto_is_standard_without_tails_and_asinh_with_them():
    flags = np.array([0, 1] * 50)
    assert normalised(flags, [0, 1], "auto")[0].tolist() == [-1, 1]
    gauss = np.random.default_rng(0).normal(50, 5, 10_000)
    assert not normalisation(gauss, "auto").column_uses_asinh.any()
    tail = np.concatenate([gauss, [1e5]])
    assert normalisation(tail, "auto").column_uses_asinh.all()
    x, _ = normalised(tail, np.sort(tail), "auto")
    assert (np.diff(x) >= 0).all()
    assert abs(x.mean()) < 0.05
    assert x.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("method", ["auto", "standard", "minmax"])
def test_a_branch_that_never_varies_or_was_never_seen_becomes_0(method):
    assert normalised([5.0, 5.0], [5, 5], method)[0].tolist() == [0, 0]
    assert normalised([np.nan], [3, np.inf], method)[0].tolist() == [0, 0]


@pytest.mark.parametrize("method", ["auto", "standard", "minmax"])
@settings(max_examples=150, deadline=None)
@given(values=st.lists(st.floats(-1e9, 1e9, width=32) | st.sampled_from([np.nan, np.inf, -np.inf]), min_size=1))
def test_ordinary_values_and_infinities_become_finite_and_nan_becomes_the_fill(method, values):
    x, mask = normalised(values, values, method, fill=-7)
    assert np.isfinite(x).all()
    assert mask.tolist() == [not np.isnan(value) for value in values]
    assert (x[~mask] == -7).all()


@pytest.mark.parametrize("method", ["auto", "standard", "minmax"])
@settings(max_examples=150, deadline=None)
@example(values=[-3e38, 3e38])
@example(values=[0.0] * 5 + [1e-29] * 5 + [1e38])
@example(values=[3.4e38] * 99 + [-3.4e38])  # most lie beyond what is clipped
@given(values=st.lists(st.floats(width=32), min_size=1))
def test_any_float32_becomes_finite(method, values):
    with np.errstate(over="ignore"):  # 3e38 is no float32 exactly
        numbers = np.array(values, np.float32)
    assert np.isfinite(normalised(numbers, numbers, method, fill=0)[0]).all()


def test_the_error_for_an_unknown_method_suggests_the_nearest():
    with pytest.raises(ConfigError, match="closest: 'standard'"):
        normalisation([1.0], "standart")


def test_specs_of_the_original_mlaas4hep_support_only_minmax():
    old = {"jdim": {}, "minv": {"x": 0.0}, "maxv": {"x": 4.0}, "fkeys": ["x"], "jkeys": []}
    specs = Specs.from_json(old)
    layout = VectorLayout.of(specs)
    x = np.array([[0], [1], [4]], np.float32)
    Normalisation.of(specs, layout, "minmax").apply(x)
    assert x[:, 0].tolist() == [0, 0.25, 1]
    with pytest.raises(ConfigError, match=r"only minimum and maximum.*use minmax"):
        Normalisation.of(specs, layout, "auto")


def test_empty_branches_in_specs_of_the_original_mlaas4hep_become_0():
    old = {"jdim": {"pt": 2}, "minv": {"pt": 1e15}, "maxv": {"pt": -1e15}, "fkeys": [], "jkeys": ["pt"]}
    specs = Specs.from_json(old)
    x = np.array([[3, np.nan]], np.float32)
    mask = Normalisation.of(specs, VectorLayout.of(specs), "minmax").apply(x, 0.0)
    assert x.tolist() == [[0, 0]]
    assert mask.tolist() == [[True, False]]


def test_a_few_values_among_zeros_have_finite_constants():
    values = np.array([0.0078] + 8 * [0.0])
    assert np.isfinite(normalised(values, values, "auto", fill=0)[0]).all()


def test_some_branches_may_be_normalised_in_another_way():
    specs = Specs({name: BranchSpecs.of(np.array([1.0, 3.0]), Kind.FLAT) for name in ("Jet_a", "Jet_b", "met")})
    layout = VectorLayout.of(specs)
    for choice in (
        "minmax,Jet_*=standard,/Jet_b/=none",
        {"default": "minmax", "Jet_*": "standard", "/Jet_b/": "none"},
    ):
        normalisation = Normalisation.of(specs, layout, choice)
        assert normalisation.methods == ("standard", "none", "minmax")
        x = np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]], np.float32)
        normalisation.apply(x)
        assert x.tolist() == [[-1, 1, 0], [1, 3, 1]]
    assert Normalisation.of(specs, layout, "met=none").methods == ("auto", "auto", "none")
    with pytest.raises(BranchNotFound, match=r"'Jett_a'.*closest: 'Jet_a'"):
        Normalisation.of(specs, layout, "auto,Jett_a=none")
    with pytest.raises(ConfigError, match="unknown normalisation 'nine'; closest: 'none'"):
        Normalisation.of(specs, layout, "auto,Jet_a=nine")


def test_the_constants_of_a_branch_may_be_given():
    for scale, expected in ((0.5, [-2, 0, 1, 3, np.nan]), (-0.5, [3, 0, -1, -2, np.nan])):
        choice = {"default": "none", "x": {"centre": 10, "scale": scale, "clip": [-2, 3]}}
        x, mask = normalised([1.0], [-1e30, 10, 12, np.inf, np.nan], choice)
        np.testing.assert_array_equal(x, np.array(expected, np.float32))
        assert mask.tolist() == [True] * 4 + [False]
    assert normalisation([1.0], {"x": {"centre": 3.5}}).methods == ("(x - 3.5) * 1",)
    x, _ = normalised([1.0], [-np.inf, np.inf], {"x": {"centre": -9e14, "scale": 9e14}})
    assert np.isfinite(x).all()


@pytest.mark.parametrize(
    ("constants", "says"),
    [
        ({"center": 1}, "the normalisation of 'x' has an unknown key 'center'; closest: 'centre'"),
        ({"scale": 0}, "the normalisation of 'x' is {'scale': 0}; give numbers"),
        ({"scale": "wide"}, "the normalisation of 'x' is {'scale': 'wide'}; give numbers"),
        ({"centre": np.inf}, "the normalisation of 'x' is {'centre': inf}; give numbers"),
        ({"clip": [3, 1]}, "two ascending limits, as in"),
        ({"clip": 5}, "two ascending limits, as in"),
    ],
)
def test_invalid_constants_are_a_line(constants, says):
    with pytest.raises(ConfigError) as caught:
        normalisation([1.0], {"x": constants})
    assert says in str(caught.value)
