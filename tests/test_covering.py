"""Glob patterns for many branches."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.reader.covering import covering_patterns
from mlaas4hep.reader.selection import match, pattern_of

OTHERS = ["Jet_pt", "Jet_eta", "MET", "HLT_PFMET"]


@pytest.mark.parametrize(
    ("names", "others", "patterns"),
    [
        (["HLT_Mu8", "HLT_Mu17"], [], ["HLT_*"]),
        (["HLT_Mu8", "HLT_Mu17"], ["HLT_PFMET"], ["HLT_Mu*"]),
        (["HLT_B", "HLT_C"], ["HLT_A"], ["HLT_B", "HLT_C"]),
        ([f"HLT_{letter}" for letter in "BCDEFG"], ["HLT_A"], ["HLT_*"]),
        (["HLT_A", "HLT_B", "HLT_C", "L1_A", "L1_B", "L1_C", "x"], OTHERS[:3], ["HLT_*", "L1_*", "x"]),
        (["weights[3]", "weights[4]"], OTHERS, ["weights[[]*"]),
        (["pt"], [], ["pt"]),
        (["a", "ab"], [], ["a", "ab"]),
    ],
)
def test_branches_with_a_common_prefix_give_one_glob(names, others, patterns):
    assert covering_patterns(names, others) == patterns


@given(st.sets(st.text("ab_.[*@/", min_size=1, max_size=5), min_size=2, max_size=12), st.integers(1, 11), st.randoms())
def test_patterns_match_every_name_and_fewer_other_branches(names, count, random):
    names = sorted(names)
    random.shuffle(names)
    wanted, others = names[:count], names[count:]
    if wanted:
        found = match(dict.fromkeys(names), covering_patterns(wanted, others), "here")
        assert set(wanted) <= set(found)
        assert len(found) < 2 * len(wanted)


@given(st.text("ab@/[]*?!.,", min_size=1, max_size=6), st.text("ab@/[]*?!.,", min_size=1, max_size=6))
def test_the_pattern_of_a_name_matches_no_other_name(name, other):
    both = dict.fromkeys([name, other])
    assert match(both, [pattern_of(name)], "here") == [name]
    assert match({other: None}, [pattern_of(name)], "here", missing_allowed=True) == [other] * (name == other)
    assert fnmatch.fnmatch("Jet_pt", pattern_of("Jet_pt"))
