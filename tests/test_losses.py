"""What is said of values that did not make it into the vectors as they were."""

import numpy as np
import pytest
from scripts import run_script
from tinyroot import write_events

from mlaas4hep.io import Kind
from mlaas4hep.reader import Specs
from mlaas4hep.reader.losses import not_finite
from mlaas4hep.reader.specs import BranchSpecs
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


SAYS = (
    "the specs count 24 values that are not a number, which the mask leaves out, and 5 that are infinite:"
    " 'odd1' (20 NaN), 'odd3' (3 NaN, 2 inf), 'odd2' (3 inf) and 1 more\n"
)


@pytest.mark.parametrize("more", [[], ["--fout=x.npz"], ["--fout=specs.json"], ["--info"]])
def test_the_script_says_once_which_branches_have_most_values_that_are_not_finite(odd, more, tmp_path):
    done = run_script("reader.py", f"--fin={odd}", *more, cwd=tmp_path)
    assert done.stderr.count(f"note: {SAYS}") == 1
    assert done.stderr.count("NaN") == 2


def test_a_sample_says_it_too(odd):
    with DataGenerator([odd], None) as generator:
        (line,) = generator.sample.losses()
    assert f"{line}\n" == SAYS


def test_nothing_is_said_where_all_values_are_finite(tmp_path):
    write_events(tmp_path / "a.root", 100)
    done = run_script("reader.py", "--fin=a.root", cwd=tmp_path)
    assert done.stderr == ""
    assert not_finite(Specs({"x": BranchSpecs(Kind.FLAT, 1, count=3)})) == []
