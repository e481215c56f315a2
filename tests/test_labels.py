"""Labels of events: classes, flags and targets."""

import numpy as np
import pytest

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.stream.labels import (
    MAX_CLASSES,
    SHUFFLED_COPIES,
    labels_by_branch,
    labels_by_branches,
    labels_by_file,
    read_labels,
    sorted_classes,
)


@pytest.mark.usefixtures("empty_working_folder")
def test_labels_are_a_file_a_comma_list_or_a_branch(tmp_path):
    (tmp_path / "labels.txt").write_text("ggH # signal\n\nVBF\n")
    assert read_labels(str(tmp_path / "labels.txt")) == ["ggH", "VBF"]
    assert read_labels("1, 0,1") == ["1", "0", "1"]
    assert read_labels("GenPart_pdgId") == "GenPart_pdgId"
    for missing in ("labels.txt", "no/where"):
        with pytest.raises(FileUnreadable, match="file not found"):
            read_labels(missing)


def test_classes_are_numbered_by_value_or_by_alphabet():
    assert labels_by_file(["10", "9", "-1", "9"], list("abcd")).classes == ("-1", "9", "10")
    assert labels_by_file(["10", "9", "-1", "9"], list("abcd")).by_file == (2, 1, 0, 1)
    assert labels_by_file(["ttbar", "QCD"], list("ab")).classes == ("QCD", "ttbar")
    assert labels_by_file([1, 0], list("ab")).classes == ("0", "1")
    assert sorted_classes(["b", "nan", "10", "9", "inf", "a", "9"]) == ("9", "10", "inf", "a", "b", "nan")


def test_y_of_a_file_is_the_class_of_its_label():
    labels = labels_by_file(["b", "a"], ["one", "two"])
    assert labels.encode(0, 3, {}).tolist() == [1, 1, 1]
    assert labels.encode(1, 2, {}).dtype == np.int64


def test_y_of_a_branch_is_the_index_of_its_value():
    labels = labels_by_branch("kind", np.array([-5, 0, 24]))
    assert labels.classes == ("-5", "0", "24")
    assert labels.encode(0, 4, {"kind": np.array([24, -5, 0, 24])}).tolist() == [2, 0, 1, 2]
    with pytest.raises(ConfigError, match="label branch 'kind' has the value 25; the classes are -5, 0, 24"):
        labels.encode(0, 1, {"kind": np.array([25])})
    assert labels_by_branch("isSignal", np.array([False, True])).classes == ("0", "1")


def test_y_of_flags_is_the_one_that_is_set():
    labels = labels_by_branches(["is_b", "is_a"])
    assert labels.classes == ("is_b", "is_a")
    assert labels.encode(0, 3, {"is_a": np.array([1, 0, 1]), "is_b": np.array([0, 1, 0])}).tolist() == [1, 0, 1]
    for found, flags in ((0, [1, 0]), (2, [1, 1])):
        columns = {"is_b": np.array(flags), "is_a": np.array([0, found // 2])}
        with pytest.raises(ConfigError, match=f"an event has {found} of the labels is_b, is_a instead of 1"):
            labels.encode(0, 2, columns)
    with pytest.raises(ConfigError, match="there is one label branch, is_b: a classification needs two classes"):
        labels_by_branches(["is_b"])


def test_a_pattern_in_labels_selects_branches():
    assert read_labels("label_*") == "label_*"
    assert read_labels("/is_./") == "/is_./"


def test_without_labels_events_are_class_1():
    assert SHUFFLED_COPIES.uses_shuffled_copies
    assert SHUFFLED_COPIES.classes[1] == "event"
    assert SHUFFLED_COPIES.encode(0, 2, {}).tolist() == [1, 1]


def test_labels_that_do_not_match_the_files_are_counted():
    with pytest.raises(ConfigError, match="there are 3 labels for 2 files"):
        labels_by_file(["a", "b", "c"], ["one", "two"])


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match="all files have the label a: a classification needs two classes"):
        labels_by_file(["a", "a"], ["one", "two"])
    with pytest.raises(ConfigError, match="all events have 'kind' = 3"):
        labels_by_branch("kind", np.array([3]))


def test_labels_that_are_nan_are_named_as_such():
    with pytest.raises(ConfigError, match="'kind' is NaN for some events; remove such events in training"):
        labels_by_branch("kind", np.array([0.0, 1.0, np.nan]))
    flags = labels_by_branches(["a", "b"])
    with pytest.raises(ConfigError, match="'b' is NaN for some events"):  # NaN is not 0, but not a label either
        flags.encode(0, 2, {"a": np.array([1.0, 0.0]), "b": np.array([0.0, np.nan])})


@pytest.mark.parametrize("values", [[0.0, 0.5], [0.0, np.inf]])
def test_a_label_branch_must_hold_integers(values):
    with pytest.raises(ConfigError, match="values that are not integers"):
        labels_by_branch("weight", np.array(values))


def test_a_label_branch_with_too_many_values_is_refused():
    with pytest.raises(ConfigError, match=f"1001 distinct values, more than {MAX_CLASSES}"):
        labels_by_branch("event", np.arange(MAX_CLASSES + 1))


def test_a_branch_with_a_comma_in_its_name_is_quoted():
    assert read_labels('"a,b"') == "a,b"
    assert read_labels('"a,b",c') == ["a,b", "c"]
