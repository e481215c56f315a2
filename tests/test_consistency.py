"""Files of one sample that differ in their branches: the setting that the error prints works when copied."""

import json
import re
import shlex
import subprocess
import sys

import awkward as ak
import numpy as np
import pytest
from scripts import ROOT, only_error_line, run_forked
from tinyroot import damage, write_events, write_tree

from mlaas4hep.errors import BranchNotFound, SpecsMismatch
from mlaas4hep.stream import DataGenerator

ODD = ["a,b", "@list", "/x/", "w[3]", 'say "x"', "é ü", "a*", "dot.ted"]


def write(path, names, **more):
    """Write a file of a few events with flat branches of some names."""
    write_tree(path, {"x": np.arange(4.0), **{name: np.arange(4.0) for name in names}, **more})
    return str(path)


def follow(files, error, **params):
    """Open files once more with the setting for params.json that an error prints; return the branches that are left."""
    key, value = re.search(r'or "(\w+)": (\[.*?\]) in params\.json$', str(error)).groups()
    with DataGenerator(files, params={**params, key: json.loads(value), "cache": False}) as generator:
        return list(generator.specs.branches)


def refuse(files, **params):
    """Return the error of files that differ."""
    with pytest.raises(SpecsMismatch) as caught:
        DataGenerator(files, params={**params, "cache": False})
    return caught.value


def test_the_option_that_the_script_prints_can_be_copied(tmp_path):
    write(tmp_path / "a.root", ["HLT_A", "HLT_B", *ODD[:4]])
    write(tmp_path / "b.root", ["HLT_A", "HLT_C", *ODD[4:]])
    line = only_error_line(run_forked("reader.py", "--fin=a.root,b.root", "--verbose=0", cwd=tmp_path))
    option = next(word for word in shlex.split(line) if word.startswith("--exclude-branches="))
    done = run_forked("reader.py", "--fin=a.root,b.root", "--info", option, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(\S+) values", done.stdout, re.MULTILINE) == ["HLT_A", "x"]


def test_the_setting_for_params_that_is_printed_can_be_copied(tmp_path):
    files = [write(tmp_path / "a.root", ["HLT_A", *ODD]), write(tmp_path / "b.root", ["HLT_A"])]
    assert follow(files, refuse(files)) == ["HLT_A", "x"]
    files.append(write(tmp_path / "c.root", ["HLT_C", "a?", "[/]x/"]))
    assert follow(files, refuse(files, exclude_branches=["HLT_A"]), selected_branches=[]) == ["x"]


def test_a_glob_is_suggested_for_many_branches_with_the_number_of_common_branches_it_excludes(tmp_path):
    paths = [f"HLT_{number}" for number in range(40)]
    files = [write(tmp_path / "a.root", ["HLT_A", *paths]), write(tmp_path / "b.root", ["HLT_A"])]
    error = refuse(files)
    assert "'HLT_0' is not in" in str(error)
    hint = "or exclude them (this also excludes 1 common branches): --exclude-branches='HLT_*' of reader.py"
    assert f'and 37 more; set "missing_branches" to "common" or "nan", {hint}' in str(error)
    assert follow(files, error) == ["x"]


def test_all_branches_are_listed_with_verbose(tmp_path, capsys):
    names = [f"{letter}{number}" for number in range(5) for letter in "abcdefgh"]
    files = [write(tmp_path / "a.root", names), write(tmp_path / "b.root", [])]
    assert str(refuse(files)).endswith("--verbose lists all 40, and how to exclude them")
    error = refuse(files, verbose=1)
    assert [re.search("'(.*?)'", line)[1] for line in capsys.readouterr().err.splitlines()] == sorted(names)
    assert follow(files, error) == ["x"]


def test_lists_of_one_file_that_are_numbers_or_arrays_in_another_are_left_out(tmp_path):
    lists = ak.Array([[1.0], [], [2.0, 3.0], [4.0]])
    files = [
        write(tmp_path / "a.root", [], n=lists, array=np.ones((4, 2))),
        write(tmp_path / "b.root", ["n"], array=np.ones((4, 3))),
    ]
    error = refuse(files)
    assert "'array' is fixed (2 numbers) in" in str(error)
    assert follow(files, error) == ["x"]


def test_files_without_a_common_branch_have_no_hint_that_cannot_be_followed(tmp_path):
    for name in "ab":
        write_tree(tmp_path / f"{name}.root", {name: np.arange(4.0)})
    assert str(refuse([tmp_path / "a.root", tmp_path / "b.root"])).endswith("give files that have branches in common")


def test_an_excluded_name_has_to_exist_in_one_of_the_files(tmp_path):
    files = [write(tmp_path / "a.root", ["HLT_A"]), write(tmp_path / "b.root", [])]
    for wanted in (["HLT_A"], ["HLT_?"], ["/HLT_.*/"]):
        with DataGenerator(files, params={"exclude_branches": wanted, "cache": False}) as generator:
            assert list(generator.specs.branches) == ["x"]
    with pytest.raises(
        BranchNotFound, match=r"excluded branch 'HLT_B' does not exist in any of the 2 files; closest: 'HLT_A'"
    ):
        DataGenerator(files, params={"exclude_branches": ["HLT_B"], "cache": False})
    with pytest.raises(BranchNotFound, match=r"branch 'HLT_A' is not in tree 'Events' of .*b\.root"):
        DataGenerator(files[1:], params={"exclude_branches": ["HLT_A"], "cache": False})


def test_specs_of_all_files_may_leave_out_a_branch_of_one(tmp_path):
    files = [write(tmp_path / "a.root", ["HLT_A"]), write(tmp_path / "b.root", [])]
    with DataGenerator(files[1:], params={"cache": False}) as generator:
        specs = generator.specs
    with DataGenerator(files, params={"exclude_branches": ["HLT_A"], "cache": False}, specs=specs) as generator:
        assert list(generator.specs.branches) == ["x"]


def test_files_are_compared_before_any_events_are_read(tmp_path):
    write_events(tmp_path / "a.root", 200)
    damage(tmp_path / "a.root", "met", 1)
    write_events(tmp_path / "b.root", 200, more=np.zeros(200))
    assert "'more' is not in" in str(refuse([tmp_path / "a.root", tmp_path / "b.root"]))


@pytest.mark.parametrize("common", [["event"], []])
def test_the_printed_identifier_can_be_copied(common, tmp_path):
    numbers = {name: np.arange(4, dtype=np.uint32) for name in ("run", "event")}
    files = [
        write(tmp_path / "a.root", [], **numbers),
        write(tmp_path / "b.root", [], **{name: numbers[name] for name in common}),
    ]
    error = refuse(files)
    exclude = [name for name in numbers if name not in common]
    assert follow(files, error, exclude_branches=exclude) == ["x"]


def test_the_hint_about_names_with_control_characters_can_be_followed(tmp_path):
    for index, more in enumerate(({"nl\nx": np.arange(5.0)}, {"esc\x1b[31m": np.arange(5.0)})):
        write_tree(tmp_path / f"{index}.root", {"x": np.arange(5.0), **more})
    line = only_error_line(run_forked("reader.py", "--fin=*.root", cwd=tmp_path))
    found = re.search(r"--exclude-branches=(.*) of reader.py", line)
    command = [sys.executable, str(ROOT / "reader.py"), "--fin=*.root"]
    text = f"{shlex.join(command)} {found[0].removesuffix(' of reader.py')}"
    done = subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
