"""Friend trees: each entry of the main tree gets the values that NumPy finds for it in the friend."""

import json
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from check_source import check_source
from friend_files import EVENTS, INDEX, expected, friend_columns, write_files
from http_server import WebServer
from hypothesis import given
from hypothesis import strategies as st
from scripts import only_error_line, run_forked
from tinyroot import write_events, write_tree

from mlaas4hep import DataReader
from mlaas4hep.errors import BranchNotFound, ConfigError, FileUnreadable, TreeNotFound
from mlaas4hep.io import Jagged
from mlaas4hep.io.friend_index import MISSING, match_rows
from mlaas4hep.reader import ReadOptions
from mlaas4hep.reader.friends import open_with_friends

BEYOND_FLOAT = 2**53
"""float64 cannot tell an odd number above this from its neighbours."""


def write_rntuple(path, columns, name="scores"):
    with uproot.recreate(path) as file:
        rntuple = file.mkrntuple(name, {key: values[:300] for key, values in columns.items()})
        for start in range(300, len(columns["event"]), 300):
            rntuple.extend({key: values[start : start + 300] for key, values in columns.items()})


def write_parquet(path, columns):
    table = pa.table({name: ak.to_list(values) for name, values in columns.items()})
    pq.write_table(table, path, row_group_size=170)


WRITERS = {
    "a.root": lambda path, columns: write_tree(path, columns, 7, "scores"),
    "n.root": write_rntuple,
    "a.parquet": write_parquet,
}


@pytest.fixture
def main(tmp_path):
    return write_events(tmp_path / "a.root", EVENTS, clusters=4)


def opened(file, **friends):
    return open_with_friends(str(file), ReadOptions.parse({"friends": friends})).source


def plain(values):
    """Nested lists, with None for NaN."""
    if isinstance(values, Jagged):
        return [part.tolist() for part in np.split(values.content, values.offsets[1:-1])]
    return ak.to_list(ak.nan_to_none(ak.Array(values)))


@pytest.mark.parametrize("file", WRITERS)
def test_by_entry_number_the_columns_are_those_of_the_friend(file, main, tmp_path):
    columns = friend_columns(main, np.arange(EVENTS)[::-1])
    (tmp_path / "friends").mkdir()
    WRITERS[file](tmp_path / "friends" / file, columns)
    with opened(tmp_path / "a.root", sc={"file": str(tmp_path / "friends" / file), "tree": "scores"}) as source:
        check_source(source)
        found = source.read([f"sc.{name}" for name in columns], 0, EVENTS)
        assert source.columns["sc.passed"].dtype == bool
        assert source.columns["sc.njet"].dtype.kind == "i"
    for name, values in columns.items():
        assert plain(found[f"sc.{name}"]) == ak.to_list(values)


def shuffled(rng):
    return rng.permutation(EVENTS)


