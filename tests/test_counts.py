"""Counts and offsets that do not fit each other: an error that names branch and entries, or the lists as stored.

ROOT believes the counter and reads into the next entry; uproot believes the offsets, as we do.
"""

import struct

import awkward as ak
import numpy as np
import pytest
import uproot
from check_source import check_source

from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io import open_source

EVENTS = 20
LENGTHS = np.arange(EVENTS) % 4
KEY = 18  # bytes of TKey up to its strings; TBasket's fields are the last 19 bytes before the content


@pytest.fixture(params=["compiled", "NumPy", "uproot"])
def road(request, monkeypatch):
    """One of the ways in which baskets are decoded."""
    if request.param != "compiled":
        monkeypatch.setattr("mlaas4hep.io.root.basket_reader.KERNEL", None)
    if request.param == "uproot":
        monkeypatch.setattr("mlaas4hep.io.root.uproot_tree.basket_layout_of", lambda *_: None)
        monkeypatch.setattr("mlaas4hep.io.root.metadata.tree_record._Parser.tree", lambda *_: 1 / 0)
    return request.param


class File:
    """A file with a flat branch `x`, lists `jet` and their counter `njet`, whose baskets may be changed."""

    def __init__(self, path):
        self.path = path
        lists = ak.unflatten(np.arange(LENGTHS.sum(), dtype=np.float32), LENGTHS)
        with uproot.recreate(path, compression=None) as file:
            file.mktree("Events", {"x": "float64", "jet": "var * float32"})
            file["Events"].extend({"x": np.arange(float(EVENTS)), "jet": lists})
        self.content = bytearray(path.read_bytes())
        with uproot.open(path) as file:
            self.seeks = {branch.name: int(branch.member("fBasketSeek")[0]) for branch in file["Events"].branches}
        self.name = ""

    def key_length(self, branch):
        return struct.unpack_from(">h", self.content, self.seeks[branch] + 14)[0]

    def write(self, branch, place, form, value):
        """Write one number `place` bytes behind the content's beginning; negative: TBasket's fields."""
        struct.pack_into(form, self.content, self.seeks[branch] + self.key_length(branch) + place, value)
        self.path.write_bytes(self.content)


def check_refused(path, branch):
    says = rf"cannot read branch '{branch}' of .*a\.root, entries 0 to 19: "
    with open_source(str(path)) as source, pytest.raises(FileUnreadable, match=says) as caught:
        source.read([branch], 0, EVENTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("branch", ["x", "jet"])
@pytest.mark.parametrize("count", [EVENTS + 1, 10**9, -1, 0])
def test_a_basket_with_another_number_of_entries_than_in_the_tree_is_refused(tmp_path, road, branch, count):
    file = File(tmp_path / "a.root")
    file.write(branch, -9, ">i", count)  # fNevBuf
    check_refused(file.path, branch)


@pytest.mark.parametrize("last", [2**31 - 1, 10_000, 3])
def test_a_basket_whose_content_extends_past_its_end_is_refused(tmp_path, road, last):
    for branch in ("x", "jet"):
        file = File(tmp_path / "a.root")
        file.write(branch, -5, ">i", last)  # fLast
        check_refused(file.path, branch)


@pytest.mark.parametrize("offset", [10_000, 2**31 - 1, -8, 0])
@pytest.mark.parametrize("entry", [3, EVENTS - 1])
def test_offsets_past_the_end_of_the_basket_are_refused(tmp_path, road, offset, entry):
    file = File(tmp_path / "a.root")
    file.write("jet", 4 * int(LENGTHS.sum()) + 4 + 4 * entry, ">i", offset)
    check_refused(file.path, "jet")


@pytest.mark.parametrize("count", [0, 3, 1_000_000, -5])
def test_lists_have_their_stored_length_even_if_their_counter_differs(tmp_path, road, count):
    file = File(tmp_path / "a.root")
    file.write("njet", 4 * 6, ">i", count)
    with uproot.open(file.path) as tree:
        truth = tree["Events/jet"].array()
    with open_source(str(file.path)) as source:
        check_source(source)
        found = source.read(["jet", "njet"], 0, EVENTS)
    assert found["jet"].counts.tolist() == LENGTHS.tolist() == ak.num(truth).to_list()
    assert found["jet"].content.tolist() == list(range(LENGTHS.sum()))
    assert found["njet"].tolist() == [*LENGTHS[:6], count, *LENGTHS[7:]]
