"""TTrees as sources: real ones, tiny ones, and what is no TTree."""

import awkward as ak
import numpy as np
import pytest
import uproot
from check_source import check_source
from realdata import real_file
from tinyroot import write_events, write_tree

from mlaas4hep.errors import FileUnreadable, TreeNotFound
from mlaas4hep.io import Kind, open_source
from mlaas4hep.reader import DataReader


@pytest.mark.parametrize(
    ("name", "tree"),
    [
        ("nanoAOD_2015_CMS_Open_Data_ttbar.root", "Events"),
        ("uproot-HZZ.root", "events"),
        ("uproot-HZZ-lzma.root", "events"),
        ("uproot-HZZ-lz4.root", "events"),
        ("uproot-HZZ-zstd.root", "events"),
        ("uproot-Zmumu.root", "events"),
    ],
)
def test_real_trees_fulfil_the_contract(name, tree):
    with open_source(real_file(name), tree) as source:
        check_source(source)


def test_a_tree_with_every_type_fulfils_the_contract(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        f"{kind}{bits}": rng.integers(0, 100, 50).astype(f"{kind}{bits}")
        for kind, bits in (("int", 8), ("int", 16), ("int", 32), ("int", 64), ("uint", 8), ("uint", 16), ("uint", 32))
    }
    columns |= {"flag": rng.uniform(size=50) > 0.5, "f": rng.normal(size=50).astype("f4"), "d": rng.normal(size=50)}
    columns["fixed"] = rng.normal(size=(50, 3))
    columns["list"] = ak.unflatten(rng.normal(size=100).astype("f4"), np.full(50, 2))
    write_tree(tmp_path / "all.root", columns, clusters=4)
    with open_source(str(tmp_path / "all.root")) as source:
        check_source(source)
        assert source.columns["fixed"].kind is Kind.FIXED
        assert source.columns["fixed"].size == 3
        assert list(source.boundaries) == [0, 12, 25, 37, 50]
        np.testing.assert_array_equal(source.read(["fixed"], 10, 30)["fixed"], columns["fixed"][10:30])


def test_strings_are_left_out_with_the_reason():
    with open_source(real_file("uproot-Zmumu.root"), "events") as source:
        assert source.columns["Type"].kind is Kind.OTHER
        assert source.columns["Type"].reason == "char*: not a number"


def test_an_empty_tree_has_no_events(tmp_path):
    write_events(tmp_path / "empty.root", 0)
    with open_source(str(tmp_path / "empty.root")) as source:
        assert source.num_entries == 0
        assert list(source.boundaries) == [0]


def test_the_identity_does_not_change_when_a_file_is_renamed(tmp_path):
    write_events(tmp_path / "a.root", 10)
    with open_source(str(tmp_path / "a.root")) as source:
        before = source.identity
    (tmp_path / "a.root").rename(tmp_path / "b.root")
    with open_source(str(tmp_path / "b.root")) as source:
        assert source.identity == before


def test_a_tree_in_a_folder_is_named_by_its_path(tmp_path):
    with uproot.recreate(tmp_path / "deep.root") as file:
        file.mktree("boostedAk8/events", {"x": "f8"}).extend({"x": np.arange(5.0)})
    with open_source(str(tmp_path / "deep.root"), "boostedAk8/events") as source:
        assert source.num_entries == 5


def test_the_error_for_a_missing_tree_lists_the_trees(tmp_path):
    write_events(tmp_path / "a.root", 5)
    with pytest.raises(TreeNotFound, match=r"tree 'events' not found in .*, which has 'Events'; choose one"):
        open_source(str(tmp_path / "a.root"), "events")


def test_the_error_for_a_file_of_another_format_says_that_it_is_not_a_root_file(tmp_path):
    (tmp_path / "a.root").write_text("not at all")
    with pytest.raises(FileUnreadable, match=r"the format of .*a\.root is not supported"):
        open_source(str(tmp_path / "a.root"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_error_for_a_truncated_file_names_it(tmp_path, share):
    write_events(tmp_path / "a.root", 5000, clusters=5)
    content = (tmp_path / "a.root").read_bytes()
    (tmp_path / "a.root").write_bytes(content[: int(share * len(content))])
    with (
        pytest.raises((FileUnreadable, TreeNotFound), match=r"a\.root"),
        open_source(str(tmp_path / "a.root")) as source,
    ):
        source.read(list(source.columns), 0, source.num_entries)


def test_the_error_for_a_damaged_basket_names_branch_and_entries(tmp_path):
    write_events(tmp_path / "a.root", 5000, clusters=2)
    with open_source(str(tmp_path / "a.root")) as source:
        seek = uproot.open(tmp_path / "a.root")["Events"]["met"].member("fBasketSeek")[1]
    content = bytearray((tmp_path / "a.root").read_bytes())
    content[seek + 80 : seek + 400] = bytes(320)
    (tmp_path / "a.root").write_bytes(content)
    with open_source(str(tmp_path / "a.root")) as source:
        source.read(["met", "pt"], 0, 2500)
        with pytest.raises(FileUnreadable, match=r"cannot read branch 'met' of .*a\.root, entries 2500 to 4999"):
            source.read(["met", "pt"], 2500, 5000)


def test_an_array_of_one_number_is_an_array(tmp_path):
    columns = {"one": np.arange(5.0)[:, None], "two": np.ones((5, 2), np.float32), "x": np.arange(5)}
    write_tree(tmp_path / "a.root", columns, clusters=2)
    with open_source(str(tmp_path / "a.root")) as source:
        check_source(source)
        assert source.read(["one"], 0, 5)["one"].shape == (5, 1)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_decreasing_offsets_are_an_error_although_uproot_accepts_them(tmp_path, on_error):
    path, lists = tmp_path / "a.root", ak.unflatten(np.arange(60, dtype="f4"), [3] * 20)
    with uproot.recreate(path, compression=None) as file:
        file.mktree("Events", {"l": "var * float32"})
        file["Events"].extend({"l": lists})
    with uproot.open(path) as file:
        seek, size = (int(file["Events"]["l"].member(name)[0]) for name in ("fBasketSeek", "fBasketBytes"))
    content = bytearray(path.read_bytes())
    offsets = np.frombuffer(content, ">i4", 21, seek + size - 4 * 21)
    offsets[5] = offsets[3]
    path.write_bytes(content)
    with DataReader(path, on_error=on_error) as reader:
        if on_error == "skip":
            assert sum(map(len, reader)) == 0
            assert list(reader.skipped) == [(0, 20)]
            return
        with pytest.raises(FileUnreadable, match=r"cannot read branch 'l' of .*a\.root, entries 0 to 19: .*damaged"):
            list(reader)
