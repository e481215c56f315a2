"""Duplicate events, compared with what a dictionary of all events finds."""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import combinations

import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import only_error_line, run_forked
from small_disk import small_disk
from tinyroot import damage, write_events, write_tree

from mlaas4hep.config import FilesParams
from mlaas4hep.duplicates.partitions import Partitions, first_two
from mlaas4hep.duplicates.search import find_duplicates
from mlaas4hep.errors import ConfigError, SpecsMismatch
from mlaas4hep.samples.fileset import Fileset
from mlaas4hep.write_errors import WriteFailed

NAMES = ("run", "luminosityBlock", "event")
FOUND = 3
"""Exit code if there are duplicates."""


def truth_of(files, names=NAMES):
    """Find duplicates in columns by file with a dictionary: (events, distinct, repeated, pairs by indices of files)."""
    places = defaultdict(list)
    for file, columns in enumerate(files):
        for entry, identity in enumerate(zip(*(columns[name].tolist() for name in names), strict=True)):
            places[identity].append((file, entry))
    pairs = {}
    for identity, found in places.items():  # in the order of their first occurrence
        first = {}
        for file, entry in found:
            first.setdefault(file, []).append(entry)
        own = [((file, file), tuple(entries[:2])) for file, entries in first.items() if len(entries) > 1]
        for pair, entries in own + [((a, b), (first[a][0], first[b][0])) for a, b in combinations(sorted(first), 2)]:
            shared, example = pairs.get(pair, (0, (identity, entries)))
            pairs[pair] = (shared + 1, example)
    repeated = sum(len(found) > 1 for found in places.values())
    return sum(map(len, places.values())), len(places), repeated, pairs


def search(paths, params=None, **options):
    """Search a plain list of files."""
    return find_duplicates(Fileset.of_names(paths), params or FilesParams(), **options)


def check(found, files, paths, names=NAMES):
    """Compare a result with the truth."""
    events, distinct, repeated, pairs = truth_of(files, names)
    assert (found.events, found.distinct, found.repeated) == (events, distinct, repeated)
    index = {path: number for number, path in enumerate(paths)}
    assert {
        tuple(index[path] for path in pair.files): (pair.shared, (tuple(pair.example.values()), pair.entries))
        for pair in found.pairs
    } == pairs
    assert [pair.shared for pair in found.pairs] == sorted((shared for shared, _ in pairs.values()), reverse=True)
    assert all(pair.is_within_file == (pair.files[0] == pair.files[1]) for pair in found.pairs)


def write_ids(path, run, lumi, event):
    """Write the identifiers of events; return them."""
    columns = {
        "run": np.asarray(run, np.uint32),
        "luminosityBlock": np.asarray(lumi, np.uint32),
        "event": np.asarray(event, np.uint64),
    }
    write_tree(path, columns, clusters=3)
    return columns


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory):
    """Four files: b has the second half of a, and events of its own; c is a copy of a; d repeats some of its own."""
    folder = tmp_path_factory.mktemp("overlapping")
    numbers = np.arange(3000)
    events = {"a": numbers, "b": numbers + 1500, "c": numbers, "d": np.r_[9000 + numbers, 9100 + numbers[:40] % 20]}
    files = []
    for name, n in events.items():
        files.append(write_ids(folder / f"{name}.root", np.full(len(n), 1), n // 100, n.astype(np.uint64) + 2**63))
    return folder, files


@pytest.mark.parametrize("memory", [500_000_000, 300_000, 5_000])
@pytest.mark.parametrize("workers", [1, 2])
def test_overlaps_of_files_are_counted(overlapping, memory, workers):
    folder, files = overlapping
    paths = [str(folder / f"{name}.root") for name in "abcd"]
    found = search(paths, FilesParams(workers=workers), memory=memory)
    check(found, files, paths)
    assert [(pair.files, pair.shared) for pair in found.pairs] == [
        ((paths[0], paths[2]), 3000),
        ((paths[0], paths[1]), 1500),
        ((paths[1], paths[2]), 1500),
        ((paths[3], paths[3]), 20),
    ]
    assert found.pairs[1].example == {"run": 1, "luminosityBlock": 15, "event": 1500 + 2**63}
    assert found.pairs[1].entries == (1500, 0)
    assert found.pairs[3].entries == (100, 3000)


IDS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.sampled_from([0, 1, 2**53, 2**53 + 1, 2**64 - 1])))


