"""Preprocessing against plain Python, one event at a time."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.errors import BranchNotFound, ConfigError, FileUnreadable, PackageMissing
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.expressions.preproc_file import load_preproc, preproc_from_json
from mlaas4hep.io import Column, Jagged, Kind, open_source

DATA = Path(__file__).parents[2] / "shared" / "data"

Events = list[dict[str, Any]]

EVENTS: Events = [
    {"nMuon": 2, "nLeptons": 2, "Energy": [400.0, 380.0], "Muon_Pt": [210.0, 250.0], "event": 11},
    {"nMuon": 4, "nLeptons": 1, "Energy": [500.0], "Muon_Pt": [], "event": 12},
    {"nMuon": 0, "nLeptons": 0, "Energy": [400.0], "Muon_Pt": [300.0], "event": 13},
    {"nMuon": 5, "nLeptons": 0, "Energy": [400.0], "Muon_Pt": [300.0], "event": 14},
    {"nMuon": 1, "nLeptons": 3, "Energy": [400.0], "Muon_Pt": [300.0], "event": 15},
    {"nMuon": 1, "nLeptons": 2, "Energy": [600.0, 900.0], "Muon_Pt": [300.0], "event": 16},
    {"nMuon": 1, "nLeptons": 2, "Energy": [], "Muon_Pt": [300.0], "event": 17},
    {"nMuon": 1, "nLeptons": 2, "Energy": [400.0], "Muon_Pt": [300.0, 150.0], "event": 18},
    {"nMuon": 3, "nLeptons": 2, "Energy": [900.0, 350.0], "Muon_Pt": [201.0], "event": 19},
]

ORIGINALS: dict[str, Any] = {
    "new_branch": {
        "log_Energy": {
            "def": "log(Energy)",
            "type": "jagged",
            "cut_1": ["log_Energy<6.31", "any"],
            "cut_2": ["log_Energy>5.85", "all"],
            "remove": "False",
            "keys_to_remove": ["Energy"],
        },
        "nMuon_square": {
            "def": "nMuon**2",
            "type": "flat",
            "cut": "1<=nMuon_square<=16",
            "remove": "False",
            "keys_to_remove": ["nMuon"],
        },
    },
    "flat_cut": {"nLeptons": {"cut": "nLeptons<=2", "remove": "False"}},
    "jagged_cut": {"Muon_Pt": {"cut": ["Muon_Pt>200", "all"], "remove": "False"}},
}


def survives_originals(event: dict[str, Any]) -> bool:
    logs = [math.log(energy) for energy in event["Energy"]]
    return (
        any(log < 6.31 for log in logs)
        and all(log > 5.85 for log in logs)
        and 1 <= event["nMuon"] ** 2 <= 16
        and event["nLeptons"] <= 2
        and all(pt > 200 for pt in event["Muon_Pt"])
    )


def columns(events: Events) -> dict[str, np.ndarray | Jagged]:
    jagged = {
        name: Jagged(
            np.cumsum([0] + [len(event[name]) for event in events]),
            np.array([value for event in events for value in event[name]], np.float32),
        )
        for name in ("Energy", "Muon_Pt")
    }
    flat = {"nMuon": np.uint32, "nLeptons": np.int32, "event": np.uint64}
    return {name: np.array([event[name] for event in events], dtype) for name, dtype in flat.items()} | jagged


def described() -> dict[str, Column]:
    flat = {"nMuon": "u4", "nLeptons": "i4", "event": "u8"}
    return (
        {name: Column(name, Kind.FLAT, np.dtype(dtype)) for name, dtype in flat.items()}
        | {name: Column(name, Kind.JAGGED, np.dtype("f4")) for name in ("Energy", "Muon_Pt")}
        | {"tag": Column("tag", Kind.OTHER, np.dtype(object), reason="text")}
    )


def written(folder: Path, content: Any, name: str = "preproc.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def listed(values: np.ndarray | Jagged) -> list[Any]:
    if isinstance(values, Jagged):
        bounds = zip(values.offsets[:-1], values.offsets[1:], strict=True)
        return [values.content[start:stop].tolist() for start, stop in bounds]
    return list(values.tolist())


def check_originals(preproc: Preproc, events: Events) -> None:
    """The original's example, against a loop over events."""
    result, kept = preproc.apply(columns(events))
    left = [event for event in events if survives_originals(event)]
    assert kept.dtype == bool
    assert kept.tolist() == [survives_originals(event) for event in events]
    assert result.keys() == {"nLeptons", "Muon_Pt", "event", "log_Energy", "nMuon_square"}
    assert listed(result["event"]) == [event["event"] for event in left]
    assert listed(result["Muon_Pt"]) == [event["Muon_Pt"] for event in left]
    assert listed(result["nMuon_square"]) == [event["nMuon"] ** 2 for event in left]
    for found, event in zip(listed(result["log_Energy"]), left, strict=True):
        assert found == pytest.approx([math.log(energy) for energy in event["Energy"]], rel=1e-12)