def with_holes(rng):
    return rng.permutation(EVENTS)[: EVENTS * 3 // 4]


def superset(rng):
    return np.sort(rng.integers(0, EVENTS, EVENTS * 3))  # with repeated entries, and a few holes


@pytest.mark.parametrize("choose", [shuffled, with_holes, superset])
@pytest.mark.parametrize("file", WRITERS)
def test_by_index_the_columns_are_those_of_the_entry_with_the_same_values(file, choose, main, tmp_path, capsys):
    rows = choose(np.random.default_rng(3))
    columns = friend_columns(main, rows)
    WRITERS[file](tmp_path / f"friend_{file}", columns)
    friend = {"file": str(tmp_path / f"friend_{file}"), "tree": "scores", "index": INDEX}
    with opened(tmp_path / "a.root", sc=friend) as source:
        check_source(source)
        found = source.read([f"sc.{name}" for name in columns], 0, EVENTS)
        types = {name: source.columns[f"sc.{name}"].dtype for name in columns}
    for name in columns:
        assert plain(found[f"sc.{name}"]) == expected(main, columns, name), name
    has_holes = len(np.unique(rows)) < EVENTS
    assert (types["njet"] == np.float64) is has_holes
    assert (types["passed"] == np.bool_) is not has_holes
    ambiguous = np.count_nonzero(np.bincount(rows) > 1)
    notices = capsys.readouterr().err.splitlines()
    assert len(notices) == bool(ambiguous)
    assert all(f": for {ambiguous} entries, tree 'scores' of" in line for line in notices)


@pytest.mark.parametrize("name", ["ntuple", "tree"])
def test_fixed_arrays_and_lists_of_missing_entries(name, tmp_path):
    rng, friend = np.random.default_rng(2), np.arange(0, 90, 3)
    write_tree(tmp_path / "m.root", {"i": np.arange(100)}, 3)
    columns = {"i": friend, "cov": rng.integers(0, 99, (30, 3)), "p": rng.normal(size=(30, 2)).astype("f4")}
    if name == "tree":
        write_tree(tmp_path / "f.root", columns, 2, "t")
    else:
        write_rntuple(tmp_path / "f.root", {"event": friend, **columns}, "t")
    with opened(tmp_path / "m.root", f={"file": str(tmp_path / "f.root"), "tree": "t", "index": "i"}) as source:
        found = source.read(["f.cov", "f.p"], 0, 100)
    exists = np.isin(np.arange(100), friend)
    assert found["f.cov"].dtype == np.float64
    assert found["f.p"].dtype == np.float32
    for column in ("cov", "p"):
        np.testing.assert_array_equal(found[f"f.{column}"][exists], columns[column])
        assert np.isnan(found[f"f.{column}"][~exists]).all()


def test_a_tree_of_the_same_file_is_a_friend(tmp_path):
    numbers = np.arange(50)
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("Events", {"x": "f8"}).extend({"x": numbers / 2})
        file.mkdir("more")
        file.mktree("more/Extra", {"y": "f8"}).extend({"y": numbers / 3})
    with DataReader(tmp_path / "a.root", friends=[":more/Extra"]) as reader:
        assert reader.features == ["Extra.y", "x"]
        np.testing.assert_array_equal(reader.read_columns(10, 20)[0]["Extra.y"], numbers[10:20] / 3)


def test_indices_beyond_2_to_the_53_are_matched_exactly(tmp_path):
    main = BEYOND_FLOAT + np.arange(10, dtype=np.uint64)
    other = (BEYOND_FLOAT + np.arange(10)[::-2]).astype(np.int64)  # odd differences only, of another type
    write_tree(tmp_path / "m.root", {"event": main})
    write_tree(tmp_path / "f.root", {"number": other, "value": np.arange(5.0)}, 2, "t")
    friend = {"file": str(tmp_path / "f.root"), "tree": "t", "index": {"event": "number"}}
    with opened(tmp_path / "m.root", f=friend) as source:
        found = source.read(["f.value"], 0, 10)["f.value"]
    assert plain(found) == [None, 4, None, 3, None, 2, None, 1, None, 0]


@pytest.mark.parametrize("types", ["u1 i8", "i8 u8", "u8 i8", "i2 u8", "i8 i1"])
def test_indices_of_different_types_may_have_values_that_the_other_cannot_have(types, tmp_path):
    main, friend = (np.iinfo(kind) for kind in types.split())
    numbers = [0, 1, 3, main.min, main.max]
    others = [friend.max, friend.min, 3, 2, 0]
    write_tree(tmp_path / "m.root", {"event": np.array(numbers, main.dtype)})
    columns = {"event": np.array(others, friend.dtype), "value": np.arange(5, dtype=np.int8)}
    write_tree(tmp_path / "f.root", columns, 1, "t")
    with opened(tmp_path / "m.root", f={"file": str(tmp_path / "f.root"), "tree": "t", "index": "event"}) as source:
        found = source.read(["f.value"], 0, 5)["f.value"]
    assert plain(found) == [others.index(number) if number in others else None for number in numbers]


def test_a_main_file_without_events_has_friends(tmp_path):
    pq.write_table(pa.table({"event": np.empty(0, np.int64)}), tmp_path / "m.parquet")
    write_tree(tmp_path / "f.root", {"event": np.arange(5), "y": np.arange(5)}, 1, "t")
    with opened(tmp_path / "m.parquet", f={"file": str(tmp_path / "f.root"), "tree": "t", "index": "event"}) as source:
        assert source.num_entries == 0
        assert len(source.read(["f.y"], 0, 0)["f.y"]) == 0


SIGNED = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2) | st.integers(BEYOND_FLOAT, BEYOND_FLOAT + 3)
UNSIGNED = st.integers(0, 2**64 - 1) | st.integers(0, 2) | st.integers(2**64 - 3, 2**64 - 1)


