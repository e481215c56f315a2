"""The columns of many files: those with the same columns share one choice, and every other file has its own."""

import numpy as np
import pytest
from tinyroot import write_events, write_tree

from mlaas4hep.errors import BranchNotFound, SpecsMismatch
from mlaas4hep.expressions.preproc_file import load_preproc
from mlaas4hep.reader import DataReader, ReadOptions
from mlaas4hep.reader.column_choice import MAX_CHOICES, ColumnChoices

SCRIPT = """
from pathlib import Path

def preprocessing(events):
    if len(events) == 0:
        with open(Path(__file__).with_suffix(".calls"), "a") as file:
            file.write(".")
    events["double"] = events.met * 2
    return events
"""


def chosen(choices, path, options, specs=None):
    """What a reader of a file chooses, in the order of the choice."""
    with DataReader.open(str(path), options, specs, choices=choices) as reader:
        return list(reader.available.values()), list(reader.features), reader.identifier, reader.extra


@pytest.fixture
def files(tmp_path):
    """Files of which the first two have the same columns; the others have one more, another order, another type."""
    columns = write_events(tmp_path / "a.root", 30)
    write_events(tmp_path / "b.root", 40, seed=1)
    write_events(tmp_path / "more.root", 30, extra=np.zeros(30, np.float32))
    write_tree(tmp_path / "order.root", dict(reversed(columns.items())))
    write_tree(tmp_path / "type.root", {**columns, "met": columns["met"].astype(np.float64)})
    return [tmp_path / f"{name}.root" for name in ("a", "b", "more", "order", "type")]


def test_a_choice_does_not_depend_on_the_files_that_were_opened_before(files):
    choices = ColumnChoices()
    for options in (ReadOptions(), ReadOptions(selected_branches=["met"]), ReadOptions(extra=["met", "run"])):
        for path in [*files, *files]:
            assert chosen(choices, path, options) == chosen(ColumnChoices(), path, options)


def test_files_with_the_same_columns_are_examined_once(tmp_path, files):
    (tmp_path / "script.py").write_text(SCRIPT)
    options, choices = ReadOptions(preproc=load_preproc(tmp_path / "script.py")), ColumnChoices()
    for path in [*files[:2], *files[:3], *files]:
        assert "double" in chosen(choices, path, options)[1]
    assert len((tmp_path / "script.calls").read_text()) == 4


def test_the_number_of_remembered_choices_is_limited(tmp_path, files):
    (tmp_path / "script.py").write_text(SCRIPT)
    preproc, choices = load_preproc(tmp_path / "script.py"), ColumnChoices()
    for repetition in range(2):
        for number in range(MAX_CHOICES + 1):
            chosen(choices, files[0], ReadOptions(preproc=preproc, nevts=number + 1))
        assert len((tmp_path / "script.calls").read_text()) == (repetition + 1) * (MAX_CHOICES + 1)


def test_errors_name_the_file_that_has_them(files):
    choices, options = ColumnChoices(), ReadOptions(selected_branches=["extra"])
    chosen(choices, files[2], options)
    for path in files[:2]:
        with pytest.raises(BranchNotFound, match=rf"branch 'extra' is not in .*{path.name}"):
            chosen(choices, path, options)


def test_specs_without_events_are_accepted_for_files_without_events_only(tmp_path, files):
    write_events(tmp_path / "empty.root", 0)
    with DataReader(tmp_path / "empty.root") as reader:
        specs = reader.specs
    choices = ColumnChoices()
    for _ in range(2):
        assert chosen(choices, tmp_path / "empty.root", ReadOptions(), specs)[1] == list(specs.branches)
        with pytest.raises(SpecsMismatch, match="without events"):
            chosen(choices, files[0], ReadOptions(), specs)
