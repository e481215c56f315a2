"""Events that come from the cache are those of the files, whatever happens to either."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import pytest
from tinyroot import write_events

from mlaas4hep import DataGenerator
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.cache import BlockCache, CachedBlock

PARAMS = {"batch_size": 50, "chunk_size": 200}


@pytest.fixture
def files(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        write_events(tmp_path / f"{name}.root", 300, seed=seed, run=seed, kind=np.arange(300) % 2)
    return [str(tmp_path / "a.root"), str(tmp_path / "b.root")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLAAS4HEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def epochs(files, params, numbers=(0, 1)):
    """All that batches hold, epoch by epoch."""
    with DataGenerator(files, "kind", {**PARAMS, **params}) as generator:
        return [[content_of(batch) for batch in generator.batches(epoch=number)] for number in numbers]


def content_of(batch):
    arrays = {**batch.inputs, **batch.ids, "y": batch.y, "weight": batch.weight, "part": batch.part, "file": batch.file}
    return {name: (values.dtype.str, values.tolist()) for name, values in {**arrays, "entry": batch.entry}.items()}


def blocks_in(folder):
    """The blocks; the markers of the cache are not among them."""
    return sorted(path for path in folder.rglob("*-*-*") if path.is_file())


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_with_and_without(files, folder, workers):
    truth = epochs(files, {"cache": False})
    assert not folder.exists()
    assert epochs(files, {"workers": workers}) == truth
    assert blocks_in(folder)
    assert epochs(files, {"workers": workers}) == truth  # of a later run


def test_the_second_epoch_does_not_read_the_files(files, folder):
    first, second = epochs(files, {"cache": False})
    with DataGenerator(files, "kind", PARAMS) as generator:
        assert [content_of(batch) for batch in generator.batches(epoch=0)] == first
        for file in files:
            with open(file, "r+b") as opened:
                opened.seek(300)
                opened.write(bytes(os.path.getsize(file) - 300))
        assert [content_of(batch) for batch in generator.batches(epoch=1)] == second


@pytest.mark.parametrize(
    "change", [{"normalise": "none"}, {"selected_branches": "met"}, {"weight": "met"},
               {"split": {"valid": "event % 3 == 0", "test": "event % 3 == 1"}},
               {"inputs": {"tracks": {"branches": ["pt"], "length": 2}}}, {"nevts": 100}]
)  # fmt: skip
def test_other_parameters_have_other_events(files, folder, change):
    epochs(files, {})
    assert epochs(files, change) == epochs(files, {**change, "cache": False})


def test_a_rewritten_file_is_read_again(files, folder):
    epochs(files, {})
    write_events(files[0], 300, seed=3, run=1, kind=np.arange(300) % 2)
    assert epochs(files, {}) == epochs(files, {"cache": False})


def overwrite(path, content):
    """Write a block in place, although it is read-only."""
    path.chmod(0o600)
    path.write_bytes(content)


def flip(content, place):
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: bytes(100),
        lambda content: content[: len(content) // 2] + bytes(200) + content[len(content) // 2 + 200 :],
        *(lambda content, place=place: flip(content, place) for place in (0, 12, 20, 40, 2000, -70)),
    ],
)
def test_a_damaged_block_is_rebuilt_and_reported_once(files, folder, damage, capsys):
    truth = epochs(files, {})
    for path in blocks_in(folder):
        overwrite(path, damage(path.read_bytes()))
    assert epochs(files, {}) == truth
    assert (
        capsys.readouterr().err.count("note: a cached block is damaged, and its events are read from the files again")
        == 1
    )
    assert epochs(files, {}) == truth
    assert not capsys.readouterr().err


@pytest.mark.parametrize("damage", [lambda content: flip(content, -70), lambda content: content[: len(content) // 2]])
def test_a_block_that_changes_after_its_checksum_was_verified_is_read_from_the_files_again(
    files, folder, damage, capsys
):
    truth = epochs(files, {"cache": False}, range(5))
    epochs(files, {}, [0])
    for path in blocks_in(folder):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    with DataGenerator(files, "kind", PARAMS) as generator:
        found = [[content_of(batch) for batch in generator.batches(epoch=number)] for number in (0, 1)]
        for path in blocks_in(folder):
            overwrite(path, damage(path.read_bytes()))
        found += [[content_of(batch) for batch in generator.batches(epoch=number)] for number in (2, 3, 4)]
    assert found == truth
    assert capsys.readouterr().err.count("a cached block is damaged") == 1


def test_blocks_are_read_only(files, folder):
    epochs(files, {})
    assert {path.stat().st_mode & 0o777 for path in blocks_in(folder)} == {0o400}


def test_a_cache_that_is_cleared_during_a_run_is_refilled(files, folder):
    truth = epochs(files, {"cache": False}, range(3))
    with DataGenerator(files, "kind", PARAMS) as generator:
        for epoch in range(3):
            batches = generator.batches(epoch=epoch)
            found = [content_of(next(batches))]
            shutil.rmtree(folder)
            assert found + [content_of(batch) for batch in batches] == truth[epoch]


def test_events_that_do_not_fit_into_the_cache_are_read_in_every_epoch(files, folder, capsys):
    truth = epochs(files, {"cache": False})
    epochs(files, {})
    whole = sum(path.stat().st_size for path in blocks_in(folder))
    for path in blocks_in(folder):
        path.unlink()
    assert epochs(files, {"cache_gb": 0.7 * whole / 1e9}) == truth
    assert 0 < sum(path.stat().st_size for path in blocks_in(folder)) <= 0.7 * whole
    assert capsys.readouterr().err.count("only a part of the events is cached") == 1


def open_entry(key, limit, size=0):
    """A cache with one block of so many bytes."""
    cache = BlockCache.open(key, limit)
    if size:
        (cache._entry / "0-0-1").write_bytes(bytes(size))
    return cache


def entries(folder):
    return sorted(path.name for path in next(folder.iterdir()).iterdir() if not path.name.startswith("."))


def test_the_least_recently_used_entries_make_room(folder):
    for age, name in ((300, "old"), (100, "young"), (200, "older")):
        os.utime(open_entry(name, 10**6, 100)._entry, (0, 1_000_000 - age))
    assert open_entry("mine", 350)._make_room(200)
    assert entries(folder) == ["mine", "young"]


def tree(folder):
    """Every path below a folder, with its type, and its content or target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        content = os.readlink(path) if kind == "link" else path.read_bytes() if kind == "file" else b""
        found[str(path.relative_to(folder))] = (kind, content)
    return found


