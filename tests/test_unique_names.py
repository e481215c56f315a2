"""Names that are used as keys must be unique: a second one is an error and never replaces the first."""

import json

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tinyroot import write_tree

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.expressions.preproc_file import load_preproc
from mlaas4hep.input_files import read_json
from mlaas4hep.io import open_source
from mlaas4hep.io.formats.awkward_bridge import leaves_of
from mlaas4hep.reader import DataReader, ReadOptions, Specs
from mlaas4hep.reader.export import write_vectors

ONE, TWO, OTHER = pa.array([1]), pa.array([2]), pa.array([3])
TABLES = {
    "columns": (pa.table([ONE, TWO], names=["x", "x"]), "x"),
    "a field and a column": (pa.table([pa.StructArray.from_arrays([ONE], ["b"]), TWO], names=["a", "a.b"]), "a.b"),
    "fields": (pa.table([pa.StructArray.from_arrays([ONE, TWO], ["x", "x"]), OTHER], names=["a", "y"]), "a.x"),
    "fields of fields": (
        pa.table([pa.StructArray.from_arrays([pa.StructArray.from_arrays([ONE], ["c"]), TWO], ["b", "b.c"])], ["a"]),
        "a.b.c",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["Parquet", "Arrow"])
@pytest.mark.parametrize("case", TABLES)
def test_two_columns_of_a_table_with_the_same_name_are_refused(tmp_path, kind, case):
    table, name = TABLES[case]
    if kind == "Parquet":
        pq.write_table(table, tmp_path / "a")
    else:
        with pa.ipc.new_file(tmp_path / "a", table.schema) as sink:
            sink.write_table(table)
    with pytest.raises(FileUnreadable, match=rf"as {kind}: two columns are called '{name}'; give them different names"):
        open_source(str(tmp_path / "a"))


@pytest.mark.parametrize("header", ["x,y,x", 'x,y,"x"', "x, y, x"])
def test_two_names_in_the_first_line_of_a_csv_file_are_refused(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header}\n1,2,3\n")
    with pytest.raises(FileUnreadable, match=r"a\.csv as CSV: two columns are called 'x'; give them different names"):
        open_source(str(tmp_path / "a.csv"))


def test_names_are_case_sensitive(tmp_path):
    (tmp_path / "a.csv").write_text("x,X\n1,2\n")
    with open_source(str(tmp_path / "a.csv")) as source:
        found = source.read(["x", "X"], 0, 1)
    assert (found["x"].tolist(), found["X"].tolist()) == ([1], [2])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (['{"x": 1, "y": 2}', '{"x": 1, "x": 5, "y": 2}'], r"Column\(/x\) was specified twice in row 1"),
        (['{"a": {"x": 1, "x": 2}}'], r"Column\(/a/x\) was specified twice in row 0"),
        (['{"s": 1, "x": 1}', '{"s": "text", "x": 1}', '{"s": 1, "x": 1, "x": 2}'], "has the key 'x' twice"),
    ],
)  # fmt: skip
def test_a_repeated_key_in_a_row_of_json_is_refused(tmp_path, lines, says):
    (tmp_path / "a.json").write_text("\n".join([*lines, ""]))
    with pytest.raises(FileUnreadable, match=rf"a\.json as JSON: .*{says}"):
        open_source(str(tmp_path / "a.json"))


@pytest.mark.parametrize("old", ["second", "within_2"])
def test_two_fields_of_an_avro_record_with_the_same_name_are_refused(tmp_path, old):
    within = [{"name": "within_1", "type": "long"}, {"name": "within_2", "type": "long"}]
    fields = [
        {"name": "first1", "type": "long"},
        {"name": "second", "type": "long"},
        {
            "name": "list",
            "type": {"type": "array", "items": ["null", {"type": "record", "name": "r", "fields": within}]},
        },
    ]  # fmt: skip
    with (tmp_path / "a").open("wb") as file:
        row = {"first1": 1, "second": 2, "list": [{"within_1": 3, "within_2": 4}]}
        fastavro.writer(file, {"type": "record", "name": "event", "fields": fields}, [row])
    new = {"second": "first1", "within_2": "within_1"}[old]
    content = (tmp_path / "a").read_bytes()
    assert content.count(f'"{old}"'.encode()) == 1
    (tmp_path / "a").write_bytes(content.replace(f'"{old}"'.encode(), f'"{new}"'.encode()))
    with pytest.raises(FileUnreadable, match=rf"as Avro: two columns are called '{new}'; give them different names"):
        open_source(str(tmp_path / "a"))


def test_two_fields_of_a_record_form_with_the_same_name_are_refused():
    import awkward as ak

    number = ak.forms.NumpyForm("int64")
    form = ak.forms.RecordForm([ak.forms.RecordForm([number], ["b"]), number], ["a", "a.b"])
    with pytest.raises(ConfigError, match=r"two columns are called 'a\.b'"):
        leaves_of(form)


@pytest.mark.parametrize("text", ['{"define": {"a": "x", "b": "x", "a": "y"}}', '{"cut": "x > 1", "cut": "x > 2"}'])
def test_a_repeated_key_in_a_json_file_of_the_user_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    name = "a" if "define" in text else "cut"
    for read in (read_json, load_preproc):
        with pytest.raises(ConfigError, match=rf"a\.json: an object has the key '{name}' twice; keep one of them"):
            read(tmp_path / "a.json")


@pytest.mark.parametrize(("flat", "jagged"), [(["x", "x"], []), (["x"], ["x"]), ([], ["x", "x"])])
def test_specs_that_list_a_branch_twice_are_refused(tmp_path, flat, jagged):
    content = {"fkeys": flat, "jkeys": jagged, "jdim": {"x": 3}, "minv": {"x": 0}, "maxv": {"x": 1}}
    (tmp_path / "specs.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="branch 'x' is listed twice"):
        Specs.load(str(tmp_path / "specs.json"))


@pytest.fixture
def path(tmp_path):
    write_tree(tmp_path / "a.root", {"x": np.arange(4.0), "y": -np.arange(4.0), "mask": np.arange(4)})
    return tmp_path / "a.root"


def test_a_python_file_may_replace_only_the_branches_that_it_is_given(path, tmp_path):
    text = 'branches = ["x"]\ndef preprocessing(events):\n    events["{}"] = 2 * events.x\n    return events\n'
    (tmp_path / "own.py").write_text(text.format("x"))
    with DataReader(path, selected_branches=["x", "y"], preproc=tmp_path / "own.py", normalise="none") as reader:
        assert next(iter(reader)).x.tolist() == [[2 * i, -i] for i in range(4)]
    (tmp_path / "hides.py").write_text(text.format("y"))
    with pytest.raises(ConfigError, match=r"column 'y' of .*hides\.py: the file has a branch with this name"):
        DataReader(path, preproc=tmp_path / "hides.py")


@pytest.mark.parametrize("ending", [".npz", ".h5"])
@pytest.mark.parametrize("name", ["x", "mask"])
def test_identifiers_do_not_replace_the_arrays_of_the_vectors(path, tmp_path, ending, name):
    with (
        DataReader(path, selected_branches=["y"], identifier=[name]) as reader,
        pytest.raises(ConfigError, match=f"the file would have two columns '{name}'"),
    ):
        write_vectors(reader, tmp_path / f"vectors{ending}")


def test_a_label_and_an_expression_do_not_share_a_name(path):
    options = ReadOptions(selected_branches=["x"], extra=["y"], derived={"y": "x * 2"})
    with pytest.raises(ConfigError, match=r"'y' names both a branch of .* and an expression"):
        DataReader.open(path, options)