def test_the_example_of_the_original_works_as_documented(tmp_path: Path) -> None:
    check_originals(load_preproc(written(tmp_path, ORIGINALS)), EVENTS)
    assert [event["event"] for event in EVENTS if survives_originals(event)] == [11, 12, 19]


lists = st.lists(st.floats(300, 600, width=32), max_size=3)
some_events = st.lists(
    st.fixed_dictionaries(
        {
            "nMuon": st.integers(0, 5),
            "nLeptons": st.integers(0, 4),
            "Energy": lists,
            "Muon_Pt": st.lists(st.floats(190, 600, width=32), max_size=3),
            "event": st.integers(2**62, 2**64 - 1),
        }
    ),
    max_size=8,
)


@given(some_events)
@settings(max_examples=100, deadline=None)
def test_cuts_on_random_events_agree_with_a_loop(events: Events) -> None:
    check_originals(preproc_from_json(ORIGINALS), events)


@given(some_events, st.integers(0, 8))
@settings(max_examples=50, deadline=None)
def test_two_chunks_give_the_same_result_as_one(events: Events, cut: int) -> None:
    preproc = preproc_from_json(ORIGINALS)
    whole, kept = preproc.apply(columns(events))
    parts = [preproc.apply(columns(part)) for part in (events[:cut], events[cut:])]
    assert kept.tolist() == [*parts[0][1].tolist(), *parts[1][1].tolist()]
    for name, values in whole.items():
        assert listed(values) == [*listed(parts[0][0][name]), *listed(parts[1][0][name])]


def test_columns_lists_new_branches_and_omits_removed_ones() -> None:
    after = preproc_from_json(ORIGINALS).columns(described())
    assert list(after) == ["nLeptons", "event", "Muon_Pt", "tag", "log_Energy", "nMuon_square"]
    assert after["log_Energy"] == Column("log_Energy", Kind.JAGGED, np.dtype(np.float64))
    assert after["nMuon_square"] == Column("nMuon_square", Kind.FLAT, np.dtype(np.float64))
    assert after["event"] == described()["event"]


def test_only_selected_branches_and_those_in_cuts_are_read() -> None:
    content = {"define": {"a": "nMuon + 1", "b": "a * sum(Energy)"}, "cut": "nLeptons > 1"}
    preproc = preproc_from_json(content)
    assert preproc.needs(described(), {"event"}) == {"event", "nLeptons"}
    assert preproc.needs(described(), {"a"}) == {"nMuon", "nLeptons"}
    assert preproc.needs(described(), {"b", "nMuon"}) == {"nMuon", "Energy", "nLeptons"}
    result, _ = preproc.apply({name: columns(EVENTS)[name] for name in preproc.needs(described(), {"a"})})
    assert result.keys() == {"a", "nMuon", "nLeptons"}


def test_the_short_form_allows_definitions_in_any_order(tmp_path: Path) -> None:
    content = {"define": {"twice": "2 * ht", "ht": "sum(Energy)"}, "cut": "nMuon >= 1 && ht > 450"}
    result, kept = load_preproc(written(tmp_path, content)).apply(columns(EVENTS))
    wanted = [event for event in EVENTS if event["nMuon"] >= 1 and sum(event["Energy"]) > 450]
    assert listed(result["event"]) == [event["event"] for event in wanted]
    assert listed(result["twice"]) == [2 * sum(event["Energy"]) for event in wanted]
    assert kept.sum() == len(wanted)


def test_a_short_cut_on_a_list_requires_any_value_unless_it_contains_all() -> None:
    text = "nMuon >= 1 & Muon_Pt > 200"
    for cut, over in ((text, any), ([text, "any"], any), ([text, "all"], all)):
        _, kept = preproc_from_json({"cut": cut}).apply(columns(EVENTS))
        assert kept.tolist() == [over(e["nMuon"] >= 1 and pt > 200 for pt in e["Muon_Pt"]) for e in EVENTS]