def test_files_of_users_in_the_folder_of_the_cache_are_not_changed(files, folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0-0-1").write_bytes(bytes(10_000))
    for name in ("thesis", "0f" * 16):
        (folder / name / "deep").mkdir(parents=True)
        for file in ("0-0-1", "deep/data.root", ".mlaas4hep-cache"):
            (folder / name / file).write_bytes(os.urandom(10_000))
    (folder / "notes.txt").write_text("mine")
    (folder / "link").symlink_to(outside)
    before, before_outside = tree(folder), tree(outside)
    truth = epochs(files, {"cache": False})
    assert epochs(files, {"cache_gb": 1e-6}) == truth  # less than the user's own files take
    assert epochs(files, {}) == truth
    after = tree(folder)
    assert {path: after.get(path) for path in before} == before
    assert tree(outside) == before_outside
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {f"mlaas4hep-blocks-{os.getuid()}"}


def test_the_users_files_do_not_count_against_the_limit(folder):
    folder.mkdir()
    (folder / "large").write_bytes(bytes(1000))
    assert open_entry("mine", 350)._make_room(300)


def test_in_the_folder_of_the_cache_only_its_own_entries_are_deleted(folder):
    old = open_entry("old", 10**6, 100)
    os.utime(old._entry, (0, 1000))
    home = old._entry.parent
    (old._entry / "notes.txt").write_text("put here by the user")
    (home / "foreign").mkdir()
    (home / "foreign" / "0-0-1").write_bytes(bytes(1000))
    (home / "link").symlink_to(home / "foreign")
    assert open_entry("mine", 350)._make_room(300)
    assert sorted(path.name for path in old._entry.iterdir()) == [".mlaas4hep-cache", "notes.txt"]
    assert (home / "foreign" / "0-0-1").stat().st_size == 1000
    assert (home / "link").is_symlink()


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link"])
def test_a_folder_without_the_marker_is_not_used_as_the_cache(files, folder, tmp_path, kind, capsys):
    home = folder / f"mlaas4hep-blocks-{os.getuid()}"
    folder.mkdir()
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        home.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        home.write_text("mine")
    else:
        home.mkdir()
        if kind == "folder":
            (home / "0-0-1").write_text("mine")
    before = tree(tmp_path)
    assert epochs(files, {}) == epochs(files, {"cache": False})
    assert tree(tmp_path) == before
    assert "exists and was not created by MLaaS4HEP" in capsys.readouterr().err


def test_two_processes_may_open_the_same_new_cache(folder):
    with ThreadPoolExecutor(8) as pool:
        caches = list(pool.map(lambda number: BlockCache.open("key", 10**6), range(64)))
    assert None not in caches
    assert entries(folder) == ["key"]


def test_an_entry_that_is_deleted_while_it_is_used_is_created_again(folder):
    mine, other = open_entry("mine", 10**6), open_entry("other", 10**6)
    other._folder.remove(mine._entry)
    assert entries(folder) == ["other"]
    batch = Batch(*({} if field.name in ("inputs", "ids") else np.zeros(0) for field in fields(Batch)))
    mine.put(0, 0, 1, CachedBlock(batch, {}, {}))
    assert mine.get(0, 0, 1) is not None


def test_without_a_writable_folder_there_is_no_cache(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLAAS4HEP_CACHE", str(tmp_path / "file"))
    assert epochs(files, {}) == epochs(files, {"cache": False})
    assert "set MLAAS4HEP_CACHE to a writable folder" in capsys.readouterr().err


def test_dropped_values_of_cached_events_are_reported_once(files, folder, tmp_path):
    with DataGenerator([files[0]], "kind", PARAMS) as generator:
        short = generator.specs
    short.branches["pt"] = replace(short.branches["pt"], dim=2)
    lines = []
    for _ in range(2):
        with DataGenerator(files, "kind", PARAMS, short) as generator:
            for epoch in range(2):
                for _ in generator.batches(epoch=epoch):
                    pass
            lines.append(generator.sample.data_notices())
    assert lines[0] == lines[1]
    assert "values of 'pt' were dropped" in lines[0][0]
