"""Real files with a byte flipped or the end cut off: the right events, or a clear error, and no number made up.

The truth is the file as it was. Where the damage leaves something readable that is not the truth (a changed number
in a record without checksum), uproot must read the same; what uproot refuses we must not return.
"""

import re

import awkward as ak
import numpy as np
import pytest
import uproot
from realdata import real_file
from scripts import only_error_line, run_forked
from tinyroot import write_events

from mlaas4hep.errors import FileUnreadable, MLaaS4HEPError
from mlaas4hep.io import Jagged, Kind, open_source
from mlaas4hep.io.columns import slice_events
from mlaas4hep.reader import DataReader
from mlaas4hep.stream import DataGenerator

FILES = {
    "uproot-HZZ.root": ("events", 220),
    "uproot-HZZ-lz4.root": ("events", 220),
    "uproot-HZZ-zstd.root": ("events", 220),
    "uproot-HZZ-lzma.root": ("events", 220),
    "uproot-Zmumu.root": ("events", 100),
    "nanoAOD_2015_CMS_Open_Data_ttbar.root": ("Events", 20),
}
"""The tree, and how many bytes are flipped, one at a time: 1,000 in all, of which every run tries a quarter."""


def read_all(path, tree):
    """Return the values of all columns, and the error instead where one cannot be read."""
    with open_source(str(path), tree) as source:
        names = [name for name, column in source.columns.items() if column.kind is not Kind.OTHER]
        try:
            return source.read(names, 0, source.num_entries)
        except MLaaS4HEPError:
            return {name: attempt(lambda name=name: source.read([name], 0, source.num_entries)[name]) for name in names}


def attempt(work):
    """Return what work returns, or the error that it raises."""
    try:
        return work()
    except MLaaS4HEPError as error:
        return error


def same(one, other):
    if isinstance(one, Jagged) and isinstance(other, Jagged):
        return same(one.offsets, other.offsets) and same(one.content, other.content)
    return type(one) is type(other) and one.shape == other.shape and one.tobytes() == other.tobytes()


def uproot_reads(path, tree, name, values):
    """Whether uproot returns just these values for a branch."""
    try:
        array = uproot.open(path)[tree][name].array()
        numbers = ak.to_numpy(ak.flatten(array, axis=None))
        ours = values.content if isinstance(values, Jagged) else values.reshape(-1)
        lengths = not isinstance(values, Jagged) or np.array_equal(ak.num(array), values.counts)
    except Exception:
        return False
    return lengths and numbers.astype(ours.dtype).tobytes() == ours.tobytes()


def check_damaged(path, tree, truth):
    """Check what can still be read of a damaged file; return whether it was opened, and how many columns failed."""
    found = attempt(lambda: read_all(path, tree))
    if isinstance(found, MLaaS4HEPError):
        assert str(path) in str(found)
        assert "\n" not in str(found)
        return False, 0
    failed = 0
    for name in truth.keys() - found.keys():  # renamed, or of another type; for uproot too
        assert not uproot_reads(path, tree, name, truth[name]), name
    for name, values in found.items():
        if isinstance(values, FileUnreadable):
            failed += 1
            assert f"of {path}, entries 0 to " in str(values)
            assert f"'{name}'" in str(values)
        else:
            assert name in truth or uproot_reads(path, tree, name, values)
            assert same(values, truth.get(name)) or uproot_reads(path, tree, name, values), name
    return True, failed


