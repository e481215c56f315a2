"""Rows read from ROOT and Parquet files, compared with the columns that were written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from serving_fixtures import (  # noqa: F401
    KEYS,
    bundle_fixture,
    run_client,
    server_fixture,
    shared_server_fixture,
    url_fixture,
)
from tinyroot import write_events, write_tree

from mlaas4hep.client import TFaaSClient
from mlaas4hep.client.event_file import EventFile, is_event_file
from mlaas4hep.errors import BranchNotFound, ConfigError, FileUnreadable, TreeNotFound

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

LARGEST = float(np.finfo(np.float32).max)


def rows_of(path: Path, keys: list[str], **options: Any) -> list[list[Any]]:
    with EventFile(str(path), **options) as file:
        found = list(file.read(keys))
        assert [events.first for events in found] == [0, *np.cumsum([len(events.rows) for events in found])[:-1]]
        assert all(events.keys == keys and events.is_batch for events in found)
        rows = [row for events in found for row in events.rows]
        assert len(rows) == file.num_events
        return rows


def test_rows_have_the_values_that_were_written(tmp_path: Path) -> None:
    columns = write_events(tmp_path / "e.root", 5_000, clusters=3)
    met, pt, event = columns["met"].tolist(), columns["pt"].to_list(), columns["event"].tolist()
    expected = [
        [lists, number, lists[1] if len(lists) > 1 else None, identity]
        for lists, number, identity in zip(pt, met, event, strict=True)
    ]
    assert rows_of(tmp_path / "e.root", ["pt", "met", "pt_1", "event"]) == expected
    assert rows_of(tmp_path / "e.root", ["met"], nevts=2_001) == [[number] for number in met[:2_001]]
    assert rows_of(tmp_path / "e.root", ["met"], nevts=9_999) == [[number] for number in met]


def test_wide_rows_are_read_in_smaller_groups(tmp_path: Path) -> None:
    write_tree(tmp_path / "e.root", {f"x{index}": np.arange(900, dtype=np.int32) for index in range(500)})
    with EventFile(str(tmp_path / "e.root")) as file:
        sizes = [len(events.rows) for events in file.read([f"x{index}" for index in range(500)])]
    assert sizes == [800, 100]


def test_every_dtype_becomes_a_json_number(tmp_path: Path) -> None:
    columns = {
        "flag": np.array([True, False]),
        "real": np.array([np.nan, np.inf]),
        "fixed": np.array([[1, 2], [3, 4]], np.int16),
        "lists": ak.Array([np.array([1.5, np.nan], np.float32), np.array([-np.inf], np.float32)]),
    }
    write_tree(tmp_path / "e.root", columns)
    keys = ["flag", "real", "fixed", "fixed_1", "fixed_2", "lists", "lists_0"]
    rows = rows_of(tmp_path / "e.root", keys)
    assert rows == [
        [1, None, [1, 2], 2, None, [1.5, None], 1.5],
        [0, LARGEST, [3, 4], 4, None, [-LARGEST], -LARGEST],
    ]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_parquet_is_read_too(tmp_path: Path) -> None:
    import pyarrow

    table = pyarrow.table(
        {"met": [1.5, None, 2.5], "pt": [[1.0], [], [2.0, 3.0]], "name": ["a", "b", "c"], "x_0": [1, 2, 3]}
    )
    parquet.write_table(table, tmp_path / "e.parquet", row_group_size=2)
    assert rows_of(tmp_path / "e.parquet", ["met", "pt", "x_0"]) == [
        [1.5, [1.0], 1],
        [None, [], 2],
        [2.5, [2.0, 3.0], 3],
    ]
    with pytest.raises(ConfigError, match=r"branch 'name' of .* is not numeric: text"):
        rows_of(tmp_path / "e.parquet", ["name"])


def test_missing_branches_trees_and_files_are_errors(tmp_path: Path) -> None:
    write_events(tmp_path / "e.root", 10)
    with pytest.raises(BranchNotFound, match=r"branch 'meet' is not in .*; closest: 'met'"):
        rows_of(tmp_path / "e.root", ["meet"])
    with pytest.raises(BranchNotFound, match="branch 'met_0' is not in "):
        rows_of(tmp_path / "e.root", ["met_0"])
    with pytest.raises(TreeNotFound, match="tree 'Evens' not found in"):
        rows_of(tmp_path / "e.root", ["met"], tree="Evens")
    with pytest.raises(FileUnreadable, match=r"file not found: .*f.root; closest: .*e.root"):
        rows_of(tmp_path / "f.root", ["met"])


@pytest.mark.parametrize(
    ("name", "content", "is_data"),
    [
        ("input.json", b'{"keys": ["a"], "values": [1]}', False),
        ("input", b'{"keys": ["a"], "values": [1]}', False),
        ("events", b"root\0...", True),
        ("events", b"PAR1....", True),
        ("events.csv", b"a,b\n", True),
        ("there_is_none.root", None, True),
        ("there_is_none.json", None, False),
    ],
)
def test_data_files_are_distinguished_from_json(
    tmp_path: Path, name: str, content: bytes | None, is_data: bool
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert is_event_file(str(tmp_path / name)) is is_data


@pytest.mark.parametrize("content", [b"root:x:0:0:root:/root:/bin/bash\n", b"", b"\x89PNG\r\n", b"met pt\n"])
def test_a_file_that_is_neither_json_nor_data_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "passwd").write_bytes(content)
    done = run_client("--predict=passwd", "--model=m", cwd=tmp_path)
    reason = "passwd is neither JSON nor a data file; data formats: ROOT, Parquet, Arrow (Feather), Avro, CSV,"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {reason} JSON lines\n")


@pytest.mark.parametrize("nevts", [0, -5])
def test_an_invalid_number_of_events_is_an_error(tmp_path: Path, nevts: int) -> None:
    write_events(tmp_path / "e.root", 10)
    with pytest.raises(ConfigError, match=f"nevts must be positive, or -1 for all events, not {nevts}"):
        EventFile(str(tmp_path / "e.root"), nevts=nevts)
    done = run_client("--predict=e.root", "--branches=met", f"--nevts={nevts}", "--model=m", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: nevts must be positive, or -1 for all events, not {nevts}\n"


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Two events with the inputs of the fixtures' model, in a tree named Tree."""
    muons = ak.Array([np.array([3, 4], np.float32), np.array([], np.float32)])
    columns = {"MET_pt": np.array([2, 0], np.float32), "MET_phi": np.array([1, 1], np.float32), "Muon_pt": muons}
    write_tree(tmp_path / "events.root", columns, name="Tree")
    return tmp_path / "events.root"


@pytest.mark.parametrize("branches", ["MET_pt,MET_phi,Muon_pt", ",".join(KEYS)])
def test_our_server_scores_the_events_of_a_file(url: str, bundle: Path, events: Path, branches: str) -> None:
    with TFaaSClient(url) as client:
        client.upload(bundle / "upload.json")

    def run(*options: str) -> str:
        asked = [f"--predict={events}", "--branch=Tree", f"--branches={branches}", "--model=htautau", *options]
        done = run_client(*asked, TFAAS_URL=url)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert run() == "[4321.0]\n[1.0]\n"  # 1 + 10 x 2 + 100 x 3 + 1000 x 4, see serving_fixtures
    assert json.loads(run("--json")) == [[4321.0], [1.0]]
    assert run("--nevts=1") == "[4321.0]\n"


def test_missing_inputs_of_the_model_are_an_error(url: str, bundle: Path, events: Path) -> None:
    with TFaaSClient(url) as client:
        client.upload(bundle / "upload.json")
    done = run_client(f"--predict={events}", "--branch=Tree", "--branches=MET_pt", "--model=htautau", TFAAS_URL=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: event 0: POST \S+/json: 400: 2 missing keys: .*\n", done.stderr)
