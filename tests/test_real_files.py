"""Every real file there is: it opens, `--info` runs, and each column of numbers is what uproot and awkward read."""

import awkward as ak
import numpy as np
import pytest
import uproot
from realdata import real_file
from scripts import run_forked

from mlaas4hep.io import Jagged, Kind, open_source

FILES = {
    "nanoAOD_2015_CMS_Open_Data_ttbar.root": "Events",
    "uproot-HZZ.root": "events",
    "uproot-HZZ-lz4.root": "events",
    "uproot-HZZ-lzma.root": "events",
    "uproot-HZZ-zstd.root": "events",
    "uproot-Zmumu.root": "events",
    "DY.root": "Events",
    "TT.root": "Events",
    "VBF.root": "Events",
    "ggH.root": "Events",
    "Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0.root": "Events",
    "cmsopendata2015_ttbar_19980_NANOAOD_RNTupleImporter_rntuple_v1-0-0-1.root": "Events",
    "test_int_multicluster_rntuple_v1-0-0-0.root": "ntuple",
}


@pytest.mark.parametrize("name", FILES)
def test_info_describes_the_file(name, tmp_path):
    done = run_forked("reader.py", f"--fin={real_file(name)}", f"--branch={FILES[name]}", "--info", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    entries = uproot.open(real_file(name))[FILES[name]].num_entries
    assert f"Number of events  : {entries}\n" in done.stdout
    assert not [line for line in done.stderr.splitlines() if not line.startswith("note: ")]


LONG = {
    "nanoAOD_2015_CMS_Open_Data_ttbar.root",
    "cmsopendata2015_ttbar_19980_NANOAOD_RNTupleImporter_rntuple_v1-0-0-1.root",
    "test_int_multicluster_rntuple_v1-0-0-0.root",
}
"""Files whose comparison takes seconds; `make test-fast` leaves it out."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.process] * (name in LONG)) for name in FILES])
def test_each_numeric_column_has_the_values_that_uproot_and_awkward_read(name):
    with open_source(real_file(name), FILES[name]) as source, uproot.open(real_file(name)) as file:
        tree = file[FILES[name]]
        names = [column.name for column in source.columns.values() if column.kind is not Kind.OTHER]
        assert names
        found = source.read(names, 0, source.num_entries)
        for column in names:
            array = tree[column].array()
            check_same(found[column], array)
        for column in source.columns.values():
            if column.kind is Kind.OTHER:
                assert not is_numbers(tree, column.name), column


def check_same(values, array):
    if array.fields:  # an RNTuple's field of a collection, with itself as its only member
        (array,) = (array[field] for field in array.fields)
    numbers = ak.to_numpy(ak.flatten(array, axis=None))
    if isinstance(values, Jagged):
        np.testing.assert_array_equal(values.counts, ak.to_numpy(ak.num(array)))
        values = values.content
    np.testing.assert_array_equal(values.reshape(-1), numbers)


def is_numbers(tree, name):
    """Whether uproot and awkward see plain numbers, or lists of them, in a column."""
    try:
        array = tree[name].array()
    except Exception:
        return False
    text = str(array.type)
    return not any(word in text for word in ("string", "{", "(", "char")) and array.ndim <= 2
