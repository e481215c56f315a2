"""Skipping of damaged clusters: the same events are skipped however a file is read."""

import tracemalloc

import numpy as np
import pytest
from scripts import run_forked
from tinyroot import damage, write_events, write_large_clusters

from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io import open_source
from mlaas4hep.reader import DataReader
from mlaas4hep.reader.skipping_reader import SkippingReader
from mlaas4hep.stream import DataGenerator

LARGE = {"clusters": 3, "baskets": 8, "rows": 5000}
"""Clusters of 40,000 events, four times what is read at a time."""


@pytest.fixture
def large(tmp_path):
    """A file of three clusters of 40,000 events; a basket in the middle of the second is damaged."""
    path = tmp_path / "large.root"
    write_large_clusters(path, **LARGE)
    damage(path, "met", 12)  # 60,000 to 64,999
    return path


@pytest.fixture
def small(tmp_path):
    """A file of ten clusters of 3,000 events, several of which are read at a time; the fifth is damaged."""
    path = tmp_path / "small.root"
    write_events(path, 30_000, clusters=10)
    damage(path, "met", 4)
    return path


FEATURES = ["met", "pt"]
LOST = {"large": (40_000, 80_000), "small": (12_000, 15_000)}
EVENTS = {"large": 120_000, "small": 30_000}
CASES = [*LOST]


def rest_of(case):
    """The entries of a file that are not in its damaged cluster."""
    start, stop = LOST[case]
    return [*range(start), *range(stop, EVENTS[case])]


@pytest.fixture
def path_of(request):
    return request.getfixturevalue


def test_the_files_have_the_expected_clusters(large, small):
    with open_source(str(large)) as source:
        assert source.boundaries == [0, 40_000, 80_000, 120_000]
    with open_source(str(small)) as source:
        assert source.boundaries == [*range(0, 30_001, 3000)]
    with DataReader(large, chunk_size=1000) as reader:
        assert len(reader.blocks()) == 12


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("chunk_size", [1000, 10_000, 100_000])
@pytest.mark.parametrize("case", CASES)
def test_the_whole_damaged_cluster_is_skipped_for_any_chunk_size(case, chunk_size, workers, path_of):
    with DataReader(
        path_of(case), selected_branches=FEATURES, chunk_size=chunk_size, workers=workers, on_error="skip"
    ) as reader:
        chunks = list(reader)
        assert np.concatenate([chunk.entries for chunk in chunks]).tolist() == rest_of(case)
        assert np.concatenate([chunk.ids["event"] for chunk in chunks]).tolist() == rest_of(case)
        assert list(reader.skipped) == [LOST[case]]
        assert reader.specs.events == len(rest_of(case))
        assert [file.entries_read for file in reader.specs.files] == [len(rest_of(case))]


@pytest.mark.parametrize("case", CASES)
def test_the_same_cluster_is_skipped_without_a_first_pass(case, path_of):
    with DataReader(path_of(case), selected_branches=FEATURES, on_error="skip") as reader:
        specs = reader.specs
    with DataReader(path_of(case), selected_branches=FEATURES, chunk_size=1000, specs=specs, on_error="skip") as reader:
        first = next(iter(reader))
        assert first.entries[0] == 0
        assert np.concatenate([chunk.entries for chunk in reader]).tolist() == rest_of(case)
        assert list(reader.skipped) == [LOST[case]]


@pytest.mark.parametrize("case", CASES)
def test_specs_exclude_skipped_events(case, path_of, tmp_path):
    columns = write_large_clusters(tmp_path / "whole.root", **LARGE) if case == "large" else None
    columns = columns or write_events(tmp_path / "whole.root", EVENTS[case], clusters=10)
    met = columns["met"][rest_of(case)]
    with DataReader(path_of(case), selected_branches=FEATURES, on_error="skip") as reader:
        branch = reader.specs.branches["met"]
    assert (branch.count, branch.minimum, branch.maximum) == (len(met), met.min(), met.max())
    assert branch.mean == pytest.approx(met.astype(np.float64).mean(), rel=1e-12)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("given", [False, True], ids=["first pass", "specs given"])
