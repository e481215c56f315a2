"""The same events in every format, and what is of none."""

import bz2
import gzip
import io
import json
from pathlib import Path

import awkward as ak
import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from check_source import check_source, check_values
from tinyroot import write_tree

from mlaas4hep.errors import FileUnreadable, TreeNotFound
from mlaas4hep.io import Jagged, Kind, open_source
from mlaas4hep.io.formats.awkward_bridge import to_awkward
from mlaas4hep.reader import DataReader

EVENTS = 700


def events():
    """Flat and jagged columns of several types; 64-bit event numbers that float64 cannot hold."""
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 5, EVENTS)
    return {
        "event": 2**60 + np.arange(EVENTS, dtype=np.int64),
        "met": rng.normal(50, 20, EVENTS).round(3),
        "njet": counts.astype(np.int64),
        "passed": rng.random(EVENTS) < 0.3,
        "jet_pt": ak.unflatten(rng.exponential(30, counts.sum()).round(3), counts),
        "jet_id": ak.unflatten(rng.integers(0, 7, counts.sum()), counts),
        "jet_tag": ak.unflatten(rng.random(counts.sum()) < 0.3, counts),
    }


def rows(columns):
    return [dict(zip(columns, values, strict=True)) for values in zip(*map(ak.to_list, columns.values()), strict=True)]


def table(columns):
    return pa.table({name: ak.to_list(values) for name, values in columns.items()})


def write_ttree(path, columns):
    write_tree(path, columns, clusters=3)


def write_rntuple(path, columns):
    with uproot.recreate(path) as file:
        file["Events"] = {name: ak.Array(values) for name, values in columns.items()}


def write_parquet(path, columns):
    pq.write_table(table(columns), path, row_group_size=300)


def write_feather(path, columns):
    with pa.ipc.new_file(path, table(columns).schema) as sink:
        sink.write_table(table(columns), max_chunksize=300)


def lines(columns):
    return "".join(json.dumps(row) + "\n" for row in rows(columns)).encode()


def write_json(path, columns):
    path.write_bytes(lines(columns))


def write_avro(path, columns):
    numbers = {"event": "long", "met": "double", "njet": "long", "passed": "boolean"}
    fields = [{"name": name, "type": kind} for name, kind in numbers.items()]
    fields += [
        {"name": "jet_pt", "type": {"type": "array", "items": "double"}},
        {"name": "jet_id", "type": {"type": "array", "items": "long"}},
        {"name": "jet_tag", "type": {"type": "array", "items": "boolean"}},
    ]
    with path.open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "event", "fields": fields}, rows(columns), codec="deflate")


FORMATS = {
    "ttree": write_ttree, "rntuple": write_rntuple, "parquet": write_parquet, "feather": write_feather,
    "json": write_json, "avro": write_avro,
}  # fmt: skip


TEXTS = {"csv": lambda columns: write_csv(columns), "json": lines}
COMPRESSIONS = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress,
    ".zst": lambda text: pa.compress(text, "zstd", asbytes=True),
}  # fmt: skip

TEXT_KINDS = [text + ending for text in TEXTS for ending in COMPRESSIONS if text + ending not in FORMATS]


@pytest.mark.parametrize("kind", [*FORMATS, *TEXT_KINDS])
def test_every_format_fulfils_the_contract_and_preserves_the_values(kind, tmp_path):
    columns = events()
    path = tmp_path / "events.data"  # the name says nothing
    if kind in FORMATS:
        FORMATS[kind](path, columns)
    else:
        text, dot, ending = kind.partition(".")
        path.write_bytes(COMPRESSIONS[dot + ending](TEXTS[text](columns)))
        if text == "csv":  # which has no lists
            columns = {name: columns[name] for name in ("event", "met", "njet", "passed")}
    with open_source(str(path)) as source:
        check_source(source)
        found = source.read(columns, 0, EVENTS)
        for name, expected in columns.items():
            if isinstance(found[name], Jagged):
                np.testing.assert_array_equal(found[name].counts, ak.to_numpy(ak.num(expected)))
                np.testing.assert_array_equal(found[name].content, ak.to_numpy(ak.flatten(expected)))
            else:
                np.testing.assert_array_equal(found[name], expected)
    assert found["event"].dtype == np.int64
    assert found["passed"].dtype == bool


