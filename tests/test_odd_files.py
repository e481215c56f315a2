"""Uncommon files that ROOT writes: `files/odd.py` made them, and has the formulas of their numbers."""

from pathlib import Path

import numpy as np
import pytest
import uproot
from check_source import check_source
from realdata import real_file
from scripts import only_error_line, run_forked
from tinyroot import write_tree

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.io import Kind, open_source
from mlaas4hep.io.formats.awkward_bridge import to_awkward
from mlaas4hep.io.root import basket_reader
from mlaas4hep.reader import DataReader

FILES = Path(__file__).parent / "files"
ODD = FILES / "odd.root"


@pytest.fixture(params=["compiled", "numpy"])
def decoder(request, monkeypatch):
    """Decode baskets with the compiled loops, and without."""
    if request.param == "numpy":
        monkeypatch.setattr(basket_reader, "KERNEL", None)


def reasons(source):
    return {name: column.reason for name, column in source.columns.items() if column.kind is Kind.OTHER}


@pytest.mark.parametrize("tree", ["late", "longer", "leaf_list", "generated", "lengths"])
@pytest.mark.usefixtures("decoder")
def test_every_tree_fulfils_the_contract(tree):
    with open_source(str(ODD), tree) as source:
        check_source(source)


def test_a_branch_that_was_added_late_is_left_out_with_both_numbers_of_entries():
    """ROOT gives event 0 the y of event 100, and repeats the last y from event 100 on."""
    reason = "it has 100 of the tree's 200 entries, and the file does not say which events these are"
    with open_source(str(ODD), "late") as source:
        assert reasons(source) == dict.fromkeys("ynv", reason)
        np.testing.assert_array_equal(source.read(["x"], 0, 200)["x"], np.arange(200))


def test_a_late_branch_is_not_selected_by_default_or_by_a_pattern():
    for selected in (None, ["*"], ["x", "[a-z]"]):
        with DataReader(ODD, branch="late", selected_branches=selected) as reader:
            assert list(reader.specs.branches) == ["x"]


def test_a_late_branch_that_is_selected_by_name_is_an_error_of_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"branch 'y' of .*odd\.root.* it has 100 of the tree's 200 entries"):
        DataReader(ODD, branch="late", selected_branches=["x", "y"])
    result = run_forked("reader.py", f"--fin={ODD}", "--branch=late", "--branches=y", cwd=tmp_path)
    assert "branch 'y'" in only_error_line(result)
    with pytest.raises(ConfigError, match=r"branch 'y' .* it has 100 of the tree's 200 entries"):
        DataReader(ODD, branch="late", identifier=["y"])


def test_late_branches_do_not_merge_the_clusters_of_the_others(tmp_path):
    """A branch that is filled less has other baskets, which nobody reads."""
    write_tree(tmp_path / "a.root", {"x": np.arange(40.0), "y": np.arange(40.0)}, clusters=4)
    patch_branch(tmp_path / "a.root", "y", entries=20)
    with open_source(str(tmp_path / "a.root")) as source:
        assert source.boundaries == [0, 10, 20, 30, 40]
        assert list(reasons(source)) == ["y"]


def patch_branch(path, name, entries):
    """Write another number of entries into the record of a branch, which must not be compressed."""
    content = bytearray(path.read_bytes())
    with uproot.open(path) as file:
        branch = file["Events"][name]
        old = branch.member("fEntryNumber")
        assert old == branch.member("fEntries")
    at = content.rindex(bytes([len(name)]) + name.encode() + bytes([len(name) + 2]) + name.encode() + b"/D")
    for _ in range(2):  # fEntryNumber and fEntries
        at = content.index(int(old).to_bytes(8, "big"), at)
        content[at : at + 8] = entries.to_bytes(8, "big")
        at += 8
    path.write_bytes(content)


@pytest.mark.usefixtures("decoder")
def test_a_branch_with_more_entries_than_its_tree_is_truncated():
    """As ROOT does: it reads -99 last."""
    with open_source(str(ODD), "longer") as source:
        np.testing.assert_array_equal(source.read(["z"], 0, 100)["z"], -np.arange(100.0))
        np.testing.assert_array_equal(source.read(["z"], 61, 63)["z"], [-61, -62])


