"""Files and folders are written atomically, and errors name files that cannot be read or written."""

import json
import os
import subprocess
import sys

import pytest
from killed_writer import kill_while_writing

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.files import (
    check_replaceable,
    new_directory,
    new_file,
    remove_unfinished,
    write_json,
    write_lock,
)
from mlaas4hep.input_files import read_json, read_lines, read_text


def test_a_failed_write_of_a_file_keeps_only_the_old_one(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})

    def fail():
        with new_file(tmp_path / "a.json") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_of_a_folder_keeps_only_the_old_one(tmp_path):
    with new_directory(tmp_path / "bundle") as folder:
        (folder / "one").write_text("1")

    def fail():
        with new_directory(tmp_path / "bundle") as folder:
            (folder / "two").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["one"]
    with new_directory(tmp_path / "bundle") as folder:
        (folder / "three").write_text("3")
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["three"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    code = (
        "import sys, time; from mlaas4hep.files import new_file\n"
        f"with new_file({str(tmp_path / 'a.json')!r}) as path:\n"
        "    path.write_text('half'); print('written', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "written\n"
        writer.kill()
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


def test_a_path_can_be_locked_only_once(tmp_path):
    with write_lock(tmp_path / "out"):
        with (
            pytest.raises(FileUnreadable, match=r"another run is writing .*out; wait for it"),
            write_lock(tmp_path / "out"),
        ):
            pass
        with write_lock(tmp_path / "other"):
            pass
    with write_lock(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_its_process(tmp_path):
    code = "from mlaas4hep.files import write_lock\nwith write_lock('out'):\n    print('held', flush=True)\n    input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(FileUnreadable, match="another run is writing"), write_lock(tmp_path / "out"):
            pass
        process.kill()
    with write_lock(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_error_for_invalid_json_names_line_and_column(tmp_path):
    (tmp_path / "p.json").write_text('{\n "a": 1,\n}')
    with pytest.raises(ConfigError, match=r"p\.json is not JSON: .* at line 3, column 1"):
        read_json(tmp_path / "p.json")


def test_nan_cannot_be_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_lists_may_have_comments_blank_lines_and_any_line_ends(tmp_path):
    (tmp_path / "files.txt").write_bytes(b"\xef\xbb\xbf# all\r\na.root\r\n\r\n  b.root  # the second\n")
    assert read_lines(tmp_path / "files.txt") == ["a.root", "b.root"]


def test_a_killed_writer_leaves_the_old_folder_as_it_was(tmp_path):
    with new_directory(tmp_path / "bundle") as folder:
        (folder / "model").write_text("old")
    kill_while_writing(tmp_path / "bundle", "new_directory")
    assert {path.name: path.read_text() for path in (tmp_path / "bundle").iterdir()} == {"model": "old"}
    assert all(path.name.startswith(".") for path in tmp_path.iterdir() if path.name != "bundle")


def test_the_temporary_folder_of_a_killed_writer_is_removed_by_the_next(tmp_path):
    for _ in range(2):
        kill_while_writing(tmp_path / "bundle", "new_directory", exclusive=True)
    with new_directory(tmp_path / "bundle", exclusive=True) as folder:
        (folder / "model").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (tmp_path / "bundle" / "model").read_text() == "whole"


def test_a_new_folder_is_not_visible_before_it_is_complete(tmp_path):
    with new_directory(tmp_path / "deep" / "bundle") as folder:
        (folder / "one").write_text("1")
        assert not (tmp_path / "deep" / "bundle").exists()
    assert (tmp_path / "deep" / "bundle" / "one").read_text() == "1"


def test_files_have_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with new_file(tmp_path / "a.txt") as path:
            path.write_text("x")
        with new_directory(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750


def test_the_temporary_file_keeps_the_suffix(tmp_path):
    with new_file(tmp_path / "plot.pdf") as path:
        assert path.suffix == ".pdf"
        assert path.parent == tmp_path


def test_the_error_for_a_folder_below_a_file_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    for opener in (new_file, new_directory):
        with pytest.raises(FileUnreadable, match=r"cannot write .*file/inner: "), opener(tmp_path / "file" / "inner"):
            pass


def test_errors_name_files_that_are_missing_or_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileUnreadable, match=r"a\.txt is not a text file"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(FileUnreadable, match=r"cannot read .*b\.txt: No such file or directory"):
        read_text(tmp_path / "b.txt")


def test_a_symbolic_link_is_kept_and_its_target_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "file").symlink_to("disk/file")
    (tmp_path / "bundle").symlink_to("disk/bundle")
    for _ in range(2):
        write_json(tmp_path / "file", [1])
        with new_directory(tmp_path / "bundle") as folder:
            (folder / "model").write_text("new")
    assert (tmp_path / "file").is_symlink()
    assert (tmp_path / "bundle").is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["bundle", "file"]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileUnreadable, match=r"cannot write .*pipe: it is not a regular file"):
        write_json(tmp_path / "pipe", [1])


def test_a_full_disk_is_reported_in_one_line_and_the_old_file_is_kept(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    code = (
        "import resource; from mlaas4hep.errors import FileUnreadable; from mlaas4hep.files import write_json\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"  # to a program this looks like a full disk
        f"try: write_json({str(tmp_path / 'a.json')!r}, list(range(10_000)))\n"
        "except FileUnreadable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"cannot write {tmp_path / 'a.json'}: File too large\n"
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 6001])
def test_json_with_huge_numbers_or_nesting_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=r"the JSON in .*a\.json cannot be parsed"):
        read_json(tmp_path / "a.json")


def test_a_folder_of_another_program_is_renamed(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "notes").write_text("mine")
    (tmp_path / "bundle.old").mkdir()
    with new_directory(tmp_path / "bundle", is_ours=lambda folder: not (folder / "notes").exists()) as folder:
        (folder / "model").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.old", "bundle.old1"]
    assert (tmp_path / "bundle.old1" / "notes").read_text() == "mine"
    assert (tmp_path / "bundle" / "model").read_text() == "new"


def test_an_existing_file_is_replaced_only_by_one_of_the_same_kind(tmp_path):
    def check(path):
        check_replaceable(path, lambda file: file.read_text() == "ours", "things of ours", "name another file")

    (tmp_path / "ours").write_text("ours")
    (tmp_path / "link").symlink_to("ours")
    check(tmp_path / "ours")
    check(tmp_path / "link")
    check(tmp_path / "absent")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").symlink_to("folder/nothing")
    for name in ("mine", "folder"):
        with pytest.raises(ConfigError, match=f"{name} exists and does not contain things of ours; name another file"):
            check(tmp_path / name)
    check(tmp_path / "broken")  # what it points to is to be written


def test_a_lock_file_of_another_program_is_neither_used_nor_changed(tmp_path):
    (tmp_path / ".out.lock").write_text("mine\n")
    with pytest.raises(FileUnreadable, match=r"\.out\.lock exists and is not a lock"), write_lock(tmp_path / "out"):
        pass
    assert (tmp_path / ".out.lock").read_text() == "mine\n"


def test_only_the_temporary_files_of_a_killed_writer_are_removed(tmp_path):
    kill_while_writing(tmp_path / "a.csv", "new_file", exclusive=True)
    (tmp_path / ".b.csv.unfinished").mkdir()
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".a.csv.unfinished", ".b.csv.unfinished"]
    remove_unfinished(tmp_path / "a.csv")
    remove_unfinished(tmp_path / "b.csv")
    assert [path.name for path in tmp_path.iterdir()] == [".b.csv.unfinished"]