def test_the_matrix_is_the_same_from_every_format(tmp_path):
    columns = events()
    matrices, columns_of = [], []
    for kind, write in FORMATS.items():
        write(tmp_path / kind, columns)
        with DataReader(tmp_path / kind, selected_branches=["met", "jet_pt", "jet_id"], identifier=["event"]) as reader:
            matrices.append(np.concatenate([chunk.x for chunk in reader]))
            columns_of.append(reader.columns)
    assert columns_of == [columns_of[0]] * len(FORMATS)
    for matrix in matrices[1:]:
        np.testing.assert_array_equal(matrix, matrices[0])


def write_csv(columns, delimiter=","):
    flat = [name for name in columns if not name.startswith("jet")]
    body = [delimiter.join(str(columns[name][row]) for name in flat) for row in range(EVENTS)]
    return "\n".join([delimiter.join(flat), *body, ""]).encode()


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_csv_is_detected_by_its_first_line(tmp_path, delimiter):
    columns = events()
    (tmp_path / "a.data").write_bytes(write_csv(columns, delimiter))
    with open_source(str(tmp_path / "a.data")) as source:
        check_source(source)
        assert source.read(["event"], 0, EVENTS)["event"].tolist() == columns["event"].tolist()
        np.testing.assert_array_equal(source.read(["met"], 3, 9)["met"], columns["met"][3:9])


def test_the_type_of_a_column_can_represent_the_values_of_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("mlaas4hep.io.formats.row_files.BLOCK_BYTES", 200)
    text = [f'{{"a": {i}, "b": [{i}], "s": {i}}}' for i in range(100)]
    text += [f'{{"a": {i}.5, "b": [{i}.25], "late": {i}, "s": "x"}}' for i in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(text))
    with open_source(str(tmp_path / "a.jsonl")) as source:
        kinds = {name: (column.kind, column.dtype) for name, column in source.columns.items()}
        assert kinds["a"] == (Kind.FLAT, np.float64)
        assert kinds["b"] == (Kind.JAGGED, np.float64)
        assert kinds["s"][0] is Kind.OTHER
        found = source.read(["a", "b", "late"], 98, 102)
    assert found["a"].tolist() == [98, 99, 0.5, 1.5]
    assert found["b"].content.tolist() == [98, 99, 0.25, 1.25]
    np.testing.assert_array_equal(found["late"], [np.nan, np.nan, 0, 1])


def test_missing_values_are_nan_and_members_of_structs_are_named_with_dots(tmp_path):
    columns = {
        "n": [1, None, 3],
        "x": [0.5, None, 1.5],
        "ok": [True, False, None],
        "muon": [[{"pt": 1.5, "q": 1}, {"pt": 2.5, "q": -1}], [], None],
        "name": ["a", "b", "c"],
        "deep": [[[1]], [], [[2, 3]]],
        "pair": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32(), 2)),
        "when": pa.array([0, 1, 2], pa.timestamp("ms")),
        "MET": [{"pt": 1.0}, {"pt": 2.0}, {"pt": 3.0}],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with open_source(str(tmp_path / "a.parquet")) as source:
        reasons = {name: column.reason for name, column in source.columns.items() if column.kind is Kind.OTHER}
        assert reasons == {"name": "text", "when": "datetime64[ms]: not a number"}
        found = source.read(["n", "x", "ok", "muon.pt", "muon.q", "deep", "pair", "MET.pt"], 0, 3)
        for name, values in found.items():
            check_values(values, source.columns[name], 3)
    np.testing.assert_array_equal(found["n"], [1, np.nan, 3])
    np.testing.assert_array_equal(found["x"], [0.5, np.nan, 1.5])
    np.testing.assert_array_equal(found["ok"], [1, 0, np.nan])
    assert found["muon.pt"].content.tolist() == [1.5, 2.5]
    assert found["muon.q"].offsets.tolist() == [0, 2, 2, 2]
    assert to_awkward(found["deep"]).tolist() == [[[1]], [], [[2, 3]]]
    assert found["pair"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found["MET.pt"].tolist() == [1, 2, 3]


LACKING = {
    "n": pa.array([1, None, 3]),
    "whole": pa.array([1, 2, 3]),
    "ids": pa.array([[1, None], [], None], pa.list_(pa.int64())),
    "whole_ids": pa.array([[1, 2], [], None], pa.list_(pa.int64())),
    "pair": pa.array([[1, None], [2, 3], [4, 5]], pa.list_(pa.int32(), 2)),
    "passed": pa.array([[True], [None], []]),
    "MET": pa.array([{"n": 1, "whole": 2}, {"n": None, "whole": 3}, {"n": 4, "whole": 5}]),
    "muon": pa.array([[{"q": 1, "whole": 2}, {"q": None, "whole": 3}], [], []]),
    "name": pa.array(["a", None, "c"]),
    "map": pa.array([{"k": 1}, {}, {"k": 2}], pa.map_(pa.string(), pa.int32())),
}
"""Whole numbers of which some are missing, and others of which none is although their type would allow it."""


def write_lacking(path, kind):
    table = pa.table(LACKING)
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    elif kind == "feather":
        with pa.ipc.new_file(path, table.schema) as sink:
            sink.write_table(table, max_chunksize=2)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.drop(["map"]).to_pylist()))


