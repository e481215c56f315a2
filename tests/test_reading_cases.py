"""Small files of users' situations are read with the values that were written."""

import json
import re

import numpy as np
import pytest
import uproot
from realdata import case_file

from mlaas4hep.errors import SpecsMismatch
from mlaas4hep.io import Kind, open_source
from mlaas4hep.stream import DataGenerator

ENTRY = np.arange(20.0)
ZERO = np.zeros(20)

VALUES = {
    "dup.root": {"x": ENTRY},
    "dup2.root": {"pt": ENTRY, "eta": ZERO},
    "late.root": {"x": ENTRY},
    "leafarr.root": {"e": ENTRY, "q.x": np.stack([ENTRY, ZERO], axis=1), "q.y": np.zeros((20, 2))},
    "leaflist.root": {"x": ENTRY, "p4.px": ENTRY, "p4.py": 2 * ENTRY, "p4.pz": 3 * ENTRY, "p4.q": ENTRY % 3 - 1},
    "evstruct.root": {"x": ENTRY, "event.run": ZERO + 1, "event.lumi": ZERO + 2, "event.event": ENTRY},
    "cycles.root": {"x": ENTRY + 1000, "nHit": ENTRY + 1000},
    "killed4.root": {"x": ENTRY},
}
"""The first 20 values of all readable columns of a file, as functions of the number of the entry."""


def readable(source):
    """Names of the columns that can be read."""
    return [name for name, column in source.columns.items() if column.kind is not Kind.OTHER]


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_that_were_written(name):
    with open_source(case_file(name)) as source:
        values = source.read(readable(source), 0, 20)
    assert values.keys() == VALUES[name].keys()
    for column, expected in VALUES[name].items():
        np.testing.assert_array_equal(values[column], expected, err_msg=column)


@pytest.mark.parametrize("name", ["boolA.root", "skewA.root", "skewB.root"])
def test_bools_are_0_or_1_where_uproot_has_the_stored_bytes(name):
    path = case_file(name)
    with open_source(path) as source:
        values = source.read(["flag"], 0, source.num_entries)["flag"]
    with uproot.open(path) as file:
        branch = file["Events"]["flag"]
        stored = np.concatenate([branch.basket(number).data for number in range(branch.num_baskets)])
    np.testing.assert_array_equal(values, stored != 0)


def test_lists_without_stored_offsets_have_the_lengths_of_their_counter():
    with open_source(case_file("iofeat.root")) as source:
        values = source.read(["n", "y"], 0, source.num_entries)
    np.testing.assert_array_equal(values["n"], np.arange(2000) % 6)
    np.testing.assert_array_equal(np.diff(values["y"].offsets), values["n"])
    expected = [entry + index / 8 for entry in range(2000) for index in range(entry % 6)]
    np.testing.assert_array_equal(values["y"].content, np.float32(expected))


def test_branches_that_were_added_late_are_left_out_with_the_reason():
    with open_source(case_file("late.root")) as source:
        assert "40 of the tree's 100 entries" in source.columns["y"].reason
        assert "0 of the tree's 100 entries" in source.columns["z"].reason


def test_each_cycle_of_a_tree_is_read():
    with open_source(case_file("cycles.root"), "Events;1") as source:
        assert source.num_entries == 100
        np.testing.assert_array_equal(source.read(["x"], 0, 100)["x"], np.arange(100.0))


def test_trees_in_folders_are_opened_by_the_names_that_are_listed():
    path = case_file("dirs.root")
    with uproot.open(path) as file:
        names = [key.rpartition(";")[0] for key in file.keys(filter_classname="TTree")]
    assert names == ["a/b c/RNT:Tree one", "x:y/tree"]
    for name in names:
        with open_source(path, name) as source:
            np.testing.assert_array_equal(source.read(["x"], 0, source.num_entries)["x"], np.arange(50.0))


def test_the_setting_that_the_error_about_eras_prints_works():
    files = [case_file("eraA.root"), case_file("eraB.root")]
    with pytest.raises(SpecsMismatch) as refused:
        DataGenerator(files, params={"cache": False})
    excluded = json.loads(re.search(r'"exclude_branches": (\[.*?\]) in params\.json$', str(refused.value)).group(1))
    assert excluded == ["HLT_B", "HLT_C"]
    with DataGenerator(files, params={"exclude_branches": excluded, "cache": False}) as generator:
        assert not {"HLT_B", "HLT_C"} & generator.specs.branches.keys()
