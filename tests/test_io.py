"""Names of files, and the stretches that files are read in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io import Jagged
from mlaas4hep.io.blocks import blocks
from mlaas4hep.io.columns import select_events
from mlaas4hep.io.location import candidates, expand, read_file_list


@given(st.sets(st.integers(1, 10_000), max_size=30), st.integers(0, 12_000), st.integers(1, 3000))
def test_blocks_hold_every_entry_once_and_are_of_about_the_wanted_size(inner, stop, target):
    boundaries = sorted({0, 10_000, *inner})
    stop = min(stop, 10_000)
    cut = blocks(boundaries, stop, target)
    assert [entry for start, end in cut for entry in range(start, end)] == list(range(stop))
    assert all(0 < end - start <= 2 * target for start, end in cut)


def test_blocks_join_small_clusters_and_cut_large_ones():
    assert blocks([0, 40, 80, 120, 160], 160, 100) == [(0, 80), (80, 160)]
    assert blocks([0, 1000], 1000, 400) == [(0, 333), (333, 666), (666, 1000)]
    assert blocks([0, 150], 150, 100) == [(0, 150)]
    assert blocks([0], 0, 100) == []


def test_events_that_are_kept_keep_their_lists():
    lists = Jagged(np.array([0, 2, 2, 5]), np.array([1, 2, 3, 4, 5]))
    kept = select_events(lists, np.array([True, False, True]))
    assert kept.offsets.tolist() == [0, 2, 5]
    assert kept.content.tolist() == [1, 2, 3, 4, 5]
    assert select_events(lists, np.array([False, True, False])).content.tolist() == []


def test_an_lfn_is_tried_at_each_redirector_in_turn():
    places = candidates("/store/data/x.root", ["root://one", "root://two:1095/"])
    assert places == ["root://one//store/data/x.root", "root://two:1095//store/data/x.root"]


def test_no_other_missing_path_is_sent_to_a_redirector(tmp_path):
    with pytest.raises(FileUnreadable, match="there is no file"):
        candidates(str(tmp_path / "x.root"), ["root://one"])


def test_a_missing_file_names_its_nearest_neighbour(tmp_path):
    (tmp_path / "ttbar.root").write_text("")
    with pytest.raises(FileUnreadable, match=r"closest: '.*ttbar\.root'"):
        candidates(str(tmp_path / "ttbra.root"))


def test_a_list_file_may_hold_comments_globs_and_paths_beside_itself(tmp_path):
    for name in ("b.root", "a.root", "c.root"):
        (tmp_path / name).write_bytes(b"root")
    (tmp_path / "files.txt").write_text("# mine\nc.root\n[ab].root\nroot://host//d.root\n")
    found = read_file_list(str(tmp_path / "files.txt"))
    assert found == [
        str(tmp_path / "c.root"),
        str(tmp_path / "a.root"),
        str(tmp_path / "b.root"),
        "root://host//d.root",
    ]


def test_a_comma_list_a_glob_and_a_data_file_are_lists_too(tmp_path):
    for name in ("a.root", "b.root"):
        (tmp_path / name).write_bytes(b"root....")
    a, b = str(tmp_path / "a.root"), str(tmp_path / "b.root")
    assert read_file_list(f"{b}, {a}") == [b, a]
    assert read_file_list(str(tmp_path / "*.root")) == [a, b]
    assert read_file_list(a) == [a]


def test_a_list_without_names_and_a_glob_without_matches_are_errors(tmp_path):
    (tmp_path / "files.txt").write_text("# nothing\n")
    with pytest.raises(FileUnreadable, match="names no files"):
        read_file_list(str(tmp_path / "files.txt"))
    with pytest.raises(FileUnreadable, match="no file matches"):
        expand([str(tmp_path / "*.root")])