@pytest.mark.parametrize("case", CASES)
def test_a_generator_skips_the_same_cluster_and_does_not_count_it(case, given, workers, path_of, tmp_path):
    write_events(tmp_path / "other.root", 2000, seed=1)
    files = [path_of(case), tmp_path / "other.root"]
    params = {"on_error": "skip", "batch_size": 1000, "workers": workers, "selected_branches": FEATURES}
    specs = None
    if given:
        with DataGenerator(files, ["a", "b"], params) as generator:
            specs = generator.specs
    with DataGenerator(files, ["a", "b"], params, specs) as generator:
        counted = generator.sample.composition.totals.sum()  # before any event is loaded
        assert counted == len(rest_of(case)) + 2000
        for epoch in (0, 1):  # the second comes from the cache
            entries = np.concatenate([batch.entry[batch.file == 0] for batch in generator.batches(epoch=epoch)])
            assert np.sort(entries).tolist() == rest_of(case)
        assert list(generator.sample.readers.skipped) == [(0, *LOST[case])]
        assert len(generator.sample.data_notices()) == 1


def test_a_run_that_reads_blocks_from_the_cache_still_reports_skipped_clusters(large):
    params = {"on_error": "skip", "batch_size": 1000, "selected_branches": FEATURES}
    with DataGenerator([large], None, params) as generator:
        specs = generator.specs
        first = sum(len(batch) for batch in generator)
    with DataGenerator([large], None, params, specs) as generator:
        assert sum(len(batch) for batch in generator) == first == 2 * 80_000  # and their shuffled copies
        assert list(generator.sample.readers.skipped) == [(0, 40_000, 80_000)]


def test_the_script_reports_each_skipped_cluster_once(large, tmp_path):
    for more in ([], ["--chunk-size=1000"], ["--fout=x.npz"], ["--info"]):
        done = run_forked("reader.py", f"--fin={large}", "--branches=met,pt", "--on-error=skip", *more,
                          cwd=tmp_path)  # fmt: skip
        notices = [line for line in done.stderr.splitlines() if "skipped" in line]
        assert len(notices) == 1
        assert notices[0].startswith("note: skipped 40000 events, entries 40000 to 79999: cannot read branch 'met'")
    assert np.load(tmp_path / "x.npz")["entry"].tolist() == rest_of("large")


def test_nothing_is_skipped_if_reading_stops_before_the_damage(large):
    with DataReader(large, selected_branches=FEATURES, nevts=60_000, on_error="skip") as reader:
        assert sum(map(len, reader)) == 60_000
        assert not reader.skipped
    with DataReader(large, selected_branches=FEATURES, nevts=60_001, on_error="skip") as reader:
        assert sum(map(len, reader)) == 40_000
        assert list(reader.skipped) == [(40_000, 60_001)]


def test_without_skipping_damage_is_an_error(large):
    with DataReader(large, selected_branches=FEATURES) as reader, pytest.raises(FileUnreadable, match="'met'"):
        reader.specs  # noqa: B018


def test_identifiers_of_clusters_next_to_a_damaged_one_are_read(tmp_path):
    path = tmp_path / "a.root"
    write_events(path, 30_000, clusters=10, first_event=100)
    damage(path, "event", 4)
    with DataReader(path, on_error="skip") as reader:
        events = reader.identifiers(9_000, 18_000)["event"]
    assert events[:3000].tolist() == [*range(9_100, 12_100)]
    assert events[6000:].tolist() == [*range(15_100, 18_100)]
    assert len(events) == 9000


def test_a_large_cluster_is_checked_in_pieces(tmp_path):
    path = tmp_path / "a.root"
    write_large_clusters(path, clusters=1, baskets=40, rows=5000)
    with open_source(str(path)) as source:
        skipping = SkippingReader(source, ["event", "met", "pt"], 200_000, "skip", {})
        skipping.read(["met"], 0, 10)  # everything that is made once
        assert not skipping.damaged
        tracemalloc.start()
        again = SkippingReader(source, ["event", "met", "pt"], 200_000, "skip", {})
        again.read(["met"], 0, 10)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 200_000 * 8  # of `event` alone, were all of it in memory