@given(st.sampled_from([np.int64, np.uint64]), st.sampled_from([np.int64, np.uint64]), st.integers(1, 3), st.data())
def test_rows_are_matched_by_exact_values(main_type, friend_type, width, data):
    def table(kind):
        number = SIGNED if kind is np.int64 else UNSIGNED
        return data.draw(st.lists(st.tuples(*[number | st.just(1)] * width), max_size=12))

    main, friend = table(main_type), table(friend_type)
    main += data.draw(st.lists(st.sampled_from(friend), max_size=4)) if friend and main_type is friend_type else []
    columns = [[np.array([row[i] for row in rows], kind) for i in range(width)]
               for rows, kind in ((main, main_type), (friend, friend_type))]  # fmt: skip
    rows, ambiguous = match_rows(*columns)
    assert rows.tolist() == [friend.index(row) if row in friend else MISSING for row in main]
    assert ambiguous == sum(friend.count(row) > 1 for row in main)


def test_placeholders_stand_for_parts_of_the_main_file(tmp_path, monkeypatch):
    for folder, number in (("one", 1), ("two", 2)):
        (tmp_path / folder / "extra").mkdir(parents=True)
        (tmp_path / "scores").mkdir(exist_ok=True)
        write_tree(tmp_path / folder / f"{number}.v2.root", {"x": np.arange(5.0)})
        write_tree(tmp_path / folder / "extra" / "e.root", {"y": np.arange(5.0) + number}, 1, "e")
        write_tree(tmp_path / "scores" / f"{number}.v2.scores.root", {"s": np.arange(5.0) * number}, 1, "scores")
    monkeypatch.chdir(tmp_path)
    friends = ["scores/{stem}.scores.root:scores", "{dir}/extra/e.root:e"]
    for folder, number in (("one", 1), ("two", 2)):
        with DataReader(f"{folder}/{number}.v2.root", friends=friends) as reader:
            values = reader.read_columns(0, 5)[0]
        assert values["scores.s"].tolist() == [0, number, 2 * number, 3 * number, 4 * number]
        assert values["e.y"].tolist() == [number, number + 1, number + 2, number + 3, number + 4]


@pytest.fixture
def friend(tmp_path):
    """The option for a friend with holes, its columns, and those of the main tree."""
    return write_files(tmp_path)


def test_numeric_columns_are_features_but_identifiers_only_if_they_are_named(friend, tmp_path):
    friends, _, _ = friend

    def features(**options):
        with DataReader(tmp_path / "a.root", friends=friends, **options) as reader:
            return reader.features

    of_friend = ["sc.njet", "sc.nweights", "sc.passed", "sc.score"]
    assert features() == ["met", "npt", *of_friend, "pt", "sc.weights"]
    assert features(selected_branches=["sc.*"]) == [*of_friend, "sc.weights"]
    assert features(selected_branches=["sc.s*", "sc.event"]) == ["sc.event", "sc.score"]
    assert features(exclude_branches=["sc.*", "npt"]) == ["met", "pt"]
    assert features(identifier=["sc.event"], selected_branches=["event"]) == ["event"]
    assert features(inputs={"x1": {"branches": ["sc.run", "sc.n*"]}}) == ["sc.njet", "sc.nweights", "sc.run"]


@pytest.mark.parametrize("workers", [1, 3])
def test_vectors_expressions_and_cuts_use_columns_of_friends(workers, friend, tmp_path):
    friends, columns, main = friend
    preproc = tmp_path / "preproc.json"
    preproc.write_text(json.dumps({"define": {"ratio": "`sc.score` / met"}, "cut": "`sc.njet` > 2 & `sc.score` < 1"}))
    selected = ["ratio", "sc.passed", "sc.weights"]
    score, njet, passed = (np.array(expected(main, columns, name), float) for name in ("score", "njet", "passed"))
    keep = np.flatnonzero((njet > 2) & (score < 1))
    with DataReader(
        tmp_path / "a.root", friends=friends, preproc=preproc, selected_branches=selected, normalise="none",
        workers=workers, chunk_size=70,
    ) as reader:  # fmt: skip
        chunks = list(reader)
        assert reader.columns[:2] == ["ratio", "sc.passed"]
    assert np.concatenate([chunk.entries for chunk in chunks]).tolist() == keep.tolist()
    x = np.concatenate([chunk.x for chunk in chunks])
    np.testing.assert_allclose(x[:, 0], (score / main["met"])[keep], rtol=1e-6)
    np.testing.assert_array_equal(x[:, 1], passed[keep])
    lists = expected(main, columns, "weights")
    assert [[round(v, 5) for v in row if v == v] for row in x[:, 2:].tolist()] == [
        [round(float(np.float32(v)), 5) for v in lists[entry]] for entry in keep
    ]