@pytest.mark.parametrize("kind", ["parquet", "feather", "json"])
def test_integers_become_floats_only_in_columns_with_missing_values(kind, tmp_path):
    write_lacking(tmp_path / "a", kind)
    real = {"n", "ids", "passed", "MET.n", "muon.q", "pair"}
    whole = {"whole", "whole_ids", "MET.whole", "muon.whole"}
    with open_source(str(tmp_path / "a")) as source:
        check_source(source)
        types = {name: column.dtype for name, column in source.columns.items() if column.kind is not Kind.OTHER}
        found = source.read(types, 0, 3)
    assert {name for name, dtype in types.items() if dtype == np.float64} == real
    assert {name for name, dtype in types.items() if dtype == np.int64} == whole
    np.testing.assert_array_equal(found["n"], [1, np.nan, 3])
    np.testing.assert_array_equal(found["ids"].content, [1, np.nan])
    np.testing.assert_array_equal(found["passed"].content, [1, np.nan])
    np.testing.assert_array_equal(found["MET.n"], [1, np.nan, 4])
    np.testing.assert_array_equal(found["muon.q"].content, [1, np.nan])
    assert found["whole_ids"].content.tolist() == [1, 2]
    pair = found["pair"].content.reshape(3, 2) if kind == "json" else found["pair"]
    np.testing.assert_array_equal(pair, [[1, np.nan], [2, 3], [4, 5]])


def test_a_column_with_rounded_large_integers_is_reported_once(tmp_path, capsys):
    columns = {"large": [2**60 + 1, None], "large_ids": [[2**60 + 1, None], []], "small": [1, None]}
    for name in ("a", "b"):
        pq.write_table(pa.table(columns), tmp_path / name)
        with open_source(str(tmp_path / name)) as source:
            source.read(columns, 0, 2)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"note: column '{name}' has missing values, so it becomes float64, which rounds numbers beyond 2^53"
        for name in ("large", "large_ids")
    ]


def test_without_statistics_parquet_columns_that_may_have_missing_values_become_floats(tmp_path):
    pq.write_table(pa.table({"n": [1, 2], "ids": [[1], [2, 3]]}), tmp_path / "a", write_statistics=False)
    with open_source(str(tmp_path / "a")) as source:
        assert source.columns["n"].dtype == np.float64
        assert source.read(["ids"], 0, 2)["ids"].content.tolist() == [1, 2, 3]


def test_lists_of_older_parquet_files_stay_integers_and_a_missing_number_is_an_error():
    path = Path(__file__).parent / "files" / "pyarrow15.parquet"
    says = r"cannot read column 'ids' of .*, entries 0 to 2: .*integers are missing.*; exclude the column with"
    with open_source(str(path)) as source:
        assert [column.dtype.name for column in source.columns.values()] == ["int64", "int64", "float64"]
        found = source.read(["whole", "n"], 0, 3)
        assert found["whole"].content.tolist() == [1, 2]
        np.testing.assert_array_equal(found["n"], [1, np.nan, 2])
        with pytest.raises(FileUnreadable, match=says):
            source.read(["ids"], 0, 3)