@pytest.mark.parametrize(
    ("name", "share"),
    [(name, 0.15) for name in FILES] + [pytest.param(name, 1, marks=pytest.mark.slow) for name in FILES],
)
def test_a_flipped_byte_gives_the_right_events_or_an_error_with_its_place(name, share, tmp_path):
    tree, flips = FILES[name][0], max(int(share * FILES[name][1]), 20)
    original = real_file(name)
    truth = read_all(original, tree)
    with open(original, "rb") as file:
        content = bytearray(file.read())
    rng = np.random.default_rng(1)
    header = rng.integers(0, 600, flips // 10)
    places = [*header, *rng.integers(0, len(content), flips - len(header))]
    path = tmp_path / "damaged.root"
    opened = failed = 0
    for place, bit in zip(places, rng.integers(0, 8, flips), strict=True):
        content[place] ^= 1 << bit
        path.write_bytes(content)
        content[place] ^= 1 << bit
        is_open, columns = check_damaged(path, tree, truth)
        opened += is_open
        failed += columns > 0
    assert opened > flips / 5  # all others hit what uproot needs to know before it can read anything
    assert failed > flips / 20  # ZSTD has no checksum here, and numbers change; for uproot they do too


@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("uproot-HZZ.root", 15),
        ("uproot-Zmumu.root", 10),
        pytest.param("uproot-HZZ.root", 60, marks=pytest.mark.slow),
        pytest.param("uproot-Zmumu.root", 40, marks=pytest.mark.slow),
    ],
)
def test_a_truncated_file_gives_the_right_events_or_an_error(name, cuts, tmp_path):
    tree, _ = FILES[name]
    truth = read_all(real_file(name), tree)
    with open(real_file(name), "rb") as file:
        content = file.read()
    path = tmp_path / "damaged.root"
    opened = 0
    for length in np.linspace(0, len(content) - 1, cuts).astype(int):
        path.write_bytes(content[:length])
        is_open, failed = check_damaged(path, tree, truth)
        opened += is_open
        assert not failed
    assert not opened  # not even where no more is missing than the list of gaps at the end


CUT = "DY.root"
"""A file whose tree is described in front of most of its baskets."""


def cut_off(name, length, path):
    """Write the first bytes of a file, whose header says that there never were more."""
    with open(real_file(name), "rb") as file:
        content = bytearray(file.read(length))
    content[12:16] = length.to_bytes(4, "big")  # fEND of TFile's header
    path.write_bytes(content)


def baskets_of(branch):
    """Return of every basket its first entry, the one behind its last, and where it ends in the file."""
    edges = branch.entry_offsets
    ends = branch.member("fBasketSeek")[: len(edges) - 1] + branch.member("fBasketBytes")[: len(edges) - 1]
    return list(zip(edges[:-1], edges[1:], ends.tolist(), strict=True))


def test_errors_name_the_entries_of_truncated_baskets_and_all_others_are_right(tmp_path):
    path = tmp_path / "cut.root"
    truth = read_all(real_file(CUT), "Events")
    with uproot.open(real_file(CUT)) as file:
        baskets = {name: baskets_of(file["Events"][name]) for name in truth}
        first_length = file.file.fSeekInfo + file.file.fNbytesInfo  # behind what says what is in the file
    whole = lost = 0
    last_end = max(end for its in baskets.values() for *_, end in its)
    for step, length in enumerate(np.linspace(first_length, last_end - 1, 40).astype(int)):
        cut_off(CUT, int(length), path)
        with open_source(str(path)) as source:
            assert source.columns.keys() >= truth.keys()
            for name in list(truth)[step % 8 :: 8]:
                for start, stop, end in baskets[name]:
                    found = attempt(lambda name=name, at=(start, stop): source.read([name], *at)[name])
                    if end <= length:
                        whole += 1
                        assert same(found, slice_events(truth[name], start, stop)), (name, start, length)
                    else:
                        lost += 1
                        first, last = entries_named(found, path, name)
                        assert first <= start
                        assert stop - 1 <= last
    assert whole > 500
    assert lost > 500


def entries_named(error, path, name):
    """Return the first and the last entry that an error names, beside the file and the branch."""
    assert isinstance(error, FileUnreadable)
    said = re.search(rf"branch '{name}' of {re.escape(str(path))}, entries (\d+) to (\d+): ", str(error))
    return int(said[1]), int(said[2])


