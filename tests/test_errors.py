"""Error classes and the text of messages."""

import json
import zlib

import pytest

from mlaas4hep import errors
from mlaas4hep.errors import BranchNotFound, FileUnreadable, PackageMissing, nearest, require


def test_an_error_of_one_line_has_problem_similar_names_and_solution():
    error = BranchNotFound("branch 'pT' is not in a.root", nearest=["pt"], hint="list all: reader.py --info")
    assert str(error) == "branch 'pT' is not in a.root; closest: 'pt'; list all: reader.py --info"
    assert isinstance(error, KeyError)
    assert isinstance(FileUnreadable("x"), OSError)


def test_control_characters_are_escaped():
    error = BranchNotFound("branch '\x1b[31mred\x07' is not in\na.root", nearest=["p\u202eT"], hint="\x9b2J\u2066 é π")
    assert str(error) == r"branch '\x1b[31mred\x07' is not in a.root; closest: 'p\u202eT'; \x9b2J\u2066 é π"


def test_similar_names_are_found_regardless_of_case():
    assert nearest("muon_pT", ["Muon_eta", "Muon_pt", "MET"])[0] == "Muon_pt"
    assert nearest("something", ["MET"]) == []


def test_the_error_for_a_missing_package_says_how_to_install_it():
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
def test_every_error_class_is_also_a_builtin_exception_with_the_same_message(leaf, builtin):
    error = leaf("no 'x' here", nearest=["y", "z"], hint="write y")
    assert isinstance(error, errors.MLaaS4HEPError)
    assert isinstance(error, builtin)
    assert str(error) == "no 'x' here; closest: 'y', 'z'; write y"
    assert str(leaf("alone")) == "alone"


def test_similar_names_are_limited_in_number_and_the_best_comes_first():
    known = ["Muon_ptErrors", "Muon_ptErr", "Muon_pt", "Muon_pt1", "MET_phi"]
    assert errors.nearest("Muon_pt", known) == ["Muon_pt", "Muon_pt1", "Muon_ptErr"]
    assert errors.nearest("Muon_pt", known, count=1) == ["Muon_pt"]


def test_a_failing_import_within_a_package_is_not_reported_as_a_missing_package(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        errors.require("half_installed", "plot", "plots")


def test_the_most_informative_line_of_other_libraries_messages_is_shown():
    keras = "Exception encountered when calling Sequential.call().\n\n\x1b[1mInput 0 is wrong\x1b[0m\n\nArguments:"
    assert errors.error_summary(ValueError(keras)) == "ValueError: Input 0 is wrong"
    assert errors.error_summary(OSError("expected Chunk of 42,\nreceived 5")) == "OSError: expected Chunk of 42"
    assert errors.error_summary(KeyError()) == "KeyError"


def test_generic_names_of_exception_classes_are_left_out():
    with pytest.raises(zlib.error) as caught:
        zlib.decompress(b"no zlib stream")
    assert errors.error_summary(caught.value) == "Error -3 while decompressing data: incorrect header check"
    assert errors.error_summary(Exception("it failed")) == "it failed"
    assert errors.error_summary(Exception()) == "Exception"


def test_members_of_a_struct_are_suggested_first():
    known = ["pr/second", "pr/first", "v2.x", "v2.y", "v2x", "pro"]
    assert nearest("pr", known) == ["pr/second", "pr/first"]
    assert nearest("v2.", known) == ["v2.x", "v2.y"]
    assert nearest("V2", known) == ["v2.x", "v2.y"]
    assert nearest("/", known) == []
