"""Names of files, lists of them, and where they lie."""

import pytest

from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io.storage.location import candidates, expand, is_url, read_file_list


def test_an_lfn_is_tried_at_each_redirector_in_turn():
    places = candidates("/store/data/x.root", ["root://one", "root://two:1095/"])
    assert places == ["root://one//store/data/x.root", "root://two:1095//store/data/x.root"]


def test_other_missing_paths_are_not_requested_from_a_redirector(tmp_path):
    with pytest.raises(FileUnreadable, match="file not found"):
        candidates(str(tmp_path / "x.root"), ["root://one"])


def test_the_error_for_a_missing_file_suggests_the_nearest_name(tmp_path):
    (tmp_path / "ttbar.root").write_text("")
    with pytest.raises(FileUnreadable, match=r"closest: '.*ttbar\.root'"):
        candidates(str(tmp_path / "ttbra.root"))


@pytest.mark.usefixtures("empty_working_folder")
def test_a_list_file_may_contain_comments_globs_and_paths_relative_to_its_folder(tmp_path):
    for name in ("b.root", "a.root", "c.root"):
        (tmp_path / name).write_bytes(b"root\0")
    (tmp_path / "files.txt").write_text("# mine\nc.root\n[ab].root\nroot://host//d.root\n")
    found = read_file_list(str(tmp_path / "files.txt"))
    assert found == [
        str(tmp_path / "c.root"),
        str(tmp_path / "a.root"),
        str(tmp_path / "b.root"),
        "root://host//d.root",
    ]


def test_a_list_file_may_begin_with_an_xrootd_url(tmp_path):
    (tmp_path / "files.txt").write_text("root://host//a.root\nroot://host//b.root\n")
    assert read_file_list(str(tmp_path / "files.txt")) == ["root://host//a.root", "root://host//b.root"]


def test_a_comma_list_a_glob_and_a_data_file_name_files(tmp_path):
    for name in ("a.root", "b.root"):
        (tmp_path / name).write_bytes(b"root\0...")
    a, b = str(tmp_path / "a.root"), str(tmp_path / "b.root")
    assert read_file_list(f"{b}, {a}") == [b, a]
    assert read_file_list(str(tmp_path / "*.root")) == [a, b]
    assert read_file_list(a) == [a]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json.gz", "a.TSV"])
def test_a_data_file_that_is_text_is_not_a_list_of_files(tmp_path, name):
    (tmp_path / name).write_text("x,y\n1,2\n")
    assert read_file_list(str(tmp_path / name)) == [str(tmp_path / name)]


def test_a_list_without_names_and_a_glob_without_matches_are_errors(tmp_path):
    (tmp_path / "files.txt").write_text("# nothing\n")
    with pytest.raises(FileUnreadable, match="contains no file names"):
        read_file_list(str(tmp_path / "files.txt"))
    with pytest.raises(FileUnreadable, match="no file matches"):
        expand([str(tmp_path / "*.root")])


def test_urls_are_used_unchanged():
    for url in ("root://host//a.root", "https://host/a.root", "s3://bucket/a.root"):
        assert is_url(url)
        assert candidates(url, ["root://other"]) == [url]


def test_the_error_for_an_lfn_without_a_redirector_suggests_one():
    with pytest.raises(FileUnreadable, match=r"/store/x\.root is not on this disk; set a redirector"):
        candidates("/store/x.root")


def test_the_error_for_a_folder_says_how_to_name_its_files(tmp_path):
    with pytest.raises(FileUnreadable, match=r"is a folder, not a file; give its files, for example '.*/\*\.root'"):
        candidates(str(tmp_path))


def test_an_existing_name_with_brackets_is_not_a_glob(tmp_path):
    path = tmp_path / "a[1].root"
    path.write_bytes(b"root\0")
    assert read_file_list(str(path)) == [str(path)]


def test_the_error_for_a_missing_list_names_it(tmp_path):
    with pytest.raises(FileUnreadable, match=r"cannot read .*files\.txt: No such file"):
        read_file_list(str(tmp_path / "files.txt"))
