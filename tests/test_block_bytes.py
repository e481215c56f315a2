"""Blocks of events that are read at a time are limited by their bytes, too."""

import subprocess
import sys

import awkward as ak
import numpy as np
import pytest
import uproot
from tinyroot import copy_with_new_uuid, damage, write_events, write_large_clusters, write_tree

from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io import open_source
from mlaas4hep.io.columns import nbytes
from mlaas4hep.reader import DataReader
from mlaas4hep.stream import DataGenerator

CLUSTERS, ROWS, LENGTH, BRANCHES = 70, 100, 5000, 8
EVENTS = CLUSTERS * ROWS


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A file of a few MB whose 7000 events have 8 lists of 5000 numbers each, which take 1.1 GB in memory."""
    path = tmp_path_factory.mktemp("dense") / "dense.root"
    hits = ak.unflatten(np.tile(np.arange(8, dtype=np.float32), ROWS * LENGTH // 8), np.full(ROWS, LENGTH))
    with uproot.recreate(path, compression=uproot.LZ4(1)) as file:
        tree = file.mktree("Events", {f"hits{i}": "var * float32" for i in range(BRANCHES)} | {"event": np.int64})
        for first in range(0, EVENTS, ROWS):
            lists = {f"hits{i}": hits for i in range(BRANCHES)}
            tree.extend(lists | {"event": np.arange(first, first + ROWS)})
    return path


def test_a_small_file_that_decodes_to_a_gigabyte_needs_little_memory(dense, tmp_path):
    assert dense.stat().st_size < 10_000_000
    script = (
        "import re, sys\n"
        "from mlaas4hep.reader import DataReader\n"
        "from mlaas4hep.stream import DataGenerator\n"
        "def peak(): return re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]\n"
        "with DataReader(sys.argv[1], max_length=8) as reader:\n"
        "    print(sum(len(chunk) for chunk in reader), peak())\n"
        "params = {'max_length': 8, 'cache': False, 'workers': 1}\n"
        "with DataGenerator(sys.argv[1:], [0, 1], params, reader.specs) as generator:\n"
        "    print(len(next(iter(generator))), peak())\n"
    )
    copy_with_new_uuid(dense, tmp_path / "copy.root")
    command = [sys.executable, "-c", script, str(dense), str(tmp_path / "copy.root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    (events, peak), (batch, peak_of_both) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (events, batch) == (EVENTS, 256)
    assert peak * 1024 < 600e6
    assert peak_of_both * 1024 < 850e6  # which keeps the memory of a block for the next one


@pytest.mark.process  # its file takes seconds
@pytest.mark.parametrize("workers", [1, 3])
def test_specs_of_dense_lists_agree_with_numpy_for_any_number_of_workers(dense, workers):
    with DataReader(dense, nevts=3000, workers=workers) as reader:
        specs = reader.specs
        assert max(stop - start for start, stop in reader.blocks()) * BRANCHES * LENGTH * 4 <= 200e6
    assert specs.events == 3000
    for index in range(BRANCHES):
        branch = specs.branches[f"hits{index}"]
        assert (branch.dim, branch.minimum, branch.maximum) == (LENGTH, 0.0, 7.0)
        assert branch.mean == np.arange(8).mean()
        assert branch.std == pytest.approx(np.arange(8).std())


def write_all_formats(folder, seed=0):
    """Write the same columns in several formats with 4 clusters; return the columns."""
    from pyarrow import feather, parquet

    rng = np.random.default_rng(seed)
    counts = np.r_[rng.integers(0, 5, 300), rng.integers(50, 60, 100)]
    columns = {
        "pt": ak.unflatten(rng.normal(size=counts.sum()).astype(np.float32), counts),
        "flag": ak.unflatten(rng.uniform(size=counts.sum()) > 0.5, counts),
        "same": ak.unflatten(np.zeros(counts.sum()), counts),
        "met": rng.normal(size=400),
    }
    write_tree(folder / "a.root", columns, clusters=4)
    with uproot.recreate(folder / "n.root") as file:
        ntuple = file.mkrntuple("Events", {name: values[:100] for name, values in columns.items()})
        for start in (100, 200, 300):
            ntuple.extend({name: values[start : start + 100] for name, values in columns.items()})
    table = ak.to_arrow_table(ak.Array(columns), extensionarray=False)
    parquet.write_table(table, folder / "a.parquet", row_group_size=100)
    feather.write_feather(table, str(folder / "a.arrow"), chunksize=100)
    return columns


@pytest.mark.parametrize("name", ["a.root", "n.root", "a.parquet", "a.arrow"])
def test_estimated_sizes_are_close_to_those_of_the_decoded_columns(name, tmp_path):
    columns = write_all_formats(tmp_path)
    with open_source(str(tmp_path / name)) as source:
        edges = list(source.boundaries)
        assert edges == [0, 100, 200, 300, 400]
        for names in (["pt"], ["flag"], ["same"], ["met"], sorted(columns)):
            estimated = np.array([size.entry_bytes for size in source.cluster_sizes(names)]) * np.diff(edges)
            numbers = [ak.to_numpy(ak.flatten(columns[name], axis=None)) for name in names]
            whole = sum(one.nbytes for one in numbers)
            dense = sum(ak.to_numpy(ak.flatten(columns[name][300:], axis=None)).nbytes for name in names)
            assert whole <= estimated.sum() <= 2.5 * whole + 400, names
            if name != "a.root" or "same" not in names:  # equal numbers compress to next to nothing
                assert 0.8 * dense <= estimated[3] <= 1.5 * dense + 100, names
            assert {size.unit for size in source.cluster_sizes(names)} == {100}


def bytes_of(path, names, start, stop):
    """How many bytes some columns of a stretch take."""
    with open_source(str(path)) as source:
        return sum(map(nbytes, source.read(names, start, stop).values()))


def test_a_large_cluster_of_small_baskets_is_split_to_limit_the_bytes(tmp_path, monkeypatch):
    write_large_clusters(tmp_path / "a.root", clusters=2, baskets=20, rows=10)
    with DataReader(tmp_path / "a.root", exclude_branches=["unread"]) as reader:
        assert reader.boundaries == [0, 200, 400]
        assert reader.blocks() == [(0, 400)]
    names = ["event", "luminosityBlock", "met", "pt", "run"]
    for limit in (2000, 4000):
        monkeypatch.setattr("mlaas4hep.io.blocks.READ_BYTES", limit)
        with DataReader(tmp_path / "a.root", exclude_branches=["unread"]) as reader:
            cut = reader.blocks()
        assert [entry for start, stop in cut for entry in range(start, stop)] == list(range(400))
        assert 0.2 * limit < max(bytes_of(tmp_path / "a.root", names, *block) for block in cut) <= 1.2 * limit


def test_blocks_are_not_shorter_than_the_unit_that_is_decoded_as_a_whole(tmp_path, monkeypatch):
    write_large_clusters(tmp_path / "a.root", clusters=2, baskets=4, rows=50)
    monkeypatch.setattr("mlaas4hep.io.blocks.READ_BYTES", 100)
    with DataReader(tmp_path / "a.root", exclude_branches=["unread"]) as reader:
        assert reader.blocks() == [(first, first + 50) for first in range(0, 400, 50)]
    write_events(tmp_path / "b.root", 400, clusters=4)
    with DataReader(tmp_path / "b.root") as reader:
        assert reader.blocks() == [(0, 100), (100, 200), (200, 300), (300, 400)]


@pytest.mark.parametrize("name", ["a.root", "n.root", "a.parquet", "a.arrow"])
def test_results_are_the_same_for_blocks_of_any_size_and_any_number_of_workers(name, tmp_path, monkeypatch):
    write_all_formats(tmp_path)
    (tmp_path / "other").mkdir()
    write_all_formats(tmp_path / "other", seed=1)

    def read(workers):
        with DataReader(tmp_path / name, workers=workers) as reader:
            chunks = list(reader)
            specs = reader.specs.to_json()
        files = [tmp_path / name, tmp_path / "other" / name]
        params = {"workers": workers, "cache": False, "chunk_size": 150, "batch_size": 40}
        with DataGenerator(files, [0, 1], params) as generator:
            batches = [list(zip(batch.y.tolist(), batch.entry.tolist(), strict=True)) for batch in generator]
        return len(chunks), specs, np.concatenate([chunk.x for chunk in chunks]), batches

    count, specs, x, _ = read(1)
    assert count == 1
    monkeypatch.setattr("mlaas4hep.io.blocks.READ_BYTES", 3000)
    count, cut_specs, cut_x, batches = read(1)
    assert count == 4
    assert cut_specs == specs
    np.testing.assert_array_equal(cut_x, x)
    assert sorted(event for batch in batches for event in batch) == [(y, i) for y in (0, 1) for i in range(400)]
    *others, other_batches = read(3)
    assert others[:2] == [4, specs]
    np.testing.assert_array_equal(others[2], x)
    assert other_batches == batches


def test_a_damaged_basket_in_a_block_split_by_bytes_is_named_or_skipped(tmp_path, monkeypatch):
    columns = write_large_clusters(tmp_path / "a.root", clusters=2, baskets=4, rows=50)
    damage(tmp_path / "a.root", "pt", 5)
    monkeypatch.setattr("mlaas4hep.io.blocks.READ_BYTES", 100)
    with (
        DataReader(tmp_path / "a.root", exclude_branches=["unread"]) as reader,
        pytest.raises(FileUnreadable, match=r"cannot read branch 'pt' of .*, entries 250 to 299"),
    ):
        list(reader)
    with DataReader(tmp_path / "a.root", exclude_branches=["unread"], on_error="skip") as reader:
        kept = np.concatenate([chunk.ids["event"] for chunk in reader])
        assert list(reader.skipped) == [(200, 400)]
    np.testing.assert_array_equal(kept, columns["event"][:200])