def test_the_identity_depends_on_the_content_only(tmp_path):
    columns = events()
    for kind in ("parquet", "feather", "json"):
        for name in ("one", "other"):
            FORMATS[kind](tmp_path / name, columns)
        with open_source(str(tmp_path / "one")) as one, open_source(str(tmp_path / "other")) as other:
            assert one.identity == other.identity
        FORMATS[kind](tmp_path / "third", {**columns, "met": columns["met"] + 1})
        with open_source(str(tmp_path / "third")) as third:
            assert third.identity != one.identity


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "a is empty"),
        (b"hello\n", "the format of .* is not supported"),
        (b"\x00\x01\x02,\x03\n", "the format of .* is not supported"),
        (b"PAR1 and nothing", "as Parquet: "),
        (b"ARROW1\0\0 and nothing", "as Arrow: "),
        (b"Obj\x01 and nothing", "as Avro: "),
        (b'{"a": 1}\n{"a": \n', "as JSON: "),
        (b"a,b\n1,2\n3\n", "as CSV: "),
        (b"# The first, the second\nimport this, that\n", "the format of .* is not supported"),
        (b"root\0 and nothing", "as a ROOT file: "),
        (b"root:x:0:0:root:/root:/bin/bash\n", "the format of .* is not supported"),
    ],
)
def test_an_unreadable_file_is_an_error_of_one_line(tmp_path, content, says):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FileUnreadable, match=says) as caught:
        open_source(str(tmp_path / "a"))
    assert "\n" not in str(caught.value)


def test_the_error_for_a_missing_rntuple_lists_those_in_the_file(tmp_path):
    write_rntuple(tmp_path / "a.root", events())
    with pytest.raises(TreeNotFound, match="which has 'Events'; choose one: --branch=Events"):
        open_source(str(tmp_path / "a.root"), "events")


def test_the_error_for_a_damaged_page_names_column_and_entries(tmp_path):
    write_parquet(tmp_path / "a", events())
    content = bytearray((tmp_path / "a").read_bytes())
    content[200:3000] = bytes(2800)
    (tmp_path / "a").write_bytes(content)
    with (
        open_source(str(tmp_path / "a")) as source,
        pytest.raises(FileUnreadable, match=r"cannot read column 'event' of .*, entries 0 to 299: "),
    ):
        source.read(list(source.columns), 0, EVENTS)


def test_a_field_of_several_types_is_left_out_and_the_others_are_read(tmp_path):
    (tmp_path / "a").write_text('{"a": 1, "b": 2, "c": {"x": 1}}\n{"a": "x", "b": 3, "c": {"x": [1]}}\n')
    with open_source(str(tmp_path / "a")) as source:
        check_source(source)
        reasons = {name: column.reason for name, column in source.columns.items()}
        assert reasons == {"b": "", "a": "several types in one column", "c": "several types in one column"}
        assert source.read(["b"], 0, 2)["b"].tolist() == [2, 3]


@pytest.mark.parametrize("odd", [["int", "string"], [{"type": "array", "items": "int"}, "double"]])
def test_a_union_of_several_types_is_left_out_and_the_others_are_read(tmp_path, odd):
    fields = [{"name": "a", "type": "long"}, {"name": "odd", "type": odd}, {"name": "b", "type": ["null", "long"]}]
    values = [1, "x"] if odd[0] == "int" else [[1], 2.5]
    with (tmp_path / "a").open("wb") as file:
        records = [{"a": 2**60 + i, "odd": value, "b": 2**60 + i} for i, value in enumerate(values)]
        fastavro.writer(file, {"type": "record", "name": "event", "fields": fields}, records)
    with open_source(str(tmp_path / "a")) as source:
        check_source(source)
        assert source.columns["odd"].reason == "several types in one column"
        found = source.read(["a", "b"], 0, 2)
    assert found["a"].tolist() == found["b"].tolist() == [2**60, 2**60 + 1]  # of b, none is missing


LARGE = [2**64 - 1, 2**63, 1]


@pytest.mark.parametrize(
    "text", ["id,n\n{},0\n{},1\n{},2\n", '{{"id": {}, "n": 0}}\n{{"id": {}, "n": 1}}\n{{"id": {}, "n": 2}}\n']
)
@pytest.mark.parametrize("block", [1_000_000, 30])
def test_integers_from_2_to_the_63_stay_exact(tmp_path, monkeypatch, text, block):
    monkeypatch.setattr("mlaas4hep.io.formats.row_files.BLOCK_BYTES", block)
    (tmp_path / "a.csv").write_text(text.format(*LARGE))
    with open_source(str(tmp_path / "a.csv")) as source:
        found = source.read(["id", "n"], 0, 3)
    assert found["id"].dtype == np.uint64
    assert found["id"].tolist() == LARGE
    assert found["n"].tolist() == [0, 1, 2]


