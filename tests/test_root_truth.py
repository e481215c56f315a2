"""Files that ROOT wrote, of the kinds that experiments have, against the numbers that ROOT itself reads in them."""

import json
from pathlib import Path

import numpy as np
import pytest
import uproot
from check_source import check_source

from mlaas4hep.io import Jagged, Kind, Nested, open_source
from mlaas4hep.io.formats.awkward_bridge import to_awkward

FILES = Path(__file__).parent / "files"
TRUTH = json.loads((FILES / "truth.json").read_text())
ENTRIES = TRUTH.pop("entries")
TREES = {
    "leaves": "Events", "physlite": "CollectionTree", "edm4hep": "events", "delphes": "Delphes", "rntuple": "events",
}  # fmt: skip

LEFT_OUT = {
    "leaves": {
        "text": "char*: not a number",
    },
    "physlite": {
        "vvv": "std::vector<std::vector<std::vector<float>>>: lists of lists of lists",
        "names": "std::vector<std::string>: not a number",
        "name": "std::string: not a number",
        "title": "TString: not a number",
    },
    "edm4hep": {
        "MCParticles/MCParticles.times": "std::vector<unknown>[]: lists of lists of packed numbers",
        "whole": "vector<edm::MCParticleData>: its member 'times' is of type vector<Double32_t>",
    },
    "delphes": {},
    "rntuple": {
        "vs": "text",
        "s": "text",
        "var": "several types in one column",
    },
}
"""What cannot be a feature, and why."""


def open_file(stem):
    return open_source(str(FILES / f"{stem}.root"), TREES[stem])


NESTED = {
    "leaves": {"m2"},
    "physlite": {"AnalysisJetsAuxDyn.SumPtTrk", "AnalysisJetsAuxDyn.NumTrkPt500"},
    "edm4hep": {"MCParticles/MCParticles.covMatrix[6]", "MCParticles/MCParticles.point[3]"},
    "delphes": {"Particle/Particle.fMother[2]", "Particle/Particle.fDaughter[2]", "Jet/Jet.Tau[5]"},
    "rntuple": {"vv", "va", "Hits.moments"},
}
"""What has lists of lists."""


def numbers(values, entry):
    if isinstance(values, Nested):
        values = values.flattened
    if isinstance(values, Jagged):
        return values.content[values.offsets[entry] : values.offsets[entry + 1]]
    return np.ravel(values[entry])


@pytest.mark.parametrize("stem", TREES)
def test_every_column_has_the_numbers_that_root_reads(stem):
    with open_file(stem) as source:
        check_source(source)
        names = [name for name, column in source.columns.items() if column.kind is not Kind.OTHER]
        found = source.read(names, 0, source.num_entries)
        for name in names:
            for entry, truth in zip(ENTRIES, TRUTH[stem][name], strict=True):
                exact = np.array(truth, source.columns[name].dtype)
                np.testing.assert_array_equal(numbers(found[name], entry), exact, f"{name}, entry {entry}")


@pytest.mark.parametrize("stem", TREES)
def test_lists_of_lists_have_the_lengths_that_uproot_reads(stem):
    with open_file(stem) as source, uproot.open(f"{FILES / stem}.root") as file:
        names = [name for name, column in source.columns.items() if column.kind is Kind.NESTED]
        assert set(names) == NESTED[stem]
        found = source.read(names, 0, source.num_entries)
        for name in names:
            tree = file[TREES[stem]]
            if stem == "rntuple":
                field, _, member = name.partition(".")
                truth = tree.arrays([field])[field]
                truth = truth[member] if member else truth
            else:
                truth = tree[name].array()
            assert to_awkward(found[name]).tolist() == truth.tolist()


@pytest.mark.parametrize("stem", TREES)
def test_columns_that_are_left_out_have_a_reason(stem):
    with open_file(stem) as source:
        reasons = {name: column.reason for name, column in source.columns.items() if column.kind is Kind.OTHER}
    assert reasons == LEFT_OUT[stem]


@pytest.mark.parametrize("stem", TREES)
def test_ranges_across_two_clusters_have_the_values_of_the_whole_file(stem):
    with open_file(stem) as source:
        assert list(source.boundaries) == [0, 40, 60]


def test_packed_numbers_have_the_precision_that_root_has_in_memory():
    with open_file("leaves") as source:
        types = {name: source.columns[name].dtype.name for name in ("f16", "f16ar", "jf", "d32", "d32a", "jd")}
        assert types == {
            **dict.fromkeys(("f16", "f16ar", "jf"), "float32"),
            **dict.fromkeys(("d32", "d32a", "jd"), "float64"),
        }
        assert (source.columns["d32x"].kind, source.columns["d32x"].size) == (Kind.FIXED, 6)


def test_arrays_of_arrays_are_flattened_in_rntuples_and_trees():
    with open_file("leaves") as tree, open_file("rntuple") as ntuple:
        assert (tree.columns["x23"].kind, tree.columns["x23"].size) == (Kind.FIXED, 6)
        assert (ntuple.columns["arr2"].kind, ntuple.columns["arr2"].size) == (Kind.FIXED, 6)


def test_fields_that_begin_with_an_underscore_are_listed():
    with open_file("rntuple") as source:
        names = [name for name in source.columns if name.startswith("_")]
    assert names == ["_weight", "_Hits_links.index", "_Hits_links.collectionID"]
