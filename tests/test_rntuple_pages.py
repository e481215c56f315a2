"""Pages of RNTuples that ROOT wrote in every encoding and compression: what uproot reads, and what was written."""

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import awkward as ak
import numpy as np
import pytest
import uproot
from check_source import check_source
from fuzz.root_mutations import restore_checksums

from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io import Jagged, Kind, Nested, open_source
from mlaas4hep.io.formats.chunked import ChunkedSource
from mlaas4hep.io.rntuple import decode, page_lists
from mlaas4hep.io.rntuple.decode import Outcome, PageJob, decode_pages
from mlaas4hep.io.rntuple.encodings import Code, encoding_of
from mlaas4hep.io.rntuple.page_cache import PageCache, PageKey, SharedBudget
from mlaas4hep.io.rntuple.page_jobs import PageJobs
from mlaas4hep.io.rntuple.source import CHECKSUM_SETTING, RNTupleSource
from mlaas4hep.io.rntuple.uproot_reader import UprootReader
from mlaas4hep.io.root.tree_keys import find_tree
from mlaas4hep.io.root.uproot_source import open_root_file
from mlaas4hep.io.storage.byte_ranges import LocalRanges
from mlaas4hep.reader import DataReader

FILE = str(Path(__file__).parent / "files" / "pages.root")
COMPRESSIONS = ("zlib", "lzma", "lz4", "zstd", "uncompressed", "unchecked")
ALL = (*COMPRESSIONS, "structures", "late", "representations")
EVENTS = 60
WRONG_IN_UPROOT = {"array", "mixed", "list"}
"""Arrays and several encodings of one field in clusters; uproot 5.7 does not read what was written."""


def open_with_uproot(path, name):
    """The RNTuple as uproot reads it."""
    ranges = LocalRanges(path)
    return ChunkedSource(UprootReader(find_tree(open_root_file(ranges), name, path), name), ranges, name)


def readable(source):
    return [name for name, column in source.columns.items() if column.kind is not Kind.OTHER]


def content_of(values):
    """The bytes of values, with types and shapes."""
    if isinstance(values, Nested):
        return values.offsets.tolist(), content_of(values.lists)
    if isinstance(values, Jagged):
        return values.offsets.tolist(), content_of(values.content)
    return values.dtype.str, values.shape, values.tobytes()


@pytest.mark.parametrize("name", ALL)
def test_rntuples_fulfil_the_contract(name):
    with open_source(FILE, name) as source:
        assert isinstance(source, RNTupleSource)
        assert list(source.boundaries) == ([0, 15, 30, 45, 60] if name == "representations" else [0, 20, 21, 50, 60])
        check_source(source)


@pytest.mark.parametrize("name", ALL)
def test_every_encoding_has_the_values_that_uproot_reads(name):
    with open_source(FILE, name) as source, open_with_uproot(FILE, name) as truth:
        assert dict(source.columns) == dict(truth.columns)
        names = [one for one in readable(source) if name in (*COMPRESSIONS, "structures") or one not in WRONG_IN_UPROOT]
        for start, stop in ((0, EVENTS), (17, 23), (21, 50), (55, 60)):
            found, expected = source.read(names, start, stop), truth.read(names, start, stop)
            for one in names:
                assert content_of(found[one]) == content_of(expected[one]), one


def test_all_kinds_of_pages_are_decoded_without_uproot(monkeypatch):
    monkeypatch.delattr(RNTupleSource, "_read_with_uproot")
    for name in ALL:
        with open_source(FILE, name) as source:
            names = [one for one in readable(source) if not one.startswith(("maybe_list", "maybe_record.list"))]
            assert len(source.read(names, 0, EVENTS)) == len(names)


def test_fields_that_were_added_later_are_zero_before():
    with open_source(FILE, "late") as source:
        found = source.read(source.columns, 0, EVENTS)
        late = np.where(np.arange(EVENTS) >= 30, np.arange(EVENTS), 0)  # as in write_pages.C
        np.testing.assert_array_equal(found["number"], np.arange(EVENTS))
        np.testing.assert_array_equal(found["flat"], (1.5 * late).astype("f4"))
        np.testing.assert_array_equal(found["array"], np.stack([late, -late], axis=1))
        np.testing.assert_array_equal(found["flag"], late % 2 == 1)
        np.testing.assert_array_equal(found["list"].counts, late % 3)
        np.testing.assert_array_equal(found["list"].content, np.repeat(late, late % 3))