def test_an_empty_list_fails_any_and_passes_all() -> None:
    for over, wanted in (("any", [False, True]), ("all", [True, True])):
        preproc = preproc_from_json({"jagged_cut": {"Energy": {"cut": ["Energy > 100", over]}}})
        assert preproc.apply({"Energy": columns(EVENTS[6:8])["Energy"]})[1].tolist() == wanted


def test_events_without_the_compared_value_fail_a_cut() -> None:
    for cut in ("Energy[:,1] > 0", "Energy[:,1] <= 0", "Energy[:,1] != 0 & nMuon >= 0", "max(Energy) > 0"):
        _, kept = preproc_from_json({"cut": cut}).apply(columns(EVENTS))
        assert not kept[6]


def test_a_file_may_use_both_forms_and_several_cuts() -> None:
    content = ORIGINALS | {"define": {"double": "2 * nMuon_square"}, "cut_1": "double > 2", "cut_2": "event != 19"}
    result, _ = preproc_from_json(content).apply(columns(EVENTS))
    assert listed(result["event"]) == [11, 12]
    assert listed(result["double"]) == [8, 32]


@pytest.mark.parametrize("flag", ["True", "true", True])
def test_a_branch_may_be_cut_on_and_removed(flag: Any) -> None:
    content = {
        "new_branch": {"x": {"def": "nMuon**2", "type": "flat", "cut": "x > 4", "remove": flag}},
        "flat_cut": {"nLeptons": {"cut": "nLeptons<=2", "remove": flag}},
        "jagged_cut": {"Energy": {"remove": flag}},
    }
    preproc = preproc_from_json(content)
    result, kept = preproc.apply(columns(EVENTS))
    assert result.keys() == {"nMuon", "Muon_Pt", "event"}
    assert kept.tolist() == [event["nMuon"] > 2 and event["nLeptons"] <= 2 for event in EVENTS]
    assert preproc.columns(described()).keys() == {"nMuon", "Muon_Pt", "event", "tag"}


def test_a_file_without_cuts_keeps_every_event_and_no_events_are_allowed() -> None:
    preproc = preproc_from_json({})
    result, kept = preproc.apply(columns(EVENTS))
    assert kept.all()
    assert listed(result["Energy"]) == [event["Energy"] for event in EVENTS]
    check_originals(preproc_from_json(ORIGINALS), [])
    check_originals(preproc_from_json(ORIGINALS), EVENTS[2:5])


def test_it_can_be_converted_to_json_and_pickled() -> None:
    preproc = preproc_from_json(ORIGINALS)
    assert preproc.portable
    assert json.loads(json.dumps(preproc.to_json())) == ORIGINALS
    for copy in (preproc_from_json(preproc.to_json()), pickle.loads(pickle.dumps(preproc))):
        assert copy == preproc
        check_originals(copy, EVENTS)