def test_objects_may_mix_lists_of_both_trees(tmp_path):
    main = write_events(tmp_path / "a.root", 100)
    btag = ak.unflatten(np.arange(len(ak.flatten(main["pt"])), dtype=np.float32), ak.num(main["pt"]))
    write_tree(tmp_path / "f.root", {"btag": btag}, 3, "tags")
    inputs = {"jets": {"branches": ["pt", "tags.btag"], "length": 3, "sort": "-tags.btag", "normalise": "none"}}
    with DataReader(tmp_path / "a.root", friends=[f"{tmp_path}/f.root:tags"], inputs=inputs) as reader:
        jets = reader.read_block(0, 100).inputs["jets"]
    order = ak.argsort(btag, ascending=False)
    for column, values in ((0, main["pt"]), (1, btag)):
        truth = ak.fill_none(ak.pad_none(values[order], 3, clip=True), np.nan)
        np.testing.assert_array_equal(jets[:, :, column], ak.to_numpy(truth))


def damage(path, tree, branch, basket):
    """Overwrite a part of a basket."""
    with uproot.open(path) as file:
        seek = file[tree][branch].member("fBasketSeek")[basket]
    content = bytearray(path.read_bytes())
    content[seek : seek + 60] = bytes(60)
    path.write_bytes(content)


@pytest.mark.parametrize("index", [[], INDEX])
def test_a_damaged_cluster_of_a_friend_is_an_error_or_skipped(index, main, tmp_path):
    columns = friend_columns(main, np.arange(EVENTS))
    write_tree(tmp_path / "f.root", columns, 5, "scores")
    damage(tmp_path / "f.root", "scores", "score", 2)  # entries 400 to 599
    options = {"friends": {"sc": {"file": str(tmp_path / "f.root"), "tree": "scores", "index": index}}, "nan": 0.0}
    where = r"friend 'sc' \(tree 'scores'\) of .*a\.root: cannot read branch 'score' of .*f\.root, entries"
    with DataReader(tmp_path / "a.root", **options) as reader, pytest.raises(FileUnreadable, match=where):
        list(reader)
    with DataReader(tmp_path / "a.root", on_error="skip", **options) as reader:
        chunks = list(reader)
        assert list(reader.skipped) == [(250, 500), (500, 750)]  # clusters of the main tree
        assert "friend 'sc'" in reader.skipped[250, 500]
    assert np.concatenate([chunk.entries for chunk in chunks]).tolist() == [*range(250), *range(750, EVENTS)]
    column = reader.columns.index("sc.score")
    score = np.concatenate([chunk.x[:, column] for chunk in chunks])
    kept = columns["score"][np.r_[:250, 750:EVENTS]]
    assert np.corrcoef(score, kept)[0, 1] > 0.9999  # normalised


def test_entries_whose_index_is_damaged_are_never_taken_for_missing_ones(main, tmp_path):
    columns = friend_columns(main, np.arange(200, EVENTS))
    write_tree(tmp_path / "f.root", columns, 4, "scores")
    damage(tmp_path / "f.root", "scores", "event", 1)  # of main entries 400 to 599; 0 to 199 are missing
    options = {"friends": {"sc": {"file": str(tmp_path / "f.root"), "tree": "scores", "index": INDEX}}}
    where = r"friend 'sc' .* cannot match entry 0 by index: cannot read branch 'event' of .*f\.root"
    with DataReader(tmp_path / "a.root", **options) as reader, pytest.raises(FileUnreadable, match=where):
        list(reader)
    with DataReader(tmp_path / "a.root", on_error="skip", **options) as reader:
        assert np.concatenate([chunk.entries for chunk in reader]).tolist() == list(range(750, EVENTS))

    damage(tmp_path / "a.root", "Events", "event", 3)
    write_tree(tmp_path / "f.root", columns, 4, "scores")
    with DataReader(tmp_path / "a.root", on_error="skip", selected_branches=["sc.njet"], **options) as reader:
        assert np.concatenate([chunk.entries for chunk in reader]).tolist() == list(range(750))
        assert "cannot read branch 'event'" in reader.skipped[750, EVENTS]


@pytest.mark.usefixtures("friend")
def test_other_lengths_need_an_index(tmp_path):
    with pytest.raises(ConfigError) as caught:
        DataReader(tmp_path / "a.root", friends={"sc": f"{tmp_path}/f.root:scores"})
    said = str(caught.value)
    assert f"friend 'sc' (tree 'scores') of {tmp_path}/a.root: {tmp_path}/f.root has 900 entries" in said
    assert f"tree 'Events' of {tmp_path}/a.root has 1000" in said
    assert '{"friends": {"sc": {"index": ["run", "event"]}}}' in said


