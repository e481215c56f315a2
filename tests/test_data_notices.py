"""Notices about data that the vectors lack or do not represent exactly."""

import numpy as np
import pytest
from scripts import run_forked
from tinyroot import write_events

from mlaas4hep.io import Kind
from mlaas4hep.reader import Specs
from mlaas4hep.reader.data_notices import non_finite_notices
from mlaas4hep.specs.specs import BranchSpecs
from mlaas4hep.stream import DataGenerator


@pytest.fixture
def odd(tmp_path):
    """Four branches with 1, 20, 3 and 5 values that are NaN or infinite, and others with none."""
    path = tmp_path / "odd.root"
    values = np.ones((4, 100))
    values[0, 0] = np.nan
    values[1, :20] = np.nan
    values[2, :3] = -np.inf
    values[3, :3], values[3, 3:5] = np.nan, np.inf
    write_events(path, 100, **{f"odd{i}": column for i, column in enumerate(values)})
    return path


NOTICE = (
    "24 values are NaN and masked, 5 are infinite: 'odd1' (20 NaN), 'odd3' (3 NaN, 2 inf), 'odd2' (3 inf) and 1 more\n"
)


@pytest.mark.parametrize("more", [[], ["--fout=x.npz"], ["--fout=specs.json"], ["--info"]])
def test_the_script_prints_one_notice_about_the_branches_with_most_non_finite_values(odd, more, tmp_path):
    done = run_forked("reader.py", f"--fin={odd}", *more, cwd=tmp_path)
    assert done.stderr.count(f"note: {NOTICE}") == 1
    assert done.stderr.count("NaN") == 3


def test_a_sample_has_the_same_notice(odd):
    with DataGenerator([odd], None) as generator:
        (line,) = generator.sample.data_notices()
    assert f"{line}\n" == NOTICE


def test_there_is_no_notice_if_all_values_are_finite(tmp_path):
    write_events(tmp_path / "a.root", 100)
    done = run_forked("reader.py", "--fin=a.root", cwd=tmp_path)
    assert done.stderr == ""
    assert non_finite_notices(Specs({"x": BranchSpecs(Kind.FLAT, 1, count=3)})) == []


def test_the_notice_omits_counts_of_zero():
    nan, inf = BranchSpecs(Kind.FLAT, 1, count=3, nan=2), BranchSpecs(Kind.FLAT, 1, count=3, inf=1)
    assert non_finite_notices(Specs({"x": nan})) == ["2 values are NaN and masked: 'x' (2 NaN)"]
    assert non_finite_notices(Specs({"x": inf})) == ["1 value is infinite: 'x' (1 inf)"]
