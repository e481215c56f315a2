"""Selection of features."""

import numpy as np
import pytest

from mlaas4hep.errors import BranchNotFound, ConfigError, FileUnreadable
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


def test_by_default_all_numeric_branches_but_the_identifier_are_features():
    assert chosen() == ["MET_phi", "MET_pt", "cov", "odd[3]", "Jet_eta", "Jet_pt"]
    assert chosen([]) == chosen()


def test_selecting_does_not_cancel_excluding():
    assert chosen(["MET_*", "Jet_pt"], ["/.*_pt/"]) == ["MET_phi"]


def test_a_regular_expression_must_match_the_whole_name():
    assert chosen(["/MET_p.*/"]) == ["MET_phi", "MET_pt"]
    with pytest.raises(BranchNotFound, match=r"branch '/MET_p/' is not in tree 'Events' of a\.root"):
        chosen(["/MET_p/"])


def test_an_existing_name_with_brackets_is_matched_literally():
    assert chosen(["odd[3]"]) == ["odd[3]"]


def test_the_identifier_is_not_a_feature_even_if_selected():
    assert chosen(["run", "cov"]) == ["cov"]


def test_a_branch_that_is_not_numeric_is_left_out_unless_it_is_named():
    assert chosen(["n*", "c*", "name*"], None) == ["cov"]
    with pytest.raises(ConfigError, match=r"branch 'name' of .* cannot be a feature: char"):
        chosen(["name"])


def test_a_branch_that_is_not_numeric_is_refused_if_a_file_names_it(tmp_path):
    (tmp_path / "wanted.txt").write_text("cov\nname\n")
    with pytest.raises(ConfigError, match=r"branch 'name' of .* cannot be a feature"):
        chosen([f"@{tmp_path / 'wanted.txt'}"])


def test_an_empty_selection_and_an_invalid_regular_expression_are_errors():
    with pytest.raises(ConfigError, match=r"no branch of .* is left"):
        chosen(["cov"], ["cov"])
    with pytest.raises(ConfigError, match="is not a regular expression"):
        chosen(["/(/"])


def test_the_error_for_excluding_a_missing_branch_suggests_the_nearest():
    with pytest.raises(BranchNotFound, match="closest: 'Jet_pt'"):
        chosen(None, ["jet_pT"])


def test_matches_are_unique_and_in_the_order_of_the_file():
    assert match(COLUMNS, ["MET_pt", "*_pt", "Jet_*"], "here") == ["Jet_pt", "Jet_eta", "MET_pt"]


def test_identifiers_may_be_missing_or_of_another_kind_only_if_they_are_optional():
    assert flat_columns(COLUMNS, ["run", "event"], "here", optional=True) == ("run",)
    assert flat_columns(COLUMNS, ["run", "Jet_pt", "cov", "name"], "here", optional=True) == ("run",)
    with pytest.raises(BranchNotFound, match="branch 'event' is not in here"):
        flat_columns(COLUMNS, ["run", "event"], "here")
    with pytest.raises(ConfigError, match="not one number per event: it is jagged"):
        flat_columns(COLUMNS, ["Jet_pt"], "here")


def test_a_list_that_contains_itself_is_an_error(tmp_path):
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text(f"cov\n@{other}\n")
    other.write_text(f"@{one}\n")
    with pytest.raises(ConfigError, match="a list of branches contains itself") as raised:
        chosen([f"@{one}"])
    assert str(raised.value).endswith(f"@{one} -> @{other} -> @{one}")


def test_the_same_list_may_be_named_twice(tmp_path):
    (tmp_path / "one.txt").write_text("cov\n")
    assert chosen([f"@{tmp_path / 'one.txt'}", f"@{tmp_path / 'one.txt'}"]) == ["cov"]


def test_a_name_with_an_at_sign_is_matched_with_one_or_two_at_signs(tmp_path):
    columns = {**COLUMNS, "@size": Column("@size", Kind.FLAT, np.dtype(np.int32))}
    assert match(columns, ["@@size"], "here") == ["@size"]
    assert match(columns, ["@size"], "here") == ["@size"]
    (tmp_path / "wanted.txt").write_text("@@size\ncov\n")
    assert match(columns, [f"@{tmp_path / 'wanted.txt'}"], "here") == ["cov", "@size"]
    with pytest.raises(FileUnreadable, match=r"cannot read sizes: .*; a branch called '@sizes' is written '@@sizes'"):
        match(columns, ["@sizes"], "here")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("pr", "closest: 'pr/first', 'pr/second'; 'pr/*' selects all members"),
        ("pr/", "closest: 'pr/first', 'pr/second'; 'pr/*' selects all members"),
        ("v2.", "closest: 'v2.a', 'v2.b', 'v2.c'; 'v2.*' selects all members"),
    ],
)
def test_the_error_for_a_struct_suggests_its_members(asked, message):
    columns = dict.fromkeys(["pr/first", "pr/second", "v2.a", "v2.b", "v2.c", "v2.d"])
    with pytest.raises(BranchNotFound) as caught:
        match(columns, [asked], "the file")
    assert str(caught.value) == f"branch '{asked}' is not in the file; {message}"
