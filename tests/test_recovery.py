"""Files that their writer did not close: what ROOT recovers, and what cannot be recovered.

ROOT wrote `files/unclosed.root` in a process that was killed (`files/odd.py`); of it, ROOT 6.40 itself recovers 450
entries of `Events`. ROOT does not recover trees in folders.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import uproot
from check_source import check_source
from http_server import WebServer
from scripts import only_error_line, run_forked
from tinyroot import write_events

from mlaas4hep.errors import FileUnreadable, TreeNotFound
from mlaas4hep.io import open_source
from mlaas4hep.io.root import recovery
from mlaas4hep.reader import DataReader

UNCLOSED = Path(__file__).parent / "files" / "unclosed.root"
SAVED = 450


def check_events(source):
    read = source.read(["x", "n", "v", "vector"], 0, SAVED)
    counts = np.arange(SAVED) % 4
    np.testing.assert_array_equal(read["x"], np.arange(SAVED) / 4)
    np.testing.assert_array_equal(read["n"], counts)
    np.testing.assert_array_equal(read["v"].counts, counts)
    k = np.concatenate([np.arange(count) for count in counts])
    np.testing.assert_array_equal(read["v"].content, np.repeat(np.arange(SAVED), counts) + k)
    np.testing.assert_array_equal(read["vector"].content, np.tile(np.arange(3), SAVED))


def test_the_events_that_root_recovers_are_recovered_with_a_notice(tmp_path, capfd):
    path = tmp_path / "unclosed.root"
    path.write_bytes(UNCLOSED.read_bytes())
    with open_source(str(path)) as source:
        assert source.num_entries == SAVED
        check_source(source)
        check_events(source)
    with DataReader(path, selected_branches=["x"]) as reader:
        assert sum(map(len, reader)) == SAVED
    notice = r"note: .*unclosed\.root was not closed by its writer; recovered .*'Events'.* as last saved"
    assert len(re.findall(notice, capfd.readouterr().err)) == 1


def test_a_tree_in_a_folder_is_recovered_too():
    with open_source(str(UNCLOSED), "folder/inner") as source:
        np.testing.assert_array_equal(source.read(["x"], 0, 100)["x"], np.arange(100) / 4)


def test_the_example_of_a_killed_job_has_5000_events():
    path = Path(__file__).parents[2] / "shared" / "cases" / "reading" / "killed4.root"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with open_source(str(path)) as source:
        assert source.num_entries == 5000  # as ROOT 6.40 says
        np.testing.assert_array_equal(source.read(["x"], 0, 5000)["x"], np.arange(5000))


def keys(content):
    """Return where the records are that are no gaps, and where the next one begins."""
    at, found = 100, []
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big", signed=True)
        if length > 0:
            found.append((at, at + length))
        at += abs(length)
    return found


def saved_tree(content):
    """Return the last key of the tree, where its record begins and ends."""
    return max((begin, end) for begin, end in keys(content) if b"\5TTree\6Events" in content[begin : begin + 60])


def test_bytes_after_the_last_complete_record_are_ignored(tmp_path):
    content = UNCLOSED.read_bytes()
    begin, _ = keys(content)[-1]
    (tmp_path / "a.root").write_bytes(content + content[begin : begin + 60])  # the record was being written
    with open_source(str(tmp_path / "a.root")) as source:
        check_events(source)


def test_the_error_for_an_unclosed_file_without_a_saved_tree_says_so(tmp_path):
    content = UNCLOSED.read_bytes().replace(b"\5TTree", b"\5TH1XF")
    (tmp_path / "a.root").write_bytes(content)
    line = only_error_line(run_forked("reader.py", f"--fin={tmp_path / 'a.root'}", "--info", cwd=tmp_path))
    assert "a.root was not closed by its writer, and no tree can be recovered from it" in line
    assert "write it again" in line


def test_a_tree_that_was_being_saved_is_not_recovered(tmp_path):
    """ROOT deletes what it saved before only when it has saved it again."""
    content = UNCLOSED.read_bytes()
    begin, end = saved_tree(content)
    (tmp_path / "a.root").write_bytes(content[: (begin + end) // 2])
    with pytest.raises(TreeNotFound, match=r"tree 'Events' not found in .*a\.root, which has 'folder/inner'"):
        open_source(str(tmp_path / "a.root"))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_an_interrupted_copy_is_reported_as_truncated(tmp_path, share):
    write_events(tmp_path / "a.root", 5000, clusters=5)
    content = (tmp_path / "a.root").read_bytes()
    left = int(share * len(content))
    (tmp_path / "a.root").write_bytes(content[:left])
    with pytest.raises(FileUnreadable, match=rf"a\.root is truncated: it has {left:,} of {len(content):,} bytes"):
        open_source(str(tmp_path / "a.root"))


def test_a_closed_file_without_trees_is_reported(tmp_path):
    with uproot.recreate(tmp_path / "a.root"):
        pass
    with pytest.raises(TreeNotFound, match="has no trees"):
        open_source(str(tmp_path / "a.root"))


def test_a_file_on_a_server_is_recovered_in_few_requests():
    server = WebServer({"a.root": UNCLOSED.read_bytes()})
    try:
        with open_source(f"{server.address}/a.root") as source:
            opened = server.requests
            check_events(source)
    finally:
        server.close()
    assert opened < 15


def test_the_error_for_a_remote_file_that_takes_too_many_requests_suggests_a_copy(monkeypatch):
    monkeypatch.setattr(recovery, "REMOTE_WINDOW", 8192)
    monkeypatch.setattr(recovery, "MAX_REMOTE_REQUESTS", 1)
    server = WebServer({"a.root": UNCLOSED.read_bytes()})
    try:
        with pytest.raises(FileUnreadable, match=r"was not closed by its writer.*too large.*copy it to a local disk"):
            open_source(f"{server.address}/a.root")
    finally:
        server.close()


def test_windows_smaller_than_the_file_find_the_same_keys(monkeypatch):
    with open_source(str(UNCLOSED)) as source:
        whole = list(source.columns)
    monkeypatch.setattr(recovery, "WINDOW", 5000)
    with open_source(str(UNCLOSED)) as source:
        assert list(source.columns) == whole
        check_events(source)


@pytest.mark.parametrize("size", [4, 40, 99, 100, 160, 230])
def test_files_of_a_few_bytes_are_an_error(tmp_path, size):
    (tmp_path / "a.root").write_bytes(UNCLOSED.read_bytes()[:size])
    with pytest.raises(FileUnreadable, match=r"a\.root"):
        open_source(str(tmp_path / "a.root"))