def test_each_cluster_has_an_encoding_of_its_own():
    numbers = np.arange(EVENTS)
    with open_source(FILE, "representations") as source:
        found = source.read(source.columns, 0, EVENTS)
    np.testing.assert_array_equal(found["whole"], numbers * 1_000_000_007)  # as in write_pages.C
    np.testing.assert_array_equal(found["list"].counts, numbers % 4)
    np.testing.assert_array_equal(found["list"].content, np.repeat(numbers, numbers % 4))
    read_by_root = [0.47691771388053894, -0.8375922441482544, 0.0867919921875, -0.2335205078125, 1.0341796875]
    np.testing.assert_array_equal(found["mixed"][[0, 14, 15, 16, 29]], np.array(read_by_root, "f4"))


@pytest.mark.parametrize("name", ALL)
def test_the_compiled_loop_and_numpy_give_the_same_bits(name, monkeypatch):
    spans = [(0, EVENTS), (10, 22), (33, 34)]
    with open_source(FILE, name) as source:
        names = readable(source)
        compiled = [source.read(names, *span) for span in spans]
    monkeypatch.setattr(decode, "KERNEL", None)
    monkeypatch.setattr(page_lists, "KERNEL", None)
    with open_source(FILE, name) as source:
        for span, expected in zip(spans, compiled, strict=True):
            found = source.read(names, *span)
            for one in names:
                assert content_of(found[one]) == content_of(expected[one]), one


class RecordedRanges(LocalRanges):
    """A file that remembers what was read."""

    def __init__(self, path):
        super().__init__(path)
        self.calls = []

    def read(self, spans):
        self.calls.append(list(spans))
        return super().read(self.calls[-1])


def open_recorded(path, name):
    from mlaas4hep.io.formats.detect import open_format

    ranges = RecordedRanges(str(path))
    return open_format(ranges, name), ranges.calls


def pages_of(path, name, column):
    """First byte and length of the pages of a field, with their checksums, from uproot."""
    with uproot.open(path) as file:
        ntuple = file[name]
        numbers = [n for n, one in enumerate(ntuple.column_records) if ntuple.field_names[one.field_id] == column]
        return [
            (int(page.locator.offset), int(page.locator.num_bytes) + 8 * page.has_checksum)
            for cluster in ntuple.page_link_list
            for number in numbers
            for page in cluster[number].pages
        ]


def test_only_the_pages_that_are_needed_are_read():
    source, calls = open_recorded(FILE, "uncompressed")
    del calls[:]
    with source:
        source.read(["double"], 0, EVENTS)
    pages = pages_of(FILE, "uncompressed", "double")
    (spans,) = calls
    assert {page for page in pages if any(at <= page[0] and sum(page) <= at + size for at, size in spans)} == set(pages)
    assert max(map(sum, spans)) <= max(map(sum, pages))
    assert min(spans)[0] == min(pages)[0]


def page_key(number, size=100):
    return PageKey(number, size, size)


def test_pages_are_decompressed_once_while_they_fit_into_the_cache():
    decoded = []

    def decode(keys):
        decoded.extend(key.seek for key in keys)
        return [np.full(key.num_bytes, key.seek, np.uint8) for key in keys]

    cache = PageCache(limit=250, budget=SharedBudget(limit=1000))
    for numbers in ([1, 2], [2, 3], [3, 2], [1]):
        found = cache.get([page_key(number) for number in numbers], decode)
        assert [int(found[page_key(number)][0]) for number in numbers] == numbers
    assert decoded == [1, 2, 3, 1]
    cache.get([page_key(number) for number in (4, 5, 6)], decode)  # more than fit at a time
    cache.get([page_key(number) for number in (4, 5)], decode)
    assert decoded == [1, 2, 3, 1, 4, 5, 6]


def test_the_pages_of_all_files_share_a_budget():
    decode = lambda keys: [np.zeros(key.num_bytes, np.uint8) for key in keys]  # noqa: E731
    budget = SharedBudget(limit=300)
    first, second = PageCache(1000, budget), PageCache(1000, budget)
    first.get([page_key(1), page_key(2)], decode)
    second.get([page_key(1), page_key(2)], decode)
    assert not budget.take(1)
    first.clear()
    assert budget.take(200)
    del second
    assert budget.take(100)


