"""Names of files by hand; more in test_io.py."""

import pytest

from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io.location import candidates, is_url, read_file_list


def test_urls_are_taken_as_they_are():
    for url in ("root://host//a.root", "https://host/a.root", "s3://bucket/a.root"):
        assert is_url(url)
        assert candidates(url, ["root://other"]) == [url]


def test_an_lfn_without_a_redirector_says_which_to_name():
    with pytest.raises(FileUnreadable, match=r"/store/x\.root is not on this disk; name a redirector"):
        candidates("/store/x.root")


def test_a_folder_is_no_file_and_the_error_says_what_to_write(tmp_path):
    with pytest.raises(FileUnreadable, match=r"is a folder, not a file; name its files, as in '.*/\*\.root'"):
        candidates(str(tmp_path))


def test_a_name_with_brackets_that_exists_is_no_glob(tmp_path):
    path = tmp_path / "a[1].root"
    path.write_bytes(b"root")
    assert read_file_list(str(path)) == [str(path)]


def test_a_list_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileUnreadable, match=r"cannot read .*files\.txt: No such file"):
        read_file_list(str(tmp_path / "files.txt"))
