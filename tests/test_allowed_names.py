"""Who may change models: names given one by one, and grid-mapfiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.serving.certificates.allowed_names import AllowedNames, parse_gridmap


def test_names_of_both_kinds_are_permitted(tmp_path: Path) -> None:
    gridmap = tmp_path / "grid-mapfile"
    gridmap.write_text('# users\n\n"/O=Grid/CN=A Person" person\n  "/O=Grid/CN=B/Email=b@c.d"\tb,.atlas\n"/CN=alone"\n')
    allowed = AllowedNames([r"/O=Grid/CN=Andr\xC3\xA9"], str(gridmap))
    for name in ("/O=Grid/CN=A Person", "/O=Grid/CN=B/emailAddress=b@c.d", "/CN=alone", "/O=Grid/CN=André"):
        assert allowed.permit(name)
    for other in (None, "", "/O=Grid/CN=A", "/O=Grid/CN=a person", "/O=Grid/CN=A Person/CN=1", "/O=Grid"):
        assert not allowed.permit(other)


def test_quotes_and_backslashes_in_a_grid_mapfile_are_escaped() -> None:
    assert parse_gridmap(r'"/CN=the \"chief\" of \\x41" user') == {'/CN=the "chief" of A'}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no names"),
        ("# only a comment\n", "has no names"),
        ("/O=Grid/CN=A Person\n", "line 1 does not look like"),  # the user Person of /O=Grid/CN=A?
        ('"/O=Grid/CN=A" person\n"/O=Grid/CN=B\n', "line 2 does not look like"),
        ('"CN=A,O=Grid" person\n', "line 1 does not look like"),
    ],
)
def test_a_grid_mapfile_that_is_not_understood_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "gridmap").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        AllowedNames((), str(tmp_path / "gridmap"))


def test_a_missing_grid_mapfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileUnreadable, match="cannot read the names in"):
        AllowedNames((), str(tmp_path / "nowhere"))


def test_a_grid_mapfile_that_changes_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlaas4hep.serving.http.watched_file.FRESH", -1.0)
    (tmp_path / "gridmap").write_text('"/CN=A" a\n')
    allowed = AllowedNames(["/CN=C"], str(tmp_path / "gridmap"))
    (tmp_path / "gridmap").write_text('"/CN=Bob" b\n')
    assert [allowed.permit(name) for name in ("/CN=A", "/CN=Bob", "/CN=C")] == [False, True, True]
    (tmp_path / "gridmap").write_text("<html>")
    assert [allowed.permit(name) for name in ("/CN=A", "/CN=Bob", "/CN=C")] == [False, False, True]