def test_errors_are_one_line_that_names_both_files(friend, tmp_path):
    friends, _, _ = friend
    file = str(tmp_path / "f.root")

    def error(kind, friends, **options):
        with pytest.raises(kind) as caught:
            DataReader(tmp_path / "a.root", friends=friends, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    prefix = f"friend 'sc' (tree 'scores') of {tmp_path}/a.root: "
    assert error(FileUnreadable, {"sc": "no.root:scores"}) == f"{prefix}file not found: no.root"
    assert f"tree 'score' not found in {file}" in error(TreeNotFound, {"sc": f"{file}:score"})
    said = error(BranchNotFound, {"sc": {"file": file, "tree": "scores", "index": ["evnt"]}})
    assert said == f"{prefix}index column 'evnt' is not in {tmp_path}/a.root; closest: 'event'"
    said = error(BranchNotFound, {"sc": {"file": file, "tree": "scores", "index": {"event": "evt"}}})
    assert f"index column 'evt' is not in {file}" in said
    said = error(ConfigError, {"sc": {"file": file, "tree": "scores", "index": {"met": "score"}}})
    assert f"{prefix}index column 'met' of {tmp_path}/a.root is float32 (flat); an index needs one integer" in said
    said = error(ConfigError, {"sc": {"file": file, "tree": "scores", "index": {"event": "weights"}}})
    assert f"index column 'weights' of {file} is float64 (jagged)" in said
    said = error(BranchNotFound, friends, selected_branches=["sc.scores"])
    assert "closest: 'sc.score'" in said
    assert "closest: 'sc.score'" in error(BranchNotFound, friends, selected_branches=["score"])


def test_a_column_that_looks_like_one_of_a_friend_is_an_error_that_names_both(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("Events", {"x.mass": "f8"}).extend({"x.mass": np.arange(5.0)})
        file.mktree("x", {"mass": "f8"}).extend({"mass": np.arange(5.0)})
    with pytest.raises(ConfigError, match=r"column 'x\.mass' of .* the name of a column of friend 'x' \(tree 'x' of"):
        DataReader(tmp_path / "a.root", friends=[":x"])
    with DataReader(tmp_path / "a.root", friends={"y": ":x"}) as reader:
        assert reader.features == ["x.mass", "y.mass"]


def test_friends_of_a_file_on_a_server_are_found_beside_it(friend, tmp_path):
    _, columns, main = friend
    server = WebServer({f"data/{name}.root": (tmp_path / f"{name}.root").read_bytes() for name in "af"})
    options = {"file": "{dir}/f.root", "tree": "scores", "index": INDEX}
    try:
        with DataReader(f"{server.address}/data/a.root", friends={"sc": options}) as reader:
            found = reader.read_columns(0, EVENTS)[0]["sc.score"]
    finally:
        server.close()
    assert plain(found) == expected(main, columns, "score")


def test_the_script_lists_friends_and_their_columns(friend, tmp_path):
    friends, columns, main = friend
    done = run_forked("reader.py", "--fin=a.root", f"--friends={json.dumps(friends)}", "--info", "--json", cwd=tmp_path)
    content = json.loads(done.stdout)
    index = {name: name for name in INDEX}
    assert content["friends"] == {"sc": {"file": str(tmp_path / "f.root"), "tree": "scores", "index": index}}
    score = np.array(expected(main, columns, "score"), float)
    assert content["branches"]["sc.score"]["mean"] == pytest.approx(np.nanmean(score))
    assert content["branches"]["sc.score"]["nan"] == 100
    text = run_forked("reader.py", "--fin=a.root", f"--friends={json.dumps(friends)}", "--info", cwd=tmp_path).stdout
    matched = "matched by run, luminosityBlock, event; 100 entries have no partner"
    assert f"sc: tree 'scores' of {tmp_path}/f.root, {matched}" in text


def test_a_friend_that_does_not_exist_gives_a_one_line_error(main, tmp_path):
    line = only_error_line(run_forked("reader.py", "--fin=a.root", "--friends=s/{stem}.root:sc", cwd=tmp_path))
    assert line == "error: friend 'sc' (tree 'sc') of a.root: file not found: s/a.root"


def test_friends_that_a_file_names_are_mentioned_until_they_are_read():
    file = Path(__file__).parent / "files" / "friends.root"
    with DataReader(file) as reader:
        assert "'scores' in the same file, 'scores' in other.root" in reader.unread_friends
    with DataReader(file, friends=[":scores"]) as reader:
        assert "'scores' in the same file" not in reader.unread_friends
        assert "'scores' in other.root" in reader.unread_friends
        assert any(name.startswith("scores.") for name in reader.features)
