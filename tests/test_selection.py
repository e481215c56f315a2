"""Which branches become features."""

import numpy as np
import pytest

from mlaas4hep.errors import BranchNotFound, ConfigError
from mlaas4hep.io import Column, Kind
from mlaas4hep.reader.selection import flat_columns, match, select

COLUMNS = {
    name: Column(name, kind, np.dtype(np.float32), reason="char*: not a number" if kind is Kind.OTHER else "")
    for name, kind in [
        ("run", Kind.FLAT), ("Jet_pt", Kind.JAGGED), ("Jet_eta", Kind.JAGGED), ("MET_pt", Kind.FLAT),
        ("MET_phi", Kind.FLAT), ("cov", Kind.FIXED), ("name", Kind.OTHER), ("odd[3]", Kind.FLAT),
    ]
}  # fmt: skip


def chosen(selected=None, exclude=None):
    return select(COLUMNS, selected, exclude, ("run",), "tree 'Events' of a.root")


def test_without_a_choice_every_number_but_the_identifier_is_taken():
    assert chosen() == ["MET_phi", "MET_pt", "cov", "odd[3]", "Jet_eta", "Jet_pt"]
    assert chosen([]) == chosen()


def test_selecting_does_not_cancel_excluding():
    assert chosen(["MET_*", "Jet_pt"], ["/.*_pt/"]) == ["MET_phi"]


def test_a_regular_expression_is_matched_as_a_whole():
    assert chosen(["/MET_p.*/"]) == ["MET_phi", "MET_pt"]
    with pytest.raises(BranchNotFound, match=r"branch '/MET_p/' is not in tree 'Events' of a\.root"):
        chosen(["/MET_p/"])


def test_a_name_with_brackets_is_meant_literally():
    assert chosen(["odd[3]"]) == ["odd[3]"]


def test_the_identifier_is_no_feature_even_when_selected():
    assert chosen(["run", "cov"]) == ["cov"]


def test_a_branch_that_is_no_number_is_left_out_unless_it_is_asked_for():
    assert chosen(["n*", "c*", "name*"], None) == ["cov"]
    with pytest.raises(ConfigError, match=r"branch 'name' of .* cannot be a feature: char"):
        chosen(["name"])


def test_a_branch_that_is_no_number_is_refused_when_a_file_asks_for_it(tmp_path):
    (tmp_path / "wanted.txt").write_text("cov\nname\n")
    with pytest.raises(ConfigError, match=r"branch 'name' of .* cannot be a feature"):
        chosen([f"@{tmp_path / 'wanted.txt'}"])


def test_nothing_left_and_a_broken_expression_are_errors():
    with pytest.raises(ConfigError, match=r"no branch of .* is left"):
        chosen(["cov"], ["cov"])
    with pytest.raises(ConfigError, match="is not a regular expression"):
        chosen(["/(/"])


def test_excluding_what_is_not_there_is_an_error_with_the_nearest():
    with pytest.raises(BranchNotFound, match="closest: 'Jet_pt'"):
        chosen(None, ["jet_pT"])


def test_matches_come_once_each_in_the_order_of_the_file():
    assert match(COLUMNS, ["MET_pt", "*_pt", "Jet_*"], "here") == ["Jet_pt", "Jet_eta", "MET_pt"]


def test_identifiers_may_be_missing_only_where_nobody_asked_for_them():
    assert flat_columns(COLUMNS, ["run", "event"], "here", optional=True) == ("run",)
    with pytest.raises(BranchNotFound, match="branch 'event' is not in here"):
        flat_columns(COLUMNS, ["run", "event"], "here")
    with pytest.raises(ConfigError, match="not one number an event: it is jagged"):
        flat_columns(COLUMNS, ["Jet_pt"], "here", optional=True)


def test_a_list_that_contains_itself_is_one_clear_line(tmp_path):
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text(f"cov\n@{other}\n")
    other.write_text(f"@{one}\n")
    with pytest.raises(ConfigError, match="a list of branches contains itself") as raised:
        chosen([f"@{one}"])
    assert str(raised.value).endswith(f"@{one} -> @{other} -> @{one}")


def test_the_same_list_may_be_named_twice(tmp_path):
    (tmp_path / "one.txt").write_text("cov\n")
    assert chosen([f"@{tmp_path / 'one.txt'}", f"@{tmp_path / 'one.txt'}"]) == ["cov"]