WRONG: dict[str, Any] = {
    "unknown key 'flat_cuts'; closest: 'flat_cut'": {"flat_cuts": {}},
    "unknown key 'definition'": {"new_branch": {"x": {"definition": "nMuon"}}},
    "new branch 'x': unknown key 'key_to_remove'; closest: 'keys_to_remove'": {
        "new_branch": {"x": {"def": "nMuon", "key_to_remove": []}}
    },
    "flat_cut 'nMuon': unknown key 'def'": {"flat_cut": {"nMuon": {"def": "nMuon"}}},
    "preproc: [] is not a JSON object": [],
    "'define' must be a JSON object with names as keys, not ['x']": {"define": ["x"]},
    "flat_cut 'nMuon': 'nMuon>2' is not a JSON object": {"flat_cut": {"nMuon": "nMuon>2"}},
    "new branch 'x': expected an expression, got None": {"new_branch": {"x": {"type": "flat"}}},
    "new branch 'x': expected an expression, got 3": {"define": {"x": 3}},
    "new branch 'x': expression 'sqr(nMuon)': unknown function 'sqr'": {"define": {"x": "sqr(nMuon)"}},
    "new branch 'x': expression '2*pi' uses no branch": {"define": {"x": "2*pi"}},
    "type must be 'flat' or 'jagged', not 'vector'": {"new_branch": {"x": {"def": "nMuon", "type": "vector"}}},
    "remove must be true or false, not 'yes'": {"flat_cut": {"nMuon": {"remove": "yes"}}},
    "keys_to_remove must be a list of names, not 'nMuon'": {
        "new_branch": {"x": {"def": "nMuon", "keys_to_remove": "nMuon"}}
    },
    "jagged_cut 'Energy', cut: 'Energy > 3' is not a pair of": {"jagged_cut": {"Energy": {"cut": "Energy > 3"}}},
    "jagged_cut 'Energy', cut: ['Energy > 3', 'some'] is not a pair": {
        "jagged_cut": {"Energy": {"cut": ["Energy > 3", "some"]}}
    },
    "flat_cut 'nMuon', cut_1: ['nMuon > 3', 'any'] is not an expression": {
        "flat_cut": {"nMuon": {"cut_1": ["nMuon > 3", "any"]}}
    },
    "cut: 3 is not an expression or a pair of": {"cut": 3},
    "cuts: expected a list of cuts, got 'nMuon > 3'": {"cuts": "nMuon > 3"},
    "cuts, number 2: None is not an expression or a pair of": {"cuts": ["nMuon > 3", {"training_only": True}]},
    "cuts, number 1: unknown key 'training'; closest: 'training_only'": {"cuts": [{"cut": "nMuon > 3", "training": 1}]},
    "cuts, number 1: training_only must be true or false, not 'yes'": {
        "cuts": [{"cut": "nMuon > 3", "training_only": "yes"}]
    },
    "new branch 'x' is defined twice": {"define": {"x": "nMuon"}, "new_branch": {"x": {"def": "nMuon"}}},
    "depend on each other: a -> b -> a": {"define": {"a": "b + 1", "b": "a + 1"}},
    "depend on each other: x -> x": {"define": {"x": "x + 1"}},
}


@pytest.mark.parametrize("message", WRONG)
def test_the_error_for_an_invalid_file_names_the_key(message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_preproc(written(tmp_path, WRONG[message]))
    assert message.replace("preproc: ", "preproc.json: ") in str(caught.value)
    assert str(tmp_path / "preproc.json") in str(caught.value)


MISMATCHES: dict[str, Any] = {
    "new branch 'x': the result must be flat (one number per event), but 'Energy*2' is jagged (a list per event)": {
        "new_branch": {"x": {"def": "Energy*2", "type": "flat"}}
    },
    "new branch 'x': the result must be jagged (a list per event), but 'sum(Energy)' is flat (one number per event)": {
        "new_branch": {"x": {"def": "sum(Energy)", "type": "jagged"}}
    },
    "flat_cut 'Energy', cut: the result must be flat (one number per event), but": {
        "flat_cut": {"Energy": {"cut": "Energy > 3"}}
    },
    "jagged_cut 'nMuon', cut: the result must be jagged (a list per event), but": {
        "jagged_cut": {"nMuon": {"cut": ["nMuon > 3", "all"]}}
    },
    "preproc, cut: expression 'sum(Energy)': a number is not a condition": {"cut": "sum(Energy)"},
    "new branch 'nMuon': the file has a branch with this name": {"define": {"nMuon": "nLeptons"}},
    "branch 'tag' cannot be used in an expression: text": {"define": {"x": "tag + 1"}},
}


@pytest.mark.parametrize("message", MISMATCHES)
def test_mismatches_with_the_columns_are_found_before_any_event_is_read(message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preproc_from_json(MISMATCHES[message]).columns(described())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"define": {"x": "nMuons + 1"}},
        {"cut": "nMuons > 2"},
        {"flat_cut": {"nMuons": {"cut": "nLeptons > 2"}}},
        {"new_branch": {"x": {"def": "nLeptons", "keys_to_remove": ["nMuons"]}}},
    ],
)
def test_the_error_for_a_missing_branch_suggests_the_nearest(content: Any) -> None:
    preproc = preproc_from_json(content)
    for call in (lambda: preproc.columns(described()), lambda: preproc.needs(described(), {"event"})):
        with pytest.raises(BranchNotFound, match=r"'nMuons' is neither in the file nor defined; closest: 'nMuon'"):
            call()


def test_the_error_for_an_unknown_selected_branch_suggests_the_nearest_new_branch() -> None:
    with pytest.raises(BranchNotFound, match=r"'log_energy' .*closest: 'log_Energy'"):
        preproc_from_json(ORIGINALS).needs(described(), {"log_energy"})