def test_threads_share_the_pages_to_decompress_and_survive_an_error():
    keys, counts, lock = [page_key(number, 3_000_000) for number in range(30)], Counter(), Lock()

    def decode(batch):
        with lock:
            counts.update(key.seek for key in batch)
            if counts[7] == 1 and 7 in {key.seek for key in batch}:
                raise ValueError("damaged")
        return [np.full(1, key.seek) for key in batch]

    def read(_):
        try:
            return sorted(int(page[0]) for page in cache.get(keys, decode).values())
        except ValueError as error:
            return str(error)

    cache = PageCache(10**9, SharedBudget(10**9))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read, range(8)))
    assert results.count("damaged") == 1
    assert results.count(list(range(30))) == 7
    assert max(counts.values()) == 2
    assert sum(counts.values()) <= 30 + 3  # those of the batch that failed


def test_many_small_clusters_are_read_at_once(tmp_path):
    columns = {"x": np.arange(4000, dtype="f4"), "n": np.arange(4000, dtype="i8") % 3}
    with uproot.recreate(tmp_path / "many.root") as file:
        ntuple = file.mkrntuple("Events", {name: values[:10] for name, values in columns.items()})
        for start in range(10, 4000, 10):
            ntuple.extend({name: values[start : start + 10] for name, values in columns.items()})
    source, calls = open_recorded(tmp_path / "many.root", "Events")
    with source:
        assert list(source.boundaries) == list(range(0, 4001, 10))
        del calls[:]
        found = source.read(columns, 0, 4000)
        assert len(calls) == 1
        for name, values in columns.items():
            np.testing.assert_array_equal(found[name], values)


def stored_pages(name):
    """All pages of an RNTuple, as jobs, according to uproot; and the content of the file."""
    jobs = []
    with uproot.open(FILE) as file:
        ntuple = file[name]
        for cluster in ntuple.page_link_list:
            for column, stored in zip(ntuple.column_records, cluster, strict=True):
                encoding = encoding_of(column.type, column.nbits, column.min_value or 0.0, column.max_value or 0.0)
                for page in stored.pages if encoding else ():
                    place = [0, page.locator.offset, page.locator.num_bytes, page.has_checksum]
                    count = int(page.num_elements)
                    jobs.append([*place, count, 0, count, encoding.code, encoding.bits, 0, 0, 0])
    return np.array(jobs, np.int64), bytearray(Path(FILE).read_bytes())


@pytest.mark.parametrize("is_compiled", [True, False])
def test_every_flipped_byte_of_a_page_is_noticed(is_compiled, monkeypatch):
    jobs, content = stored_pages("zstd")
    assert jobs[:, PageJob.checked].all()
    if not is_compiled:
        monkeypatch.setattr(decode, "KERNEL", None)
    rng, original = np.random.default_rng(1), bytes(content)
    out = np.zeros(100_000, np.uint8)
    for _ in range(1000):
        job = jobs[rng.integers(len(jobs))][None].copy()
        at = int(job[0, PageJob.at] + rng.integers(job[0, PageJob.size] + 8))
        content[at] ^= int(rng.integers(1, 256))
        assert decode_pages([memoryview(content)], job, out).tolist() == [Outcome.WRONG_CHECKSUM]
        content[at] = original[at]
        assert decode_pages([memoryview(content)], job, out).tolist() == [Outcome.DECODED]


