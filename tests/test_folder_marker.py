"""Folders with a marker are ours, whoever owns them; the block cache, which may be in /tmp, must belong to the user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from killed_writer import kill_while_writing
from serving_fixtures import write_bundle
from test_store import add

from mlaas4hep.files import new_file
from mlaas4hep.folder_marker import FolderMarker
from mlaas4hep.serving.store.store import ModelStore
from mlaas4hep.stream.cache import BlockCache

OTHER = 12345
"""User whose name network file systems may show; only root can give files to another user."""

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")


def test_a_marker_has_its_content_and_is_a_regular_file_of_a_folder(tmp_path: Path) -> None:
    marker = FolderMarker(".mine", "text\n")
    marker.ensure(tmp_path / "folder")
    marker.ensure(tmp_path / "folder")
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "empty").mkdir()
    assert [marker.is_on(tmp_path / name) for name in ("folder", "link", "empty", "absent")] == [True] + [False] * 3
    for content in ("", "text", "text\nmore"):
        (tmp_path / "folder/.mine").write_text(content)
        assert not marker.is_on(tmp_path / "folder")
    with pytest.raises(FileExistsError, match="was not created by MLaaS4HEP"):
        marker.ensure(tmp_path / "folder")


@as_root
def test_temporary_folders_are_removed_even_if_the_file_system_shows_another_owner(tmp_path: Path) -> None:
    kill_while_writing(tmp_path / "a.csv", "new_file", exclusive=True)
    (workplace,) = tmp_path.iterdir()
    for path in (workplace, *workplace.rglob("*")):
        os.chown(path, OTHER, OTHER)
    with new_file(tmp_path / "a.csv", exclusive=True) as path:
        path.write_text("whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.csv": "whole"}


@as_root
@pytest.mark.parametrize("entry", ["", "key"])
def test_the_cache_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], entry: str
) -> None:
    monkeypatch.setenv("MLAAS4HEP_CACHE", str(tmp_path))
    assert BlockCache.open("key", 10**6) is not None
    home = tmp_path / f"mlaas4hep-blocks-{os.getuid()}"
    os.chown(home / entry, OTHER, OTHER)
    assert BlockCache.open("key", 10**6) is None
    assert f"{home / entry} belongs to another user" in capsys.readouterr().err
    if entry:
        other = BlockCache.open("other", 10**6)
        assert other is not None
        assert home / entry not in other._folder.entries()


@as_root
def test_a_models_directory_may_show_another_owner(tmp_path: Path) -> None:
    write_bundle(tmp_path / "htautau")
    add(ModelStore(tmp_path), "second")
    for path in (tmp_path / ".tfaas", *(tmp_path / ".tfaas").iterdir()):
        os.chown(path, OTHER, OTHER)
    assert ModelStore(tmp_path).names() == ["htautau", "second"]