def test_missing_and_broken_files_raise_errors(tmp_path: Path) -> None:
    with pytest.raises(FileUnreadable, match="cannot read"):
        load_preproc(tmp_path / "none.json")
    with pytest.raises(FileUnreadable, match="cannot read"):
        load_preproc(tmp_path / "none.py")
    with pytest.raises(ConfigError, match="is not JSON"):
        load_preproc(written(tmp_path, "{'define'"))


SCRIPT = """
import awkward as ak

def preprocessing(events):
    events = events[events.nMuon >= 1]
    events["ht"] = ak.sum(events.Energy, axis=1)
    events["hard"] = events.Muon_Pt[events.Muon_Pt > 200]
    return events[[name for name in ak.fields(events) if name != "nLeptons"]]
"""


def check_script(preproc: Preproc, after: set[str]) -> None:
    result, kept = preproc.apply({name: columns(EVENTS)[name] for name in preproc.needs(described(), {"event"})})
    left = [event for event in EVENTS if event["nMuon"] >= 1]
    assert kept.tolist() == [event["nMuon"] >= 1 for event in EVENTS]
    assert result.keys() == after
    assert listed(result["event"]) == [event["event"] for event in left]
    assert listed(result["ht"]) == [sum(event["Energy"]) for event in left]
    assert listed(result["hard"]) == [[pt for pt in event["Muon_Pt"] if pt > 200] for event in left]


def test_a_python_file_makes_and_drops_columns_and_events(tmp_path: Path) -> None:
    preproc = load_preproc(written(tmp_path, SCRIPT, "preproc.py"))
    assert preproc.needs(described(), set()) == described().keys() - {"tag"}
    after = {"nMuon", "event", "Energy", "Muon_Pt", "ht", "hard"}
    check_script(preproc, after)
    check_script(pickle.loads(pickle.dumps(preproc)), after)
    found = preproc.columns(described())
    assert found.keys() == after | {"tag"}
    assert found["hard"] == Column("hard", Kind.JAGGED, np.dtype(np.float32))
    assert found["ht"].kind is Kind.FLAT
    assert found["event"] == described()["event"]


def test_branches_that_a_python_file_does_not_list_are_not_passed_to_it(tmp_path: Path) -> None:
    text = SCRIPT + "\nbranches = ['nMuon', 'Energy', 'Muon_Pt']"
    preproc = load_preproc(written(tmp_path, text, "preproc.py"))
    assert preproc.needs(described(), {"event", "ht"}) == {"nMuon", "Energy", "Muon_Pt", "event"}
    check_script(preproc, {"nMuon", "event", "Energy", "Muon_Pt", "ht", "hard"})
    assert preproc.columns(described()).keys() == described().keys() | {"ht", "hard"}


def test_a_python_file_cannot_be_part_of_a_bundle(tmp_path: Path) -> None:
    preproc = load_preproc(written(tmp_path, SCRIPT, "preproc.py"))
    assert not preproc.portable
    with pytest.raises(ConfigError, match="Python code, which bundles do not contain"):
        preproc.to_json()


def test_the_error_for_a_missing_import_of_a_python_file_says_how_to_install_it(tmp_path):
    """Only for known packages; a file beside the preprocessing is not one."""
    (tmp_path / "helper.py").write_text("")
    for name, kind, says in (
        ("lightgbm", PackageMissing, "is not installed; install it: pip install lightgbm"),
        ("nothing_of_that_name", ConfigError, "is neither an installed package nor a file in"),
        ("helper", ConfigError, "is in the same folder, but cannot be imported; only model files can"),
    ):
        (tmp_path / "preproc.py").write_text(f"import {name}")
        with pytest.raises(kind, match=rf"imports '{name}', which {says}"):
            load_preproc(tmp_path / "preproc.py")


