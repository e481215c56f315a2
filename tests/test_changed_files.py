"""A file that is truncated, overwritten or replaced while it is read gives its own events, or one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scripts import only_error_line, run_script
from tinyroot import write_events

from mlaas4hep import DataReader
from mlaas4hep.client.event_file import EventFile
from mlaas4hep.io.storage.byte_ranges import FileChanged
from mlaas4hep.stream import DataGenerator

EVENTS = 200_000


def in_process(code: str, *args: object) -> None:
    """Let another process change a file."""
    subprocess.run([sys.executable, "-c", f"import os, shutil, sys\n{code}", *map(str, args)], check=True)


def truncate(path: Path, other: Path) -> None:
    in_process("os.truncate(sys.argv[1], os.path.getsize(sys.argv[1]) // 3)", path)


def empty(path: Path, other: Path) -> None:
    in_process("os.truncate(sys.argv[1], 0)", path)


def overwrite(path: Path, other: Path) -> None:
    in_process("shutil.copyfile(sys.argv[2], sys.argv[1])", path, other)


def append(path: Path, other: Path) -> None:
    in_process("open(sys.argv[1], 'ab').write(bytes(1000))", path)


CHANGES: list[Callable[[Path, Path], None]] = [truncate, empty, overwrite, append]


def write_parquet(path: Path, events: int, seed: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    pq.write_table(
        pa.table({"event": np.arange(events), "met": rng.exponential(30, events)}), path, row_group_size=10_000
    )


def write_arrow(path: Path, events: int, seed: int) -> None:
    import pyarrow as pa

    rng = np.random.default_rng(seed)
    table = pa.table({"event": np.arange(events), "met": rng.exponential(30, events)})
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table, max_chunksize=10_000)


def write_root(path: Path, events: int, seed: int) -> None:
    write_events(path, events, seed=seed, clusters=20)


WRITERS = {"root": write_root, "parquet": write_parquet, "arrow": write_arrow}


@pytest.mark.parametrize(
    ("change", "on_error"), [*((change, "raise") for change in CHANGES), (truncate, "skip"), (overwrite, "skip")]
)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_changes_between_two_chunks_is_an_error_of_one_line(
    tmp_path: Path, kind: str, change: Callable[[Path, Path], None], on_error: str
) -> None:
    path, other = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    WRITERS[kind](path, EVENTS, 1)
    WRITERS[kind](other, EVENTS, 2)
    with DataReader(path, identifier=["event"]) as reader:
        specs = reader.specs
    with DataReader(path, chunk_size=10_000, identifier=["event"], specs=specs, on_error=on_error) as reader:
        chunks = iter(reader)
        next(chunks)
        change(path, other)
        with pytest.raises(FileChanged) as caught:
            list(chunks)
    assert str(caught.value) == f"{path} changed while it was read; run again when the file is complete"


@pytest.mark.parametrize("kind", WRITERS)
def test_the_events_of_the_opened_file_are_read_after_it_is_replaced_or_removed(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    WRITERS[kind](path, EVENTS, 1)
    WRITERS[kind](other, EVENTS, 2)
    with DataReader(path, chunk_size=10_000, identifier=["event"], normalise="none") as reader:
        expected = np.concatenate([chunk.x for chunk in reader])
    with DataReader(path, chunk_size=10_000, identifier=["event"], normalise="none") as reader:
        chunks = iter(reader)
        parts = [next(chunks).x]
        in_process("os.replace(sys.argv[2], sys.argv[1])", path, other)
        parts.append(next(chunks).x)
        in_process("os.unlink(sys.argv[1])", path)
        parts += [chunk.x for chunk in chunks]
    np.testing.assert_array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_was_replaced_is_refused_when_it_is_opened_again(tmp_path: Path, kind: str, cache: bool) -> None:
    path, other = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    WRITERS[kind](path, 300, 1)
    WRITERS[kind](other, 300, 2)
    params = {"identifier": "event", "cache": cache}
    with DataGenerator([path, other], ["a", "b"], params) as generator:
        in_process("os.replace(sys.argv[2], sys.argv[1])", path, shutil.copy(other, tmp_path / "new"))
        generator.close()
        with pytest.raises(FileChanged, match=f"a.{kind} changed while it was read"):
            list(generator.batches("train"))


def test_a_client_refuses_events_of_a_file_that_changes(tmp_path: Path) -> None:
    write_root(tmp_path / "a.root", 100_000, 1)
    with EventFile(str(tmp_path / "a.root")) as file:
        events = file.read(["met"])
        next(events)
        truncate(tmp_path / "a.root", tmp_path)
        with pytest.raises(FileChanged):
            list(events)


MODEL = """
import os, shutil
from sklearn.linear_model import LogisticRegression
{change}
def model(idim):
    return LogisticRegression()
"""


@pytest.mark.parametrize(
    "change", ["os.truncate('a.root', 5000)", "shutil.copyfile('b.root', 'a.root')"], ids=["truncated", "replaced"]
)
def test_training_on_a_file_that_changes_is_an_error_of_one_line_and_writes_nothing(
    tmp_path: Path, change: str
) -> None:
    write_events(tmp_path / "a.root", 3000, seed=1)
    write_events(tmp_path / "b.root", 3000, seed=2)
    write_events(tmp_path / "c.root", 3000, seed=3)
    text = MODEL.format(change="").replace("    return", f"    {change}\n    return")
    (tmp_path / "model.py").write_text(text)
    done = run_script("workflow.py", "--files=a.root,c.root", "--labels=a,c", "--model=model.py", cwd=tmp_path)
    assert only_error_line(done).startswith("error: a.root changed while it was read; run again when")
    assert sorted(os.listdir(tmp_path)) == ["a.root", "b.root", "c.root", "model.py"]
