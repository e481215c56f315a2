"""Trees with several branches of the same name: the first is read on every road, and a notice names the others."""

import shutil
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from check_source import check_source
from realdata import case_file
from tinyroot import rename_branch, write_tree

from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io import open_source
from mlaas4hep.io.root.branch_names import first_of_each_name
from mlaas4hep.reader import DataReader

REFERENCES = Path(__file__).parent / "files" / "references.root"
EVENTS = 3000


def write_twice(path):
    """Write two branches `pt_one` and two lists `jet_one`, of which the second ones have the opposite sign."""
    numbers, counts = np.arange(1.0, EVENTS + 1), np.arange(EVENTS) % 3
    lists = ak.unflatten(np.arange(1.0, counts.sum() + 1), counts)
    shorter = ak.unflatten(-np.arange(1.0, EVENTS + 1), np.ones(EVENTS, int))
    columns = {"pt_one": numbers, "jet_one": lists, "pt_two": -numbers, "eta": numbers / 2, "jet_two": shorter}
    write_tree(path, columns, clusters=2)
    for name in ("pt", "jet"):
        rename_branch(path, f"{name}_two", f"{name}_one")
    with uproot.open(path) as file:
        assert [branch.name for branch in file["Events"].branches].count("pt_one") == 2


@pytest.mark.parametrize("road", ["compiled", "NumPy", "uproot"])
def test_of_several_branches_with_a_name_the_first_is_read(tmp_path, monkeypatch, road):
    write_twice(tmp_path / "a.root")
    if road == "NumPy":
        monkeypatch.setattr("mlaas4hep.io.root.basket_reader.KERNEL", None)
    if road == "uproot":
        monkeypatch.setattr("mlaas4hep.io.root.uproot_tree.basket_layout_of", lambda *_: None)
    with open_source(str(tmp_path / "a.root")) as source, uproot.open(tmp_path / "a.root") as file:
        check_source(source)
        assert list(source.boundaries) == [0, EVENTS // 2, EVENTS]
        found = source.read(["pt_one", "jet_one", "eta"], 0, EVENTS)
        np.testing.assert_array_equal(found["pt_one"], np.arange(1.0, EVENTS + 1))
        np.testing.assert_array_equal(found["pt_one"], file["Events"]["pt_one"].array(library="np"))
        np.testing.assert_array_equal(found["jet_one"].counts, np.arange(EVENTS) % 3)
        np.testing.assert_array_equal(found["jet_one"].content, np.arange(1.0, EVENTS + 1))


def test_a_repeated_branch_is_reported_once_even_if_the_file_is_opened_again(tmp_path, capsys):
    write_twice(tmp_path / "a.root")
    for workers in (1, 2, 1):
        with DataReader(tmp_path / "a.root", workers=workers) as reader:
            assert sum(map(len, reader)) == EVENTS
    names = "'jet_one', 'njet_one', 'pt_one'"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"note: tree 'Events' of {tmp_path / 'a.root'} has more than one branch called ")
    assert sorted(said[0].split("called ")[1].split(":")[0].split(", ")) == names.split(", ")
    assert said[0].endswith(": the first of each is read, as ROOT does")


def test_damage_in_a_branch_that_is_not_read_has_no_effect(tmp_path):
    write_twice(tmp_path / "a.root")
    with uproot.open(tmp_path / "a.root") as file:
        first, second = (branch for branch in file["Events"].branches if branch.name == "pt_one")
        seeks = [int(branch.member("fBasketSeek")[0]) for branch in (first, second)]
    content = (tmp_path / "a.root").read_bytes()
    for path, seek in zip(("first.root", "second.root"), seeks, strict=True):
        damaged = bytearray(content)
        damaged[seek + 100 : seek + 300] = bytes(200)
        (tmp_path / path).write_bytes(damaged)
    with open_source(str(tmp_path / "second.root")) as source:
        assert source.read(["pt_one"], 0, 3)["pt_one"].tolist() == [1, 2, 3]
    with (
        open_source(str(tmp_path / "first.root")) as source,
        pytest.raises(FileUnreadable, match=r"cannot read branch 'pt_one' of .*, entries 0 to 2"),
    ):
        source.read(["eta", "pt_one"], 0, 3)


def test_of_several_collections_with_a_name_the_first_is_read_with_all_its_branches(tmp_path, capsys):
    path = shutil.copy(REFERENCES, tmp_path)  # the notice is printed once per file
    with open_source(path, "Delphes") as source:
        check_source(source)
        found = source.read(["Particle", "Particle/Particle.fX", "Particle/Particle.fY"], 0, 20)
    expected = [[event + 0.25 * i for i in range(event % 5)] for event in range(20)]  # as in write_references.C
    assert found["Particle"].tolist() == [len(one) for one in expected]
    assert found["Particle/Particle.fX"].counts.tolist() == [len(one) for one in expected]
    assert found["Particle/Particle.fX"].content.tolist() == [x for one in expected for x in one]
    assert found["Particle/Particle.fY"].content.tolist() == [i for one in expected for i in range(len(one))]
    (said,) = capsys.readouterr().err.splitlines()
    name = f"tree 'Delphes' of {path} has more than one branch called 'Particle'"
    assert said == f"note: {name}: the first of each is read, as ROOT does"


def test_a_branch_whose_path_is_the_name_of_another_branch_is_ignored(tmp_path, capsys):
    branches = [("a", 1), ("a/x", 2), ("a/y", 3), ("b", 4), ("a", 5), ("a/x", 6), ("a/z", 7), ("c", 8), ("a/y", 9)]
    found = list(first_of_each_name(branches, str(tmp_path)))
    assert found == [("a", 1), ("a/x", 2), ("a/y", 3), ("b", 4), ("c", 8)]
    assert capsys.readouterr().err == (
        f"note: {tmp_path} has more than one branch called 'a', 'a/y': the first of each is read, as ROOT does\n"
    )


@pytest.mark.parametrize(("name", "branch", "events"), [("dup.root", "x", 50), ("dup2.root", "pt", 20)])
def test_files_of_users_with_two_branches_of_the_same_name_are_read(name, branch, events):
    with open_source(case_file(name)) as source:
        check_source(source)
        assert source.read([branch], 0, events)[branch].tolist() == list(range(events))
