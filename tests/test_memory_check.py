"""Vectors of long lists: computed in pieces, refused if memory does not suffice, and shortened by `max_length`."""

import os
import re
import resource
import shlex
import subprocess
import sys

import awkward as ak
import numpy as np
import pytest
from scripts import ROOT, only_error_line
from tinyroot import write_events, write_tree

from mlaas4hep.errors import BranchNotFound, ConfigError
from mlaas4hep.histograms.fill import fill_histograms
from mlaas4hep.list_lengths import parse_max_length
from mlaas4hep.machine.memory import available_memory
from mlaas4hep.reader import DataReader, data_reader
from mlaas4hep.stream import DataGenerator
from mlaas4hep.stream.interleaving import plan_interleaving

EVENTS, LONGEST = 20_000, 300_000


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """20,000 events, one of which has 300,000 hits."""
    counts = np.full(EVENTS, 2)
    counts[12] = LONGEST
    path = tmp_path_factory.mktemp("long") / "long.root"
    hits = ak.unflatten(np.arange(counts.sum(), dtype=np.float32), counts)
    write_tree(path, {"hits": hits, "x": np.arange(EVENTS, dtype=np.float32)})
    return path


def run_in(space, *options):
    """Run reader.py in an address space of so many bytes; return the process and its peak of resident memory."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (space, space))

    measured = (
        "import re, sys; sys.path.insert(0, sys.argv.pop(1)); import reader; code = reader.main(sys.argv[1:]);"
        "print('peak', re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); sys.exit(code)"
    )
    command = [sys.executable, "-c", measured, str(ROOT), *map(str, options)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # or every core takes address space
    done = subprocess.run(
        command, preexec_fn=limit, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    peak = re.search(r"^peak (\d+)$", done.stdout, re.MULTILINE)
    return done, int(peak[1]) * 1024 if peak else 0


def test_small_chunks_need_little_memory_even_with_long_lists(long):
    done, peak = run_in(5_000_000_000, f"--fin={long}", "--chunk-size=100", "--nevts=2000")
    assert done.returncode == 0, done.stderr
    assert f"shape (2000, {LONGEST + 2}) float32 in 20 chunks" in done.stdout
    assert peak < 700e6  # two chunks of 100 events and their masks take 300 MB, and 2,000 events take 3 GB


def test_the_error_for_a_chunk_that_does_not_fit_suggests_an_option_that_works(long):
    done, peak = run_in(5_000_000_000, f"--fin={long}")
    line = only_error_line(done)
    assert "a chunk of 10000 events takes 15 GB, but the limit is " in line
    assert ", half of the available memory: every vector is padded to the longest list of 'hits', which has " in line
    assert f", which has {LONGEST} numbers; shorten the lists: " in line
    assert peak < 300e6
    option = next(word for word in shlex.split(line.replace("'length'", "")) if word.startswith("--max-length="))
    done, _ = run_in(5_000_000_000, f"--fin={long}", option, "--nevts=2000")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", name="widest")
def widest_fixture(tmp_path_factory):
    """20 events, one of which has 20,000,000 hits."""
    counts = np.full(20, 2)
    counts[7] = 20_000_000
    path = tmp_path_factory.mktemp("widest") / "widest.root"
    write_tree(path, {"hits": ak.unflatten(np.zeros(counts.sum(), np.int8), counts)})
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "a chunk of 20 events takes 2 GB, but"),
        (["--fout=v.npz", "--chunk-size=1"], "a chunk of 1 event takes 5.1 GB to write as .npz with 20000001 columns,"),
        (["--fout=v.h5", "--chunk-size=1"], "a chunk of 1 event takes 5.1 GB to write as .h5 with 20000001 columns,"),
        (["--fout=v.parquet", "--chunk-size=1"], "takes 100 GB to write as .parquet with 20000001 columns, but"),
        (
            ["--fout=v.json"],
            "the specs have 20000001 columns, 20000000 of them from 'hits', and at most 1000000 are supported",
        ),
        (["--hists=h"], "a block of 2 events takes 4.6 GB for histograms, but"),
    ],
)
def test_lists_of_millions_of_numbers_are_refused_before_column_names_are_created(widest, options, message, tmp_path):
    pytest.importorskip("matplotlib")
    options = [option.replace("=v", f"={tmp_path}/v").replace("=h", f"={tmp_path}/h") for option in options]
    done, peak = run_in(3_000_000_000, f"--fin={widest}", *options)
    line = only_error_line(done)
    assert message in line
    assert "longest list of 'hits', which has 20000000 numbers" in line or "of them from 'hits'" in line
    assert "--max-length=" in line
    assert ("; or write .npz or .h5" in line) == ("--fout=" in "".join(options) and ".parquet" in options[0])
    assert peak < 700e6  # the names alone take 1.4 GB
    assert not list(tmp_path.iterdir())


def test_batches_that_do_not_fit_are_refused_before_they_are_computed(long, monkeypatch):
    monkeypatch.setattr("mlaas4hep.reader.memory_check.available_memory", lambda: 1_000_000_000)
    with pytest.raises(ConfigError, match=r"a batch of 512 events takes 0\.77 GB, but the limit is 0\.5 GB, half of"):
        DataGenerator([long], params={"batch_size": 512, "chunk_size": 100, "cache": False})
    with pytest.raises(ConfigError, match=r"\"max_length\": {\"hits\": 4000} in params\.json; or lower 'chunk_size'"):
        DataGenerator([long], params={"batch_size": 100, "cache": False})
    with DataGenerator([long], params={"max_length": {"hits": 4000}, "cache": False}) as generator:
        assert generator.layout.width == 4002


def test_queues_of_very_wide_vectors_read_few_events_at_a_time():
    assert plan_interleaving(LONGEST, 2, 2).rows * 5 * LONGEST <= 256_000_000
    assert plan_interleaving(50_000, 2, 2).rows == 1000
    assert plan_interleaving(10**9, 1, 1).rows == 1


def test_chunks_and_histograms_do_not_depend_on_the_size_of_the_pieces(tmp_path, monkeypatch):
    write_events(tmp_path / "a.root", 500)
    (tmp_path / "cut.json").write_text('{"cut": "met > 10"}')

    def read(workers):
        options = {"preproc": str(tmp_path / "cut.json"), "chunk_size": 70, "workers": workers}
        with DataReader(tmp_path / "a.root", **options) as reader:
            chunks = list(reader)
            filled = [pair.normalised.view(flow=True).tolist() for pair in fill_histograms(reader)]
        return chunks, filled, reader.truncated

    whole, histograms, _ = read(1)
    monkeypatch.setattr(data_reader, "BLOCK_BYTES", 1000)
    for workers in (1, 3):
        pieces, others, truncated = read(workers)
        assert others == histograms
        assert truncated == {}
        assert [len(chunk) for chunk in pieces] == [len(chunk) for chunk in whole]
        for one, other in zip(whole, pieces, strict=True):
            np.testing.assert_array_equal(one.x, other.x)
            np.testing.assert_array_equal(one.mask, other.mask)
            np.testing.assert_array_equal(one.entries, other.entries)
            np.testing.assert_array_equal(one.ids["event"], other.ids["event"])


@pytest.mark.parametrize("choice", [2, "2", "pt=2", {"p*": 2}, "9,pt=2", {"default": 3, "/p.*/": 2}])
def test_lists_are_shortened_to_the_maximum_length_which_the_specs_contain(choice, tmp_path):
    columns = write_events(tmp_path / "a.root", 300)
    with DataReader(tmp_path / "a.root", normalise="none", chunk_size=300, max_length=choice) as reader:
        (chunk,) = reader
        truth = ak.to_numpy(ak.fill_none(ak.pad_none(columns["pt"], 2, clip=True), np.nan))
        np.testing.assert_array_equal(chunk.x[:, -2:], truth)
        assert reader.columns[-2:] == ["pt_0", "pt_1"]
        assert reader.truncated == {"pt": int(np.maximum(ak.num(columns["pt"]) - 2, 0).to_numpy().sum())}
        reader.specs.save(str(tmp_path / "specs.json"))
    with DataReader(tmp_path / "a.root", normalise="none", specs=tmp_path / "specs.json") as again:
        np.testing.assert_array_equal(np.concatenate([part.x for part in again]), chunk.x)


def test_the_maximum_length_applies_to_given_specs(tmp_path):
    write_events(tmp_path / "a.root", 300)
    with DataReader(tmp_path / "a.root") as reader:
        specs = reader.specs
    with DataReader(tmp_path / "a.root", specs=specs, max_length=1) as reader:
        assert reader.specs.branches["pt"].dim == 1


def test_objects_of_inputs_are_sorted_before_they_are_cut(tmp_path):
    write_events(tmp_path / "a.root", 300)
    inputs = {"tracks": {"branches": ["pt"], "length": 2, "sort": "-pt"}, "event": {"branches": ["met"]}}

    def objects(max_length):
        with DataReader(tmp_path / "a.root", inputs=inputs, max_length=max_length) as reader:
            return np.concatenate([chunk.inputs["tracks"] for chunk in reader]), reader.layout.width

    (whole, width), (cut, same) = objects(None), objects(1)
    np.testing.assert_array_equal(whole, cut)
    assert width == same


@pytest.mark.parametrize("choice", [0, -1, "x", "pt=", "pt=0", {"pt": 0}, "pt=1.5", True])
def test_a_maximum_length_must_be_an_integer(choice):
    with pytest.raises(ConfigError, match="invalid maximum length of a list"):
        parse_max_length(choice)


def test_a_maximum_length_of_an_unknown_branch_is_an_error(tmp_path):
    write_events(tmp_path / "a.root", 30)
    with pytest.raises(BranchNotFound, match="branch 'mett' is not in the vectors"):
        DataReader(tmp_path / "a.root", max_length="mett=2")


@pytest.mark.parametrize("pattern", ["x", "[x]"])
def test_a_maximum_length_of_a_branch_that_is_not_a_list_is_an_error(tmp_path, pattern):
    write_tree(tmp_path / "a.root", {"x": np.arange(3.0), "pt": ak.Array([[1.0, 2.0], [], [3.0]])})
    with pytest.raises(ConfigError) as caught:
        DataReader(tmp_path / "a.root", max_length={pattern: 2})
    assert str(caught.value) == f"branch '{pattern}' is not a list, so max_length does not apply to it"


def test_available_memory_respects_the_limits_of_control_groups(tmp_path):
    group = tmp_path / "system.slice" / "job"
    group.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/system.slice/job\n")
    (group / "memory.max").write_text("max\n")
    for name, number in (("max", 5_000_000), ("current", 3_000_000)):
        (group.parent / f"memory.{name}").write_text(f"{number}\n")
    (group.parent / "memory.stat").write_text("anon 7\ninactive_file 500000\n")
    assert available_memory(tmp_path, tmp_path / "own") == 2_500_000
    (tmp_path / "own").write_text("12:cpu,memory:/job\n3:cpuset:/\n")
    (tmp_path / "memory" / "job").mkdir(parents=True)
    (tmp_path / "memory" / "job" / "memory.limit_in_bytes").write_text("4000000\n")
    (tmp_path / "memory" / "job" / "memory.usage_in_bytes").write_text("1000000\n")
    assert available_memory(tmp_path, tmp_path / "own") == 3_000_000
    (tmp_path / "own").unlink()
    assert available_memory(tmp_path, tmp_path / "own") > 10_000_000
