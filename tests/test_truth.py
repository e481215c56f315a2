"""The reader against plain uproot and awkward arrays on real files: nothing of ours takes part in the truth."""

import awkward as ak
import numpy as np
import pytest
import uproot
from realdata import real_file

from mlaas4hep.io import Kind
from mlaas4hep.reader import DataReader

FILES = [
    ("nanoAOD_2015_CMS_Open_Data_ttbar.root", "Events"),
    ("uproot-HZZ.root", "events"),
    ("uproot-HZZ-lz4.root", "events"),
    ("uproot-HZZ-lzma.root", "events"),
    ("uproot-HZZ-zstd.root", "events"),
    ("uproot-Zmumu.root", "events"),
]
IDENTIFIER = ("run", "luminosityBlock", "event")


def arrays_of(path, tree):
    """Every numeric branch as an awkward array, by name."""
    with uproot.open(path) as file:
        names = file[tree].keys()
        arrays = {name: file[tree][name].array() for name in names}
    return {name: array for name, array in arrays.items() if "string" not in str(array.type)}


@pytest.fixture(scope="module", params=FILES, ids=[name for name, _ in FILES])
def both(request):
    """A file read by us, not normalised, and by uproot."""
    name, tree = request.param
    path = real_file(name)
    return DataReader(path, tree, normalise="none"), arrays_of(path, tree)


def test_every_numeric_branch_is_a_feature_and_no_identifier_is(both):
    reader, arrays = both
    assert set(reader.features) == set(arrays) - set(IDENTIFIER)
    flat = sorted(name for name in reader.features if arrays[name].ndim == 1)
    jagged = sorted(name for name in reader.features if arrays[name].ndim == 2)
    assert reader.features == flat + jagged
    assert reader.num_entries == len(next(iter(arrays.values())))


def test_counts_extremes_and_dimensions_agree_with_the_arrays(both):
    reader, arrays = both
    assert len(reader.specs.branches) > 5
    for name, branch in reader.specs.branches.items():
        array = arrays[name]
        values = ak.to_numpy(ak.flatten(array, axis=None))
        finite = values[np.isfinite(values)]
        assert branch.count == len(finite), name
        assert branch.nan == int(np.isnan(values).sum()), name
        if array.ndim == 2:
            assert branch.kind is Kind.JAGGED, name
            assert branch.dim == int(ak.max(ak.num(array), initial=0)), name
        else:
            assert (branch.kind, branch.dim) == (Kind.FLAT, 1), name
        if len(finite):
            assert (branch.minimum, branch.maximum) == (finite.min().item(), finite.max().item()), name
            assert branch.mean == pytest.approx(float(finite.astype(np.float64).mean()), rel=1e-12, abs=1e-300), name
            assert branch.std == pytest.approx(float(finite.astype(np.float64).std()), rel=1e-9, abs=1e-12), name
        else:
            assert (branch.minimum, branch.maximum) == (None, None), name


def test_the_vectors_of_the_first_200_events_agree_with_the_arrays(both):
    reader, arrays = both
    chunk = next(iter(reader))[:200]
    first = 0
    for name in reader.features:
        array = arrays[name][:200]
        width = 1 if array.ndim == 1 else int(ak.max(ak.num(arrays[name]), initial=0))
        expected = array[:, None] if array.ndim == 1 else ak.fill_none(ak.pad_none(array, width), np.nan)
        expected = ak.to_numpy(expected).astype(np.float32).reshape(len(array), width)
        columns = slice(first, first + width)
        np.testing.assert_array_equal(chunk.x[:, columns], expected, err_msg=name)
        np.testing.assert_array_equal(chunk.mask[:, columns], ~np.isnan(expected), err_msg=name)
        names = [name] if array.ndim == 1 else [f"{name}_{index}" for index in range(width)]
        assert reader.columns[columns] == names
        first += width
    assert first == chunk.x.shape[1]


def test_identifiers_are_returned_unchanged(both):
    reader, arrays = both
    chunks = list(reader)
    names = {name for name in IDENTIFIER if name in arrays}
    assert {name for chunk in chunks for name in chunk.ids} == names
    for name in names:
        found = np.concatenate([chunk.ids[name] for chunk in chunks])
        np.testing.assert_array_equal(found, ak.to_numpy(arrays[name]))
        assert found.dtype == ak.to_numpy(arrays[name]).dtype