def test_a_leaf_list_with_arrays_leaves_the_other_branches_readable(tmp_path):
    with open_source(str(ODD), "leaf_list") as source:
        np.testing.assert_array_equal(source.read(["x"], 0, 20)["x"], np.arange(20))
    assert "x" in run_forked("reader.py", f"--fin={ODD}", "--branch=leaf_list", "--info", cwd=tmp_path).stdout


def test_packed_arrays_have_the_length_of_their_leaf_if_its_title_has_none():
    with open_source(str(ODD), "lengths") as source:
        assert source.columns["bare"].size == 3
        np.testing.assert_array_equal(source.read(["bare"], 0, 20)["bare"], np.tile([0, 25, 50], (20, 1)))
        vertex = source.read(["vertex/d[3]", "vertex/e[2][2]"], 0, 20)
        np.testing.assert_array_equal(vertex["vertex/d[3]"], np.arange(20)[:, None] + np.arange(3))
        np.testing.assert_array_equal(vertex["vertex/e[2][2]"], np.tile([0, 25, 50, 75], (20, 1)))
        hits = source.read(["hits/hits.p[3]", "hits/hits.q[2]"], 0, 20)  # of each hit; the title is p[hits_]
        truth = [[[i, i + 1, i + 2]] * (i % 3) for i in range(20)]
        assert to_awkward(hits["hits/hits.p[3]"]).tolist() == truth
        assert to_awkward(hits["hits/hits.q[2]"]).tolist() == [[[0, 25]] * (i % 3) for i in range(20)]


def test_packed_arrays_of_a_file_of_scikit_hep_have_three_numbers():
    with open_source(real_file("uproot-double32-float16.root"), "tree") as source:
        for name in ("array_30", "array_10"):
            assert source.read([name], 0, source.num_entries)[name].shape == (source.num_entries, 3)


@pytest.mark.parametrize(
    ("old", "new"), [(b"x3[3]", b"x3_3_"), (b"x3[3]", b"x3]3["), (b"x3[3]", b"x3[\xff]"), (b"x3[3]", b"x3[4]")]
)
def test_the_length_of_a_leaf_takes_precedence_over_its_title(tmp_path, old, new):
    values = np.arange(30.0).reshape(10, 3)
    write_tree(tmp_path / "a.root", {"x": np.arange(10.0), "x3": values})
    content = (tmp_path / "a.root").read_bytes()
    assert old in content
    (tmp_path / "a.root").write_bytes(content.replace(old, new))
    with open_source(str(tmp_path / "a.root")) as source:
        check_source(source)
        np.testing.assert_array_equal(source.read(["x3"], 0, 10)["x3"], values)


def test_a_leaf_of_an_unknown_class_affects_one_branch_only(tmp_path):
    write_tree(tmp_path / "a.root", {"odd": np.arange(10, dtype=np.int32), "x": np.arange(10.0), "y": np.ones(10)})
    content = (tmp_path / "a.root").read_bytes()
    assert b"TLeafI\0" in content
    (tmp_path / "a.root").write_bytes(content.replace(b"TLeafI\0", b"TLeafY\0", 1))
    with open_source(str(tmp_path / "a.root")) as source:
        check_source(source)
        assert list(reasons(source)) == ["odd"]
        assert "TLeafY" in reasons(source)["odd"]
        read = source.read(["x", "y"], 0, 10)
        np.testing.assert_array_equal(read["x"], np.arange(10))
        np.testing.assert_array_equal(read["y"], np.ones(10))
    with DataReader(tmp_path / "a.root") as reader:
        assert list(reader.specs.branches) == ["x", "y"]


def test_branches_of_an_unknown_class_are_listed_with_the_reason(tmp_path):
    write_tree(tmp_path / "a.root", {"x": np.arange(10.0), "y": np.ones(10)})
    content = (tmp_path / "a.root").read_bytes()
    assert b"TBranch\0" in content
    (tmp_path / "a.root").write_bytes(content.replace(b"TBranch\0", b"TBrunch\0"))
    with open_source(str(tmp_path / "a.root")) as source:
        assert reasons(source) == dict.fromkeys("xy", "TBrunch: a class of branches that uproot does not know")