RETURNS = "def preprocessing(events):\n    return "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def preprocess(events): ...",
            "does not define a function 'preprocessing\\(events\\)'; closest: 'preprocess'",
        ),
        ("def preprocessing(events", r"preproc.py, line 1: SyntaxError: "),
        ("branches = 'nMuon'\n" + RETURNS + "events", "'branches' of .* must be a list of names, not 'nMuon'"),
        ("branches = ['tag']\n" + RETURNS + "events", "branch 'tag' of .* cannot be used: text"),
        (RETURNS + "events.nMuons", "preproc.py, line 2: AttributeError: "),
        (RETURNS + "None", "returns NoneType, not events"),
        (RETURNS + "events[['nMuon']][:3]", "returns 3 of 9 events, but not which; drop events with"),
        (RETURNS + "events[::-1]", "repeats or reorders events"),
        (
            "import awkward as ak\n" + RETURNS + "ak.zip({'x': [[[1]]] * len(events)}, depth_limit=1)",
            "column 'x' of .* has an unknown type if there are no events; compute it with functions of awkward",
        ),
    ],
)
def test_the_error_for_a_failing_python_file_names_the_line(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text, "preproc.py")

    def preprocess() -> None:
        preproc = load_preproc(path)
        preproc.columns(described())
        preproc.apply(columns(EVENTS))

    with pytest.raises(ConfigError, match=message) as caught:
        preprocess()
    assert "\n" not in str(caught.value)


def test_a_python_file_may_need_a_sample_to_determine_types(tmp_path: Path) -> None:
    text = "import awkward as ak\n" + RETURNS + "ak.zip({'x': [[1.0, 2.0] for event in events]}, depth_limit=1)"
    preproc = load_preproc(written(tmp_path, text, "preproc.py"))
    with pytest.raises(ConfigError, match=r"column 'x' of .* has an unknown type if there are no events"):
        preproc.columns(described())
    assert preproc.columns(described(), columns(EVENTS))["x"].kind is Kind.JAGGED


def test_only_the_branches_that_are_needed_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "events.root"
    with uproot.recreate(path) as file:
        tree = file.mktree("Events", {"nMuon": np.uint32, "MET_pt": np.float32})
        tree.extend({"nMuon": np.array([2, 0, 3], np.uint32), "MET_pt": np.array([5, 6, 70], np.float32)})
    preproc = preproc_from_json({"define": {"ratio": "MET_pt / nMuon"}, "cut": "ratio > 2.5"})
    with open_source(str(path)) as source:
        needed = preproc.needs(source.columns, {"ratio"})
        result, kept = preproc.apply(source.read(needed, 0, 3))
    assert needed == {"nMuon", "MET_pt"}
    assert kept.tolist() == [False, True, True]
    assert listed(result["ratio"]) == [math.inf, 70 / 3]


def test_cuts_on_real_events_agree_with_a_loop() -> None:
    path = DATA / "cms" / "uproot-HZZ.root"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    content = {
        "define": {"pt": "sqrt(Muon_Px**2 + Muon_Py**2)", "leading": "pt[:,0]"},
        "cut": "NMuon >= 2 & leading > 30 & Muon_Charge[:,0] != Muon_Charge[:,1]",
    }
    preproc = preproc_from_json(content)
    with open_source(str(path), tree="events") as source:
        result, kept = preproc.apply(source.read(preproc.needs(source.columns, {"pt", "leading"}), 0, 500))
    truth = uproot.open(path)["events"].arrays(["Muon_Px", "Muon_Py", "Muon_Charge"], entry_stop=500).to_list()
    pts = [[math.hypot(*muon) for muon in zip(e["Muon_Px"], e["Muon_Py"], strict=True)] for e in truth]
    wanted = [
        len(pt) >= 2 and pt[0] > 30 and e["Muon_Charge"][0] != e["Muon_Charge"][1]
        for pt, e in zip(pts, truth, strict=True)
    ]
    assert 0 < sum(wanted) < 500
    assert kept.tolist() == wanted
    survivors = [pt for pt, survived in zip(pts, wanted, strict=True) if survived]
    assert listed(result["leading"]) == pytest.approx([pt[0] for pt in survivors], rel=1e-12)
    for found, pt in zip(listed(result["pt"]), survivors, strict=True):
        assert found == pytest.approx(pt, rel=1e-12)


@pytest.mark.parametrize("name", ["", " ", "\x1b[31mred", "two\nlines", "nul\0"])
def test_new_branches_with_unprintable_names_are_refused(name: str, tmp_path: Path) -> None:
    preproc = load_preproc(str(written(tmp_path, {"define": {name: "nMuon + 1"}})))
    with pytest.raises(ConfigError, match="invalid name ") as caught:
        preproc.columns(described())
    assert str(caught.value).startswith(f"invalid name {name!r} of a new branch; ")
    assert str(caught.value).isprintable()