def test_the_intact_part_of_a_truncated_real_file_is_read(tmp_path):
    truth = read_all(real_file(CUT), "Events")
    with uproot.open(real_file(CUT)) as file:
        baskets = {name: baskets_of(file["Events"][name]) for name in truth}
    clusters = list(zip(*baskets.values(), strict=True))
    length = max(end for *_, end in clusters[5])
    cut_off(CUT, length, tmp_path / "cut.root")
    kept = sum(its[0][1] - its[0][0] for its in clusters if all(end <= length for *_, end in its))
    events = clusters[-1][0][1]
    assert 0 < kept < events
    done = run_forked("reader.py", "--fin=cut.root", "--on-error=skip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Read {kept} events" in done.stdout
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: skipped ")]
    assert sum(int(note.split()[2]) for note in notes) == events - kept
    assert all("cannot read branch '" in note and "cut.root" in note for note in notes)


CLUSTERS = 5
EVENTS = 50_000


@pytest.fixture
def damaged(tmp_path):
    """A file of five clusters of 10,000 events, of which the third has a basket of `met` that is damaged."""
    path = tmp_path / "a.root"
    write_events(path, EVENTS, clusters=CLUSTERS)
    with uproot.open(path) as file:
        seek = file["Events"]["met"].member("fBasketSeek")[2]
    content = bytearray(path.read_bytes())
    content[seek + 200 : seek + 400] = bytes(200)
    path.write_bytes(content)
    return path


RIGHT = [entry for entry in range(EVENTS) if not 20_000 <= entry < 30_000]


def test_the_error_for_damage_names_file_branch_and_entries(damaged, tmp_path):
    line = only_error_line(run_forked("reader.py", f"--fin={damaged}", cwd=tmp_path))
    assert f"cannot read branch 'met' of {damaged}, entries 20000 to 29999" in line


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("chunk_size", [1_000, 10_000, 35_000])
def test_whole_clusters_are_skipped_and_named(damaged, workers, chunk_size):
    with DataReader(damaged, workers=workers, chunk_size=chunk_size, on_error="skip") as reader:
        chunks = list(reader)
        assert reader.specs.events == len(RIGHT)
        assert list(reader.skipped) == [(20_000, 30_000)]
        assert f"cannot read branch 'met' of {damaged}, entries 20000 to 29999" in reader.skipped[20_000, 30_000]
    assert np.concatenate([chunk.entries for chunk in chunks]).tolist() == RIGHT
    assert np.concatenate([chunk.ids["event"] for chunk in chunks]).tolist() == RIGHT


def test_undamaged_branches_are_read_in_full(damaged):
    with DataReader(damaged, selected_branches=["pt"], on_error="skip") as reader:
        assert sum(map(len, reader)) == EVENTS
        assert not reader.skipped


def test_the_script_reports_skipped_events(damaged, tmp_path):
    done = run_forked("reader.py", f"--fin={damaged}", "--on-error=skip", cwd=tmp_path)
    assert done.returncode == 0
    assert "Read 40000 events" in done.stdout
    assert done.stderr.count("note: skipped 10000 events, entries 20000 to 29999: cannot read branch 'met'") == 1


def test_a_sample_continues_without_the_damaged_cluster(damaged, tmp_path):
    write_events(tmp_path / "b.root", 10_000, seed=1)
    generator = DataGenerator([damaged, tmp_path / "b.root"], ["a", "b"], {"on_error": "skip", "batch_size": 1000})
    for epoch in (0, 1):
        entries = np.concatenate([batch.entry[batch.file == 0] for batch in generator.batches(epoch=epoch)])
        assert np.sort(entries).tolist() == RIGHT
    assert len(generator.sample.data_notices()) == 1
    generator.close()


def test_a_file_whose_clusters_are_all_damaged_gives_no_events_and_a_message(tmp_path):
    path = tmp_path / "a.root"
    write_events(path, 1000, clusters=1)
    with uproot.open(path) as file:
        seek = file["Events"]["met"].member("fBasketSeek")[0]
    content = bytearray(path.read_bytes())
    content[seek + 200 : seek + 300] = bytes(100)
    path.write_bytes(content)
    done = run_forked("reader.py", f"--fin={path}", "--on-error=skip", cwd=tmp_path)
    assert "Read 0 events" in done.stdout
    assert "note: skipped 1000 events" in done.stderr