@pytest.mark.usefixtures("decoder")
def test_lists_without_offsets_have_the_lengths_in_their_counter():
    """As they were written; ROOT 6.40 itself reads them right only when it reads entry after entry."""
    n, m = np.arange(300) % 4, np.arange(300) % 6
    with open_source(str(ODD), "generated") as source, uproot.open(ODD) as file:
        edges = {name: list(file["generated"][name].entry_offsets) for name in "nmvwd"}
        assert len({*map(tuple, edges.values())}) > 3  # their baskets hold different entries
        for start, stop in ((0, 300), (edges["v"][1] - 1, edges["v"][1] + 2), (123, 124), (299, 300)):
            read = source.read(["n", "m", "v", "w", "d"], start, stop)
            for name, counts in (("v", n), ("d", n), ("w", m)):
                np.testing.assert_array_equal(read[name].counts, counts[start:stop])
            entry, k = expand(n, start, stop)
            np.testing.assert_array_equal(read["v"].content, entry + k / 8)
            np.testing.assert_array_equal(read["d"].content, 25 * k)
            entry, k = expand(m, start, stop)
            np.testing.assert_array_equal(read["w"].content, -entry - k / 8)


def expand(counts, start, stop):
    """Return the entry, and the index in its list, of every number."""
    counts = counts[start:stop]
    return np.repeat(np.arange(start, stop), counts), np.concatenate([np.arange(count) for count in counts])


def test_a_nanoaod_like_file_has_the_same_values_with_and_without_offsets():
    names = ["nooffsets", "withoffsets"]
    with (
        open_source(real_file(f"uproot-small-dy-{names[0]}.root"), "tree") as one,
        open_source(real_file(f"uproot-small-dy-{names[1]}.root"), "tree") as other,
    ):
        for name in ("Jet_pt", "Jet_jetId", "Muon_pt"):
            mine, theirs = (source.read([name], 0, source.num_entries)[name] for source in (one, other))
            np.testing.assert_array_equal(mine.offsets, theirs.offsets)
            np.testing.assert_array_equal(mine.content, theirs.content)


def test_counts_that_contradict_a_list_without_offsets_are_an_error(tmp_path):
    content = bytearray(ODD.read_bytes())
    with uproot.open(ODD) as file:
        branch = file["generated"]["v"]
        seek, size = int(branch.member("fBasketSeek")[1]), int(branch.member("fBasketBytes")[1])
        begin, end = branch.entry_offsets[1:3]
    key = int.from_bytes(content[seek + 14 : seek + 16], "big")
    content[seek + key - 9 : seek + key - 5] = (end - begin + 1).to_bytes(4, "big")  # one entry more
    (tmp_path / "a.root").write_bytes(content)
    assert size > key
    with (
        open_source(str(tmp_path / "a.root"), "generated") as source,
        pytest.raises(FileUnreadable, match=rf"cannot read branch 'v' of .*a\.root, entries {begin} to {end - 1}"),
    ):
        source.read(["v"], begin, end)


@pytest.mark.usefixtures("decoder")
def test_files_that_root_compressed_before_2003_are_read():
    with open_source(str(FILES / "old_zlib.root")) as source:
        check_source(source)
        read = source.read(["x", "n", "v"], 0, 300)
        entry, k = expand(np.arange(300) % 4, 0, 300)
        np.testing.assert_array_equal(read["x"], np.arange(300) / 4)
        np.testing.assert_array_equal(read["n"], np.arange(300) % 4)
        np.testing.assert_array_equal(read["v"].content, entry + k)


def test_damaged_old_blocks_are_an_error(tmp_path):
    content = bytearray((FILES / "old_zlib.root").read_bytes())
    at = content.index(b"CS\x08") + 9
    content[at : at + 20] = bytes(20)
    (tmp_path / "a.root").write_bytes(content)
    with (
        pytest.raises(FileUnreadable, match=r"cannot read branch '.' of .*a\.root"),
        open_source(str(tmp_path / "a.root")) as source,
    ):
        source.read(["x", "n", "v"], 0, 300)