def test_floats_from_2_to_the_63_stay_floats(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1e19,18446744073709551615\n3,2.5\n")
    with open_source(str(tmp_path / "a.csv")) as source:
        assert source.read(["x"], 0, 2)["x"].tolist() == [1e19, 3]
        assert source.read(["y"], 0, 2)["y"].tolist() == [2.0**64, 2.5]


@pytest.mark.parametrize("name", ["a.csv", "a"])
def test_a_csv_file_without_names_is_refused_with_the_fix(tmp_path, name):
    (tmp_path / name).write_text("1.0,2.0\n3.0,4.0\n")
    with pytest.raises(FileUnreadable) as caught:
        open_source(str(tmp_path / name))
    reason = "the first line has numbers instead of column names; insert a line with the names"
    assert str(caught.value) == f"cannot read {tmp_path / name} as CSV: {reason}"


@pytest.mark.parametrize(
    ("name", "says"), [("a.csv", "as CSV: the first line is not valid CSV"), ("a", "is not supported")]
)
def test_a_first_line_that_is_not_csv_is_an_error_of_one_line(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"a\rb,c\n1,2\n")
    with pytest.raises(FileUnreadable, match=says):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("start", [b"x,y\n", b'{"x": '])
def test_a_compressed_file_with_an_endless_line_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, start):
    monkeypatch.setattr("mlaas4hep.io.formats.row_files.BLOCK_BYTES", 1_000_000)
    monkeypatch.setattr("mlaas4hep.io.formats.row_files.MAX_LINE_BYTES", 3_000_000)
    with gzip.open(tmp_path / "a.csv.gz", "wb", 1) as file:
        file.write(start)
        file.write(b"1" * 40_000_000)
    with pytest.raises(FileUnreadable, match="a line has more than 3 MB"):
        open_source(str(tmp_path / "a.csv.gz"))


@pytest.mark.parametrize("header", ['"jet,pt","say ""x""",c', '"jet,pt", "say ""x""", c'])
def test_quoted_column_names_may_contain_the_delimiter(tmp_path, header):
    (tmp_path / "a").write_text(f"{header}\n1,2,3.5\n")
    with open_source(str(tmp_path / "a")) as source:
        assert list(source.columns) == ["jet,pt", 'say "x"', "c"]
        assert source.read(["jet,pt"], 0, 1)["jet,pt"].tolist() == [1]


def damaged_avro():
    path = io.BytesIO()
    fastavro.writer(path, {"type": "record", "name": "e", "fields": [{"name": "a", "type": "long"}]}, [{"a": 1}] * 100)
    content = bytearray(path.getvalue())
    content[-30:] = bytes(30)
    return bytes(content)


def empty_avro():
    path = io.BytesIO()
    fastavro.writer(path, {"type": "record", "name": "e", "fields": [{"name": "a", "type": "long"}]}, [])
    return path.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a,b\n", "as CSV: the file has no rows"),
        (b"{}\n", "as JSON: the file has no rows"),
        (empty_avro(), "as Avro: the file has no rows"),
        (damaged_avro(), "as Avro: "),
    ],
)
def test_the_error_for_an_empty_or_damaged_file_names_it(tmp_path, content, says):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(FileUnreadable) as caught:
        open_source(str(path))
    assert str(caught.value).startswith(f"cannot read {path} {says}")


def test_two_columns_with_the_same_name_are_refused(tmp_path):
    table = pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(FileUnreadable, match=r"a\.parquet as Parquet: two columns are called 'x'"):
        open_source(str(tmp_path / "a.parquet"))


def test_chars_of_an_rntuple_are_signed_as_in_root():
    with open_source(str(Path(__file__).parent / "files" / "chars.root")) as source:
        check_source(source)
        found = source.read(source.columns, 0, 10)
    down = [-event for event in range(10)]  # as in write_chars.C
    assert found["plain"].tolist() == found["with_sign"].tolist() == down
    assert found["without_sign"].tolist() == [250, 251, 252, 253, 254, 255, 250, 251, 252, 253]
    assert found["array"].tolist() == [[event, -event] for event in range(10)]
    assert found["list"].content.tolist() == [-event for event in range(10) for _ in range(event % 3)]
    assert found["list"].content.dtype == found["plain"].dtype == np.int8
