"""Comma lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.comma_lists import abbreviated, join_list, split_list
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.list_lengths import parse_max_length
from mlaas4hep.normalisation_choice import parse_normalisation
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
        ('"a,b", c', ["a,b", "c"]),
        ('"a,b"=none,auto', ["a,b=none", "auto"]),
        ('"say ""x, y""",c', ['say "x, y"', "c"]),
        ('" a "', [" a "]),
        ('a "b", c', ['a "b"', "c"]),
        ('"a,b', ['"a', "b"]),
    ],
)
def test_commas_separate_and_those_of_regular_expressions_do_not(text, items):
    assert split_list(text) == items


def test_abbreviated_lists_end_with_an_ellipsis():
    assert abbreviated(["ggH", "VBF", "WH"], 3) == "ggH, VBF, WH"
    assert abbreviated(["ggH", "VBF", "WH", "ZH"], 3) == "ggH, VBF, WH, ..."


@given(st.lists(st.text("abc*_?@.", min_size=1) | st.from_regex(r"/[a-c{},.*]+/", fullmatch=True), max_size=6))
def test_joined_lists_can_be_split_again(items):
    assert split_list(",".join(items)) == items


@given(st.lists(st.text('a,"=/ @', min_size=1), max_size=6))
def test_random_joined_lists_can_be_split_again(items):
    assert split_list(join_list(items)) == items


def test_lists_in_params_may_have_regular_expressions():
    params = Params.parse({"selected_branches": "/Jet_p.{1,3}/,MET_pt", "normalise": "auto,/Jet_p.{1,3}/=none"})
    assert params.selected_branches == ["/Jet_p.{1,3}/", "MET_pt"]


def test_methods_may_be_for_regular_expressions_with_commas():
    assert parse_normalisation("auto,/Jet_p.{1,3}/=standard") == ("auto", {"/Jet_p.{1,3}/": "standard"})


def test_labels_may_be_one_regular_expression_with_commas():
    assert read_labels("/is_.{1,2}/") == "/is_.{1,2}/"
    assert read_labels("a,b") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=3", "max_length has no branch before '=3'; write '3' or 'Jet_*=3'"),
        ("v=4,=3", "max_length has no branch before '=3'; write '3' or 'Jet_*=3'"),
        ("v=3,v=4", "max_length has two values for 'v': '3' and '4'; give one of them"),
        ('v=3,"v"=4', "max_length has two values for 'v': '3' and '4'; give one of them"),
        ("3,4", "max_length has two values for all branches: '3' and '4'; give one of them"),
    ],
)
def test_a_maximum_length_without_a_branch_or_given_twice_is_an_error(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_max_length(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=none", "normalise has no branch before '=none'; write 'none' or 'Jet_*=none'"),
        ("v=none,v=auto", "normalise has two values for 'v': 'none' and 'auto'; give one of them"),
        ("standard,minmax", "normalise has two values for all branches: 'standard' and 'minmax'; give one of them"),
    ],
)
def test_a_normalisation_without_a_branch_or_given_twice_is_an_error(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_normalisation(text)
    assert str(caught.value) == message