@settings(max_examples=40, deadline=None)
@given(files=st.lists(IDS.filter(len), min_size=1, max_size=5), memory=st.sampled_from([1, 2_000, 10**9]))
def test_any_events_are_counted_as_a_dictionary_does(files, memory):
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{index}.root" for index in range(len(files))]
        columns = [write_ids(path, *zip(*ids, strict=True)) for path, ids in zip(paths, files, strict=True)]
        check(search(paths, memory=memory), columns, paths)


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=60),
    piece=st.integers(1, 20),
    memory=st.integers(1, 5_000),
)
def test_partitions_keep_at_least_two_records_of_each_event_in_each_file(rows, piece, memory):
    identity = np.array([row[0] for row in rows], np.uint64)
    place = np.array([(row[1] << 40) + entry for entry, row in enumerate(rows)], np.uint64)
    records = np.column_stack([identity, place])
    by_key = defaultdict(list)
    for row, (_, at) in zip(rows, records.tolist(), strict=True):
        by_key[row].append(at)
    with Partitions(len(rows), 2, memory) as partitions:
        for start in range(0, len(rows), piece):
            partitions.add(records[start : start + piece])
        loaded = list(partitions)
    owner = {}
    kept = defaultdict(list)
    for number, partition in enumerate(loaded):
        for value, at in partition.tolist():
            assert owner.setdefault(value, number) == number
            kept[value, at >> 40].append(at)
    assert kept.keys() == by_key.keys()
    for key, places in by_key.items():
        assert sorted(kept[key])[:2] == places[:2]
    assert first_two(records).tolist() == sorted([key[0], at] for key, places in by_key.items() for at in places[:2])


def test_one_event_that_fills_all_files_takes_no_more_memory_than_others(tmp_path):
    columns = [write_ids(tmp_path / f"{index}.root", [1] * 5000, [1] * 5000, [0] * 5000) for index in range(3)]
    paths = [str(tmp_path / f"{index}.root") for index in range(3)]
    check(search(paths, memory=100_000), columns, paths)