def flip_page(path, name, column):
    """Flip a bit in the last page of a column."""
    at, size = pages_of(path, name, column)[-1]
    content = bytearray(path.read_bytes())
    content[at + size // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_page_is_an_error_that_names_the_column_and_its_cluster(tmp_path):
    path = tmp_path / "pages.root"
    shutil.copy(FILE, path)
    flip_page(path, "uncompressed", "int64")
    with open_source(str(path), "uncompressed") as source:
        with pytest.raises(FileUnreadable) as caught:
            source.read(["float", "int64", "double"], 0, EVENTS)
        source.read(["float", "double"], 0, EVENTS)
        source.read(["int64"], 0, 50)
    where = f"column 'int64' of {path}, entries 50 to 59"
    assert str(caught.value) == f"cannot read {where}: the checksum of a page is wrong"


def test_only_the_cluster_of_a_damaged_page_is_skipped(tmp_path):
    path = tmp_path / "pages.root"
    shutil.copy(FILE, path)
    flip_page(path, "uncompressed", "int64")
    with DataReader(str(path), "uncompressed", identifier=(), on_error="skip") as reader:
        assert sum(map(len, reader)) == 50
        assert list(reader.skipped) == [(50, 60)]


def test_checksums_of_pages_can_be_switched_off(tmp_path, monkeypatch):
    path = tmp_path / "pages.root"
    shutil.copy(FILE, path)
    flip_page(path, "uncompressed", "int64")
    monkeypatch.setenv(CHECKSUM_SETTING, "off")
    with open_source(str(path), "uncompressed") as source, open_source(FILE, "uncompressed") as intact:
        found, expected = (one.read(["int64"], 0, EVENTS)["int64"] for one in (source, intact))
    assert np.count_nonzero(found != expected) == 1


def test_unknown_features_are_left_to_uproot(tmp_path):
    path = tmp_path / "plain.root"
    with uproot.recreate(path, compression=None) as file:
        file["Events"] = {"x": np.arange(5.0)}
    with uproot.open(path) as file:
        header = file["Events"].members["fSeekHeader"]
    content = bytearray(path.read_bytes())
    content[header + 8] = 0x40  # feature flags
    restore_checksums(content)
    path.write_bytes(content)
    with open_source(str(path)) as source:
        assert isinstance(source, ChunkedSource)
        assert source.read(["x"], 0, 5)["x"].tolist() == [0, 1, 2, 3, 4]


def test_claims_that_the_bytes_of_a_page_cannot_hold_are_noticed_before_memory_is_allocated():
    jobs = np.zeros((3, len(PageJob)), np.int64)
    jobs[:, [PageJob.size, PageJob.elements, PageJob.code, PageJob.bits]] = [
        (100, 1_000_000, Code.PLAIN, 32),
        (100, 2_000_000, Code.PLAIN, 32),
        (10**9, 2**31, Code.SPLIT, 64),
    ]
    assert PageJobs(jobs, np.arange(3)).exceeds.tolist() == [False, True, True]


@pytest.mark.parametrize("part", ["Header", "Footer"])
def test_damaged_metadata_are_an_error_of_one_line(part, tmp_path):
    path = tmp_path / "damaged.root"
    content = bytearray(Path(FILE).read_bytes())
    with uproot.open(FILE) as file:
        members = file["uncompressed"].members
    content[members[f"fSeek{part}"] + members[f"fNBytes{part}"] // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileUnreadable) as caught:
        open_source(str(path), "uncompressed")
    assert str(caught.value) == f"cannot read 'uncompressed' of {path}: the checksum of its metadata is wrong"
    with open_source(str(path), "zlib") as source:
        assert source.num_entries == EVENTS


def test_pages_with_the_same_bytes_are_right_in_every_column(tmp_path):
    """uproot stores the ends of lists once per column, and zeros of several types have the same bytes."""
    counts = np.arange(300) % 4
    lists = {name: np.arange(counts.sum()) * factor for name, factor in (("x", 1.5), ("y", -2.0), ("z", 0.0))}
    flat = {"zero": np.zeros(300, "f4"), "none": np.zeros(300, "i4"), "also": np.zeros(300, "f4")}
    with uproot.recreate(tmp_path / "equal.root") as file:
        file.mkrntuple("Events", {**{name: ak.unflatten(part, counts) for name, part in lists.items()}, **flat})
    with open_source(str(tmp_path / "equal.root")) as source:
        found = source.read(source.columns, 0, 300)
        part = source.read(["x", "y"], 100, 200)
    for name, content in lists.items():
        np.testing.assert_array_equal(found[name].counts, counts)
        np.testing.assert_array_equal(found[name].content, content)
    for name, zeros in flat.items():
        assert content_of(found[name]) == content_of(zeros)
    assert part["x"].counts.tolist() == part["y"].counts.tolist() == counts[100:200].tolist()
