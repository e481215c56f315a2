"""Every error is a leaf of one base and of the builtin that callers would catch."""

import json

import pytest

from mlaas4hep import errors
from mlaas4hep.errors import BranchNotFound, FileUnreadable, PackageMissing, nearest, require


def test_an_error_is_one_line_with_cause_nearest_and_cure():
    error = BranchNotFound("branch 'pT' is not in a.root", nearest=["pt"], hint="list all: reader.py --info")
    assert str(error) == "branch 'pT' is not in a.root; closest: 'pt'; list all: reader.py --info"
    assert isinstance(error, KeyError)
    assert isinstance(FileUnreadable("x"), OSError)


def test_what_would_act_on_a_terminal_is_shown_and_not_done():
    error = BranchNotFound("branch '\x1b[31mred\x07' is not in\na.root", nearest=["p\u202eT"], hint="\x9b2J\u2066 é π")
    assert str(error) == r"branch '\x1b[31mred\x07' is not in a.root; closest: 'p\u202eT'; \x9b2J\u2066 é π"


def test_the_nearest_names_do_not_care_for_case():
    assert nearest("muon_pT", ["Muon_eta", "Muon_pt", "MET"])[0] == "Muon_pt"
    assert nearest("something", ["MET"]) == []


def test_a_missing_package_comes_with_the_line_that_installs_it():
    with pytest.raises(PackageMissing, match=r"plots needs the package 'no_such'.*pip install 'mlaas4hep\[plot\]'"):
        require("no_such.module", "plot", "plots")
    assert require("json", "plot", "plots") is json


@pytest.mark.parametrize(
    ("leaf", "builtin"),
    [
        (errors.FileUnreadable, OSError),
        (errors.TreeNotFound, KeyError),
        (errors.BranchNotFound, KeyError),
        (errors.SpecsMismatch, ValueError),
        (errors.ConfigError, ValueError),
        (errors.PackageMissing, ImportError),
        (errors.ServiceError, ConnectionError),
    ],
)
def test_a_leaf_can_be_caught_as_ours_and_as_the_builtin_and_reads_the_same(leaf, builtin):
    error = leaf("no 'x' here", nearest=["y", "z"], hint="write y")
    assert isinstance(error, errors.MLaaS4HEPError)
    assert isinstance(error, builtin)
    assert str(error) == "no 'x' here; closest: 'y', 'z'; write y"
    assert str(leaf("alone")) == "alone"


def test_no_more_names_are_offered_than_asked_for_and_the_best_comes_first():
    known = ["Muon_ptErrors", "Muon_ptErr", "Muon_pt", "Muon_pt1", "MET_phi"]
    assert errors.nearest("Muon_pt", known) == ["Muon_pt", "Muon_pt1", "Muon_ptErr"]
    assert errors.nearest("Muon_pt", known, count=1) == ["Muon_pt"]


def test_a_package_that_is_there_but_lacks_one_of_its_own_is_no_missing_package(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        errors.require("half_installed", "plot", "plots")


def test_of_other_libraries_the_line_that_matters_is_shown():
    keras = "Exception encountered when calling Sequential.call().\n\n\x1b[1mInput 0 is wrong\x1b[0m\n\nArguments:"
    assert errors.first_line(ValueError(keras)) == "ValueError: Input 0 is wrong"
    assert errors.first_line(OSError("expected Chunk of 42,\nreceived 5")) == "OSError: expected Chunk of 42"
    assert errors.first_line(KeyError()) == "KeyError"