def test_copies_in_many_files_are_pairs_of_all_of_them(tmp_path):
    columns = [write_ids(tmp_path / f"{i}.root", [1] * 9, [i % 2] * 9, np.arange(9) + i // 6) for i in range(24)]
    paths = [str(tmp_path / f"{index}.root") for index in range(24)]
    check(search(paths, memory=2_000), columns, paths)


def test_signed_and_unsigned_numbers_are_compared_by_value(tmp_path):
    (tmp_path / "s").mkdir()
    values = [np.array([-1, 5, 7], np.int64), np.array([5, 8, 2**63 - 1], np.uint64), np.array([7, 5, 5], np.int16)]
    paths = [str(tmp_path / f"{index}.root") for index in range(3)]
    columns = [{"n": value} for value in values]
    for path, one in zip(paths, columns, strict=True):
        write_tree(path, one)
    params = FilesParams(identifier=["n"])
    check(search(paths, params), columns, paths, ["n"])
    write_tree(tmp_path / "large.root", {"n": np.array([2**63], np.uint64)})
    with pytest.raises(ConfigError, match="identifier 'n' is signed in one file, and too large for int64 in another"):
        search([*paths, str(tmp_path / "large.root")], params)


def test_floating_point_numbers_are_compared_exactly(tmp_path):
    values = [np.array([0.1, 0.5, 3.0]), np.array([0.1, 0.5, -3.0], np.float32)]
    paths = [str(tmp_path / f"{index}.root") for index in range(2)]
    for path, one in zip(paths, values, strict=True):
        write_tree(path, {"t": one})
    params = FilesParams(identifier=["t"])
    found = search(paths, params)
    assert [(pair.shared, pair.example) for pair in found.pairs] == [(1, {"t": 0.5})]  # 0.1 is another float32
    write_tree(tmp_path / "nan.root", {"t": np.array([1.0, np.nan, np.inf])})
    with pytest.raises(ConfigError, match=r"identifier 't' is nan for entry 1 of .*nan\.root; remove such events"):
        search([str(tmp_path / "nan.root")], params)
    write_tree(tmp_path / "whole.root", {"t": np.array([1, 2])})
    with pytest.raises(SpecsMismatch, match=r"identifier 't' is int64 in .*whole\.root, but float64 in .*0\.root"):
        search([paths[0], str(tmp_path / "whole.root")], params)


def test_cuts_and_nevts_apply(tmp_path):
    columns = [
        write_events(tmp_path / f"{index}.root", 2000, seed=index, first_event=500 * index) for index in range(2)
    ]
    for index in range(2):
        columns[index]["luminosityBlock"] = np.full(2000, 1, np.uint32)
        write_tree(tmp_path / f"{index}.root", columns[index], clusters=3)
    (tmp_path / "cut.json").write_text('{"cut": "met > 20"}')
    done = run_forked(
        "reader.py", "--fin=*.root", "--check-duplicates", "--preproc=cut.json", "--nevts=1500", "--json", cwd=tmp_path
    )
    assert done.returncode == FOUND, done.stderr
    content = json.loads(done.stdout)
    passing = [set(one["event"][:1500][one["met"][:1500] > 20].tolist()) for one in columns]
    assert content["events"] == sum(map(len, passing))
    assert content["distinct"] == len(passing[0] | passing[1])
    shared = passing[0] & passing[1]
    assert content["repeated"] == content["pairs"][0]["shared"] == len(shared)
    assert content["pairs"][0]["example"] == {"run": 1, "luminosityBlock": 1, "event": min(shared)}
    assert content["pairs"][0]["entries"] == [min(shared), min(shared) - 500]


def test_the_script_prints_a_table_and_its_exit_code_tells_whether_there_are_duplicates(overlapping):
    folder, _ = overlapping
    done = run_forked("reader.py", "--fin=a.root,b.root,c.root,d.root", "--check-duplicates", cwd=folder)
    assert (done.returncode, done.stderr) == (FOUND, "")
    *lines, rate = done.stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["Events", ":", "12,040", "of", "4", "files,", "identified", "by", "run,", "luminosityBlock,", "event"],
        ["Distinct", "events", ":", "7,500"],
        ["Duplicate", "events", ":", "4,540,", "copies", "of", "3,020", "events"],
        [],
        ["shared", "file", "other", "file", "first", "shared", "event", "entries"],
        lines[5].split(),
        f"3,000 a.root c.root run 1, luminosityBlock 0, event {2**63} 0, 0".split(),
        f"1,500 a.root b.root run 1, luminosityBlock 15, event {2**63 + 1500} 1500, 0".split(),
        f"1,500 b.root c.root run 1, luminosityBlock 15, event {2**63 + 1500} 0, 1500".split(),
        f"20 d.root the same file run 1, luminosityBlock 91, event {2**63 + 9100} 100, 3000".split(),
    ]
    assert rate.startswith("Read 12040 events, ")
    done = run_forked("reader.py", "--fin=a.root", "--check-duplicates", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[2] == "Duplicate events : 0, copies of 0 events"


def test_the_table_ends_after_20_pairs(tmp_path):
    for index in range(8):
        write_ids(tmp_path / f"{index}.root", [1] * 5, [1] * 5, range(5))
    done = run_forked("reader.py", "--fin=*.root", "--check-duplicates", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.endswith("0, 0")]) == 20
    assert lines[-2] == "... and 8 more pairs"
    done = run_forked("reader.py", "--fin=*.root", "--check-duplicates", "--json", cwd=tmp_path)
    assert len(json.loads(done.stdout)["pairs"]) == 28


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fin=none.root"], "tree 'Events' of none.root has no branch that identifies an event, such as 'event'; give"
                              " the branches that do: --identifier=run,"),
        (["--fin=run.root"], "tree 'Events' of run.root has no branch that identifies an event"),
        (["--fin=run.root", "--identifier=run,evt"], "branch 'evt' is not in tree 'Events' of run.root"),
        (["--fin=run.root,none.root", "--identifier=x,run"], "branch 'run' is not in tree 'Events' of none.root"),
        (["--fin=run.root", "--info"], "--check-duplicates cannot be combined with --info"),
        (["--fin=run.root", "--fout=x.json"], "--check-duplicates cannot be combined with --fout"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_checked_give_a_one_line_error(options, says, tmp_path):
    write_tree(tmp_path / "none.root", {"x": np.arange(3)})
    write_tree(tmp_path / "run.root", {"run": np.arange(3), "x": np.arange(3)})
    assert says in only_error_line(run_forked("reader.py", *options, "--check-duplicates", cwd=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.root", "run.root"]


def test_files_that_have_different_identifiers_are_an_error(tmp_path):
    write_tree(tmp_path / "a.root", {"run": np.arange(3), "event": np.arange(3)})
    write_tree(tmp_path / "b.root", {"event": np.arange(3)})
    with pytest.raises(SpecsMismatch, match=r"identified by event in .*b\.root, but by run, event in .*a\.root"):
        search([str(tmp_path / "a.root"), str(tmp_path / "b.root")], FilesParams())
    found = search([str(tmp_path / "a.root"), str(tmp_path / "b.root")], FilesParams(identifier=["event"]))
    assert found.repeated == 3


def test_damaged_clusters_are_skipped_on_request(tmp_path):
    write_events(tmp_path / "a.root", 3000)
    write_events(tmp_path / "b.root", 3000)
    damage(tmp_path / "b.root", "event", 1)
    damage(tmp_path / "b.root", "met", 0)  # is not read
    command = ["--fin=a.root,b.root", "--check-duplicates", "--json"]
    line = only_error_line(run_forked("reader.py", *command, cwd=tmp_path))
    assert line.startswith("error: cannot read branch 'event' of b.root, entries 0 to 2999: ")
    done = run_forked("reader.py", *command, "--on-error=skip", cwd=tmp_path)
    assert done.returncode == FOUND
    content = json.loads(done.stdout)
    assert (content["events"], content["distinct"], content["repeated"]) == (5000, 3000, 2000)
    assert done.stderr.startswith("note: skipped 1000 events, entries 1000 to 1999: cannot read branch 'event' of b.")


def test_files_that_cannot_be_opened_are_left_out_on_request(tmp_path):
    for name in "ab":
        write_events(tmp_path / f"{name}.root", 300)
    (tmp_path / "broken.root").write_bytes((tmp_path / "a.root").read_bytes()[:1000])
    command = ["--fin=broken.root,a.root,b.root", "--check-duplicates", "--json"]
    assert "broken.root" in only_error_line(run_forked("reader.py", *command, cwd=tmp_path))
    done = run_forked("reader.py", *command, "--on-error=skip", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert (content["files"], content["events"], content["repeated"]) == (["a.root", "b.root"], 600, 300)
    assert content["pairs"][0]["files"] == ["a.root", "b.root"]
    assert done.stderr.startswith("note: left out broken.root: ")


def test_cuts_of_samples_apply(tmp_path):
    write_ids(tmp_path / "a.root", [1] * 9, [1] * 9, range(9))
    samples = {"low": {"files": "a.root", "cut": "event < 6"}, "high": {"files": "a.root", "cut": "event > 3"}}
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    done = run_forked("reader.py", "--fin=samples.json", "--check-duplicates", "--json", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert (content["events"], content["distinct"], content["repeated"]) == (11, 9, 2)
    assert content["pairs"][0]["files"] == ["a.root of sample 'low'", "a.root of sample 'high'"]
    assert content["pairs"][0]["entries"] == [4, 4]


def test_two_trees_of_a_file_may_share_events(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        for name, first in (("one", 0), ("two", 2)):
            file.mktree(name, {"event": "int64"}).extend({"event": np.arange(first, first + 5)})
    found = search([f"{tmp_path}/a.root:one", f"{tmp_path}/a.root:two"], FilesParams())
    assert [(pair.files, pair.shared, pair.entries) for pair in found.pairs] == [
        ((f"{tmp_path}/a.root:one", f"{tmp_path}/a.root:two"), 3, (2, 0))
    ]


@pytest.fixture(name="disk")
def disk_fixture(tmp_path):
    (tmp_path / "disk").mkdir()
    yield from small_disk(tmp_path / "disk")


def test_a_full_disk_gives_a_one_line_error(overlapping, disk, monkeypatch):
    folder, _ = overlapping
    monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
    paths = [str(folder / f"{name}.root") for name in "abcd"]
    search(paths, memory=100_000)
    assert list(disk.path.iterdir()) == []
    disk.fill(free=100_000)
    with pytest.raises(WriteFailed) as caught:
        search(paths, memory=100_000)
    assert str(caught.value) == (
        f"cannot write temporary files in {disk.path}: No space left on device; free some space on its disk"
    )


PEAK = """
import sys
from mlaas4hep.config import FilesParams
from mlaas4hep.duplicates.search import find_duplicates
from mlaas4hep.samples.fileset import Fileset
found = find_duplicates(Fileset.of_names(sys.argv[2:]), FilesParams(), memory=int(sys.argv[1]))
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(found.events, found.distinct, found.repeated, int(peak) // 1000)
"""


@pytest.mark.slow
def test_the_memory_is_limited(tmp_path):
    rng = np.random.default_rng(1)
    events = [rng.integers(0, 2**63, 750_000).astype(np.uint64) for _ in range(4)]
    events[3][:100_000] = events[0][-100_000:]
    paths = []
    for index, numbers in enumerate(events):
        columns = {"run": np.full(len(numbers), 7, np.uint32), "event": numbers}
        columns["luminosityBlock"] = (numbers >> np.uint64(50)).astype(np.uint32)
        paths.append(str(tmp_path / f"{index}.root"))
        with uproot.recreate(paths[-1], compression=None) as file:
            file.mktree("Events", {name: values.dtype for name, values in columns.items()}).extend(columns)

    def run(memory, files):
        command = [sys.executable, "-c", PEAK, str(memory), *files]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [int(number) for number in done.stdout.split()]

    distinct = len(np.unique(np.concatenate(events)))
    limit, unlimited, little = run(40_000_000, paths), run(10**10, paths), run(40_000_000, paths[:1])
    assert limit[:3] == unlimited[:3] == [3_000_000, distinct, 100_000]
    assert limit[3] - little[3] < 40
    assert unlimited[3] - little[3] > 100  # the records alone take 96 MB
