"""Trees by their names: cycles, folders, and signs that mean something to ROOT or uproot."""

import re
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
import uproot
from scripts import only_error_line, run_forked

from mlaas4hep.errors import BranchNotFound, FileUnreadable, TreeNotFound
from mlaas4hep.io import open_source
from mlaas4hep.reader import DataReader

FRIENDS = Path(__file__).parent / "files" / "friends.root"
NAMES = ["x:y/tree", "a/b c/RNT:Tree one", "a/b c/RNT", "a/Events", "semi;colon", "é/ü", "a#b/[0]*"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Trees of 1, 2, ... entries in folders, and two cycles of one, of 21 and 22 entries."""
    path = tmp_path_factory.mktemp("trees") / "trees.root"
    with uproot.recreate(path) as made:
        folders = {"": made}
        for number, name in enumerate(NAMES):
            folder, _, tree = name.rpartition("/")
            if folder not in folders:
                folders[folder] = made.mkdir(folder)
            where = folders[folder]
            where.mktree(tree, {"n": "int32"}).extend({"n": np.full(number + 1, number)})
        for cycle in (1, 2):
            made.mktree("Events", {"n": "int32"}).extend({"n": np.full(20 + cycle, cycle)})
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_can_be_opened_by_its_listed_name(name, file):
    with pytest.raises(TreeNotFound) as caught:
        open_source(file, "none")
    assert repr(name) in str(caught.value)
    number = NAMES.index(name)
    for asked in ((file, name), (file, f"{name};1"), (f"{file}:{name}", "Events"), (f"{file}:{name};1", "Events")):
        with open_source(*asked) as source:
            assert source.read(["n"], 0, number + 1)["n"].tolist() == [number] * (number + 1)


@pytest.mark.parametrize(("name", "cycle"), [("Events", 2), ("Events;1", 1), ("Events;2", 2)])
def test_the_newest_cycle_is_the_default_and_a_number_selects_another(name, cycle, file):
    with DataReader(file, name) as reader:
        assert reader.num_entries == 20 + cycle
        assert reader.specs.branches["n"].minimum == cycle


def test_every_tree_and_cycle_has_an_identity_of_its_own(file):
    names = [*NAMES, "Events", "Events;1"]
    identities = []
    for name in names:
        with open_source(file, name) as source:
            identities.append(source.identity)
    assert len(set(identities)) == len(names)
    with open_source(file, "Events;2") as newest:
        assert newest.identity == identities[names.index("Events")]


def test_the_error_for_a_missing_cycle_lists_the_others(file):
    with pytest.raises(
        TreeNotFound, match=r"tree 'Events;3' not found in .* has .*'Events;1', 'Events;2'; choose one: --br"
    ):
        open_source(file, "Events;3")


def test_a_tree_with_a_slash_in_its_name_can_be_opened(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as made:
        made.mktree("left_right", {"n": "int32"}).extend({"n": np.arange(3)})
    content = (tmp_path / "a.root").read_bytes()
    (tmp_path / "a.root").write_bytes(content.replace(b"left_right", b"left/right"))
    with open_source(str(tmp_path / "a.root"), "left/right") as source:
        assert source.read(["n"], 0, 3)["n"].tolist() == [0, 1, 2]


def test_an_rntuple_can_be_opened_by_its_listed_name(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as made:
        made.mkdir("x:y").mkrntuple("nt:one", {"n": np.arange(3)})
    with open_source(str(tmp_path / "a.root"), "x:y/nt:one") as source:
        assert source.read(["n"], 0, 3)["n"].tolist() == [0, 1, 2]
        with pytest.raises(BranchNotFound, match=r"list all: reader\.py --fin=.*a.root --branch=x:y/nt:one --info"):
            source.read(["m"], 0, 3)


def test_the_suggested_option_works_unchanged(tmp_path, file):
    line = only_error_line(run_forked("reader.py", f"--fin={file}", "--branch=b c/RNT:Tree one", cwd=tmp_path))
    option = next(word for word in shlex.split(line.replace(", or", "")) if word.startswith("--branch="))
    assert option == "--branch=a/b c/RNT:Tree one"
    assert "Read 2 events" in run_forked("reader.py", f"--fin={file}", option, cwd=tmp_path).stdout


def test_the_suggested_command_lists_all_branches(file):
    with open_source(file, "a/Events") as source, pytest.raises(BranchNotFound) as caught:
        source.read(["m"], 0, 1)
    options = shlex.split(re.search(r"list all: reader\.py (.*)$", str(caught.value))[1])
    assert options == [f"--fin={file}", "--branch=a/Events", "--info"]


@pytest.mark.parametrize(
    "version", [b"\x00\x00\xf7\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x80\x00\xf7\x00"]
)
def test_a_root_file_can_be_opened_for_any_version_in_its_header(version, tmp_path):
    with uproot.recreate(tmp_path / "a.root") as made:
        made.mktree("Events", {"n": "int32"}).extend({"n": np.arange(3)})
    content = bytearray((tmp_path / "a.root").read_bytes())
    content[4:8] = version
    (tmp_path / "a.root").write_bytes(content)
    with uproot.open(tmp_path / "a.root") as truth, open_source(str(tmp_path / "a.root")) as source:
        assert source.read(["n"], 0, 3)["n"].tolist() == truth["Events"]["n"].array().tolist()


def test_a_directory_with_billions_of_keys_is_refused(tmp_path):
    """Its only key ends before it begins, so that uproot 5.7 would read it again and again."""
    path = tmp_path / "a.root"
    with uproot.recreate(path, compression=None) as made:
        made["Events"] = {"n": np.arange(3)}
    content = bytearray(path.read_bytes())
    with uproot.open(path) as made:
        keys = made.file.root_directory._fSeekKeys
    keys += int.from_bytes(content[keys + 14 : keys + 16], "big")
    struct.pack_into(">i", content, keys, 0x7FFF0000)
    struct.pack_into(">Bi", content, keys + 4 + 26, 255, -(26 + 5 + 2))  # length of the name of its class
    path.write_bytes(content)
    with pytest.raises(FileUnreadable, match="a directory claims to have 2147418112 keys"):
        open_source(str(path))


def test_a_text_that_begins_like_a_root_file_is_a_text(tmp_path):
    (tmp_path / "a.csv").write_text("root,leaf\n1,2\n3,4\n")
    with open_source(str(tmp_path / "a.csv")) as source:
        assert source.read(["root"], 0, 2)["root"].tolist() == [1, 3]


def test_friends_that_are_not_read_are_mentioned_by_info(tmp_path):
    done = run_forked("reader.py", f"--fin={FRIENDS}", "--info", cwd=tmp_path)
    said = "note: tree 'Events' has friends, which are not read: 'scores' in the same file, 'scores' in other.root"
    how = '; to read one, name it: --friends=:scores of reader.py, or "friends": [":scores"] in params.json'
    assert done.stderr.splitlines() == [said + how]
    assert not run_forked("reader.py", f"--fin={FRIENDS}", "--branch=scores", "--info", cwd=tmp_path).stderr


def test_friends_are_mentioned_if_a_branch_is_not_found():
    with pytest.raises(BranchNotFound, match=r"'score' is not in .*; tree 'Events' has friends, .*'scores' in other"):
        DataReader(FRIENDS, selected_branches=["score"])
    with pytest.raises(BranchNotFound) as caught:
        DataReader(FRIENDS, "scores", selected_branches=["pt"])
    assert "has friends" not in str(caught.value)
