"""Comma lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.config import Params
from mlaas4hep.lists import some, split_list
from mlaas4hep.methods import parse_choice
from mlaas4hep.stream.labels import read_labels


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", []),
        (" , ,", []),
        ("nMuon, MET_pt ,Jet_*", ["nMuon", "MET_pt", "Jet_*"]),
        ("/Jet_p.{1,3}/", ["/Jet_p.{1,3}/"]),
        (" /Jet_p.{1,3}/ , MET_pt,/Muon_.{2,}/", ["/Jet_p.{1,3}/", "MET_pt", "/Muon_.{2,}/"]),
        ("auto,/Jet_p.{1,3}/=standard,nMuon=none", ["auto", "/Jet_p.{1,3}/=standard", "nMuon=none"]),
        ("/a/,/b/", ["/a/", "/b/"]),
        ("/Muon/Muon.p.{1,2}/,x", ["/Muon/Muon.p.{1,2}/", "x"]),
        ("/store/a.root,/store/b.root", ["/store/a.root", "/store/b.root"]),
        ("@/home/me/list.txt,x", ["@/home/me/list.txt", "x"]),
        ("root://one:1094,root://two//", ["root://one:1094", "root://two//"]),
    ],
)
def test_commas_separate_and_those_of_regular_expressions_do_not(text, items):
    assert split_list(text) == items


def test_the_first_of_some_names_are_shown():
    assert some(["ggH", "VBF", "WH"], 3) == "ggH, VBF, WH"
    assert some(["ggH", "VBF", "WH", "ZH"], 3) == "ggH, VBF, WH, ..."


@given(st.lists(st.text("abc*_?@.", min_size=1) | st.from_regex(r"/[a-c{},.*]+/", fullmatch=True), max_size=6))
def test_items_that_are_joined_by_commas_are_found_again(items):
    assert split_list(",".join(items)) == items


def test_lists_in_params_may_have_regular_expressions():
    params = Params.parse({"selected_branches": "/Jet_p.{1,3}/,MET_pt", "normalise": "auto,/Jet_p.{1,3}/=none"})
    assert params.selected_branches == ["/Jet_p.{1,3}/", "MET_pt"]


def test_methods_may_be_for_regular_expressions_with_commas():
    assert parse_choice("auto,/Jet_p.{1,3}/=standard") == ("auto", {"/Jet_p.{1,3}/": "standard"})


def test_labels_may_be_one_regular_expression_with_commas():
    assert read_labels("/is_.{1,2}/") == "/is_.{1,2}/"
    assert read_labels("a,b") == ["a", "b"]
