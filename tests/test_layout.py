"""The layout of vectors."""

import numpy as np
import pytest

from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Jagged, Kind, Nested
from mlaas4hep.reader import Specs, VectorLayout
from mlaas4hep.specs.specs import BranchSpecs

NAN = np.nan


def layout_of(**branches):
    return VectorLayout.of(Specs({name: BranchSpecs(kind, dim) for name, (kind, dim) in branches.items()}))


def jagged(*lists):
    offsets = np.cumsum([0, *map(len, lists)])
    return Jagged(offsets.astype(np.int64), np.array([value for each in lists for value in each], np.float32))


def test_flat_and_fixed_branches_are_first_and_sorted_by_name():
    layout = layout_of(b=(Kind.FLAT, 1), Z=(Kind.JAGGED, 2), a=(Kind.JAGGED, 1), c=(Kind.FIXED, 2), A=(Kind.FLAT, 1))
    assert layout.branches == ["A", "b", "c", "Z", "a"]
    assert layout.columns == ["A", "b", "c_0", "c_1", "Z_0", "Z_1", "a_0"]
    assert layout.width == 7
    assert layout.to_json()["Z"] == [4, 2, "jagged"]


def test_lists_are_padded_and_dropped_values_are_counted():
    layout = layout_of(x=(Kind.FLAT, 1), pt=(Kind.JAGGED, 2))
    values = {"x": np.array([7, 8, 9], np.int16), "pt": jagged([1], [], [2, 3, 4, 5])}
    x, truncated = layout.assemble(values, 3)
    np.testing.assert_array_equal(x, np.array([[7, 1, NAN], [8, NAN, NAN], [9, 2, 3]], np.float32))
    assert x.dtype == np.float32
    assert truncated == {"pt": 2}


def test_two_branches_with_a_column_of_the_same_name_are_refused():
    with pytest.raises(ConfigError, match="two branches would have a column 'a_0'"):
        layout_of(a=(Kind.JAGGED, 2), a_0=(Kind.FLAT, 1))
    layout_of(a=(Kind.JAGGED, 2), a_2=(Kind.FLAT, 1), a_01=(Kind.FLAT, 1), a_x=(Kind.FLAT, 1), b_0=(Kind.FLAT, 1))


@pytest.mark.parametrize("other", ["a_1_0", "a_1"])
def test_values_of_inner_lists_may_have_the_name_of_no_other_column(other):
    nested = BranchSpecs(Kind.NESTED, 2, inner=3)
    kind = Kind.FLAT if other == "a_1_0" else Kind.JAGGED
    with pytest.raises(ConfigError, match="two branches would have a column 'a_1_0'"):
        VectorLayout.of(Specs({"a": nested, other: BranchSpecs(kind, 1)}))
    free = {"a_2_5": BranchSpecs(Kind.FLAT, 1), "a_0": BranchSpecs(Kind.FLAT, 1), "a_2": BranchSpecs(Kind.JAGGED, 4)}
    layout = VectorLayout.of(Specs({"a": nested, **free}))
    assert len(set(layout.columns)) == layout.width == 12
    assert layout.to_json()["a_0"] == [0, 1, "flat"]
    assert layout.to_json()["a_1"] == [9, 3, "jagged"]


def test_lists_of_lists_are_padded_and_dropped_values_are_counted():
    values = Nested(np.array([0, 2, 2, 5]), jagged([1], [2, 3], [4, 5, 6], [], [7]))
    layout = VectorLayout.of(Specs({"h": BranchSpecs(Kind.NESTED, 2, inner=2)}))
    assert layout.columns == ["h_0_0", "h_0_1", "h_1_0", "h_1_1"]
    x, truncated = layout.assemble({"h": values}, 3)
    np.testing.assert_array_equal(x, [[1, NAN, 2, 3], [NAN] * 4, [4, 5, NAN, NAN]])
    assert truncated == {"h": 2}


def test_a_layout_does_not_create_the_names_of_a_billion_columns():
    layout = layout_of(a=(Kind.JAGGED, 10**9), b=(Kind.FLAT, 1))
    assert layout.width == 10**9 + 1
    with pytest.raises(ConfigError, match="two branches would have a column 'a_999999999'"):
        layout_of(a=(Kind.JAGGED, 10**9), a_999999999=(Kind.FLAT, 1))


def test_a_branch_of_empty_lists_has_no_column():
    layout = layout_of(x=(Kind.FLAT, 1), pt=(Kind.JAGGED, 0))
    assert layout.columns == ["x"]
    x, truncated = layout.assemble({"x": np.array([1.0, 2.0]), "pt": jagged([3], [])}, 2)
    assert x.tolist() == [[1], [2]]
    assert truncated == {"pt": 1}


def test_branches_of_several_collections_are_padded_independently():
    layout = layout_of(a=(Kind.JAGGED, 2), b=(Kind.JAGGED, 2), c=(Kind.JAGGED, 1), d=(Kind.JAGGED, 2))
    values = {"a": jagged([1, 2], []), "b": jagged([3, 4], []), "c": jagged([5], []), "d": jagged([], [6, 7])}
    x, truncated = layout.assemble(values, 2)
    expected = [[1, 2, 3, 4, 5, NAN, NAN], [NAN, NAN, NAN, NAN, NAN, 6, 7]]
    np.testing.assert_array_equal(x, np.array(expected, np.float32))
    assert truncated == {}


def test_numbers_beyond_float32_become_infinite_without_a_warning():
    x, _ = layout_of(x=(Kind.FLAT, 1)).assemble({"x": np.array([1e300, -1e300, NAN])}, 3)
    np.testing.assert_array_equal(x[:, 0], [np.inf, -np.inf, NAN])


def test_no_events_give_a_matrix_without_rows():
    layout = layout_of(x=(Kind.FLAT, 1), pt=(Kind.JAGGED, 3))
    x, truncated = layout.assemble({"x": np.empty(0), "pt": jagged()}, 0)
    assert x.shape == (0, 4)
    assert truncated == {}
