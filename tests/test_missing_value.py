"""The number that stands for a missing value on stock TFaaS servers."""

import numpy as np
import pytest

from mlaas4hep.protocol.missing_value import from_options, missing_value, to_options

BIG = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("ranges", "value"),
    [
        ([], -9999999),
        ([(-9999, 1e6), (0, 1)], -9999999),
        ([(0, 1), (-9999999, 1)], -16777215),
        ([(-1e9, 1)], 16777215),
        ([(-1e9, 1e9)], -(2.0**100)),
        ([(-BIG, 1)], 16777215),
        ([(-BIG, BIG)], None),
    ],
)
def test_the_number_is_outside_all_ranges(ranges, value):
    assert missing_value(ranges) == value


def test_the_number_survives_json_and_float32():
    for ranges in ([], [(-1e7, 0)], [(-1e9, 0)], [(-1e9, 1e9)], [(-BIG, 1e9)]):
        value = missing_value(ranges)
        assert from_options(to_options(value)) == value == float(np.float32(value))
    assert to_options(missing_value([(-BIG, BIG)])) == []


@pytest.mark.parametrize("options", [[], ["other"], ["missing="], ["missing=nan"], ["missing=x"], [5, None]])
def test_options_without_a_number_define_none(options):
    assert from_options(options) is None
