"""Lists of lists, from files to scores."""

import json
import re

import awkward as ak
import numpy as np
import onnxruntime
import pytest
import uproot
from scripts import run_forked
from serving_fixtures import Server

from mlaas4hep.client.event_file import EventFile
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, SpecsMismatch
from mlaas4hep.reader import DataReader
from mlaas4hep.stream import DataGenerator
from mlaas4hep.training import train_model

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

pytestmark = pytest.mark.usefixtures("without_plots", "without_trial_export")

NAN = np.nan


def write_tracks(path, events, seed=0, **more):
    """Write events with tracks, which have hits; return the arrays."""
    rng = np.random.default_rng(seed)
    tracks = rng.integers(0, 5, events)
    hits = rng.integers(0, 7, tracks.sum())
    x = ak.unflatten(ak.unflatten(rng.normal(size=hits.sum()).astype("f4"), hits), tracks)
    columns = {
        "run": np.full(events, seed + 1, np.uint32),
        "luminosityBlock": np.ones(events, np.uint32),
        "event": np.arange(events, dtype=np.uint64),
        "met": rng.exponential(30, events).astype("f4"),
        "track_pt": ak.unflatten(rng.exponential(5, tracks.sum()).astype("f4"), tracks),
        "hit_x": x,
        "hit_layer": ak.values_astype(ak.local_index(x, axis=2), np.int32),
        **more,
    }
    ak.to_parquet(ak.zip(columns, depth_limit=1), path)
    return columns


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("nested") / "tracks.parquet"
    return str(path), write_tracks(path, 300)


def padded(array, *sizes):
    """Return lists padded with NaN to these sizes, computed by awkward-array."""
    array = ak.pad_none(array, sizes[0], axis=1, clip=True)
    if len(sizes) > 1:
        array = ak.pad_none(ak.fill_none(array, [], axis=1), sizes[1], axis=2, clip=True)
    return ak.to_numpy(ak.fill_none(array, NAN, axis=-1)).reshape(len(array), -1)


def test_they_are_left_out_with_a_reason_by_default(file):
    with DataReader(file[0]) as reader:
        assert reader.features == ["met", "track_pt"]
        assert reader.available["hit_x"].reason == "lists of lists; --nested=flatten or --nested=pad includes them"
    with pytest.raises(ConfigError, match=r"'hit_x' of .* cannot be a feature: lists of lists; --nested"):
        DataReader(file[0], selected_branches=["hit_x"])


@pytest.mark.parametrize("chunk_size", [300, 7])
def test_padded_lists_of_lists_have_a_column_for_each_value(file, chunk_size):
    path, columns = file
    options = {"nested": "pad", "normalise": "none", "chunk_size": chunk_size, "selected_branches": ["hit_*", "met"]}
    with DataReader(path, **options) as reader:
        assert reader.features == ["met", "hit_layer", "hit_x"]
        assert (reader.specs.branches["hit_x"].dim, reader.specs.branches["hit_x"].inner) == (4, 6)
        assert reader.columns[25:] == [f"hit_x_{i}_{j}" for i in range(4) for j in range(6)]
        chunks = list(reader)
    x, mask = (np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("x", "mask"))
    truth = padded(columns["hit_x"], 4, 6)
    np.testing.assert_array_equal(x[:, 25:], truth)
    np.testing.assert_array_equal(mask[:, 25:], ~np.isnan(truth))
    np.testing.assert_array_equal(x[:, 1:25], padded(columns["hit_layer"], 4, 6))


def test_flattened_lists_of_lists_are_lists_everywhere(file, tmp_path):
    path, columns = file
    (tmp_path / "define.json").write_text('{"define": {"hits": "len(hit_x)", "far": "abs(hit_x)"}}')
    preproc = tmp_path / "define.json"
    with DataReader(path, nested="flatten", normalise="none", preproc=preproc) as reader:
        flat = ak.flatten(columns["hit_x"], axis=2)
        width = int(ak.max(ak.num(flat)))
        assert reader.specs.branches["hit_x"].dim == width
        chunk = reader.read_block(0, 300)
        begin = reader.columns.index("hit_x_0")
        np.testing.assert_array_equal(chunk.x[:, begin : begin + width], padded(flat, width))
        np.testing.assert_array_equal(chunk.x[:, reader.columns.index("hits")], ak.num(flat))
        begin = reader.columns.index("far_0")
        np.testing.assert_array_equal(chunk.x[:, begin : begin + width], padded(abs(flat), width))


@pytest.mark.parametrize(
    ("choice", "sizes"), [(3, (3, 3)), ("hit_x=2x5", (2, 5)), ({"hit_*": "9x2"}, (4, 2)), ("1,hit_x=3", (3, 3))]
)
def test_both_lengths_can_be_limited(file, choice, sizes):
    path, columns = file
    options = {"nested": "pad", "normalise": "none", "max_length": choice, "selected_branches": ["hit_x"]}
    with DataReader(path, **options) as reader:
        np.testing.assert_array_equal(reader.read_block(0, 300).x, padded(columns["hit_x"], *sizes))
        total = int(ak.count(columns["hit_x"]))
        kept = int(np.isfinite(padded(columns["hit_x"], *sizes)).sum())
        assert reader.truncated == ({"hit_x": total - kept} if kept < total else {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": "track_pt=2x3"}, "'track_pt' is not a list of lists, so max_length cannot be 2x3"),
        ({"max_length": "hit_x=2x3x4"}, "invalid maximum length of a list: '2x3x4'"),
        ({"inputs": {"hits": {"branches": ["hit_x"], "length": 3}}}, "input 'hits' has no inner_length, but 'hit_x'"),
        (
            {"inputs": {"hits": {"branches": ["track_pt"], "length": 3, "inner_length": 2}}},
            "input 'hits' has an inner_length, but 'track_pt' does not have lists of lists",
        ),
        (
            {"inputs": {"hits": {"branches": ["hit_x"], "length": 3, "inner_length": 2, "sort": "hit_layer"}}},
            "input 'hits' cannot be sorted by 'hit_layer', which has lists of lists",
        ),
        (
            {"inputs": {"hits": {"branches": ["hit_x"], "inner_length": 2}}},
            "input 'hits' has 'inner_length' but no 'length'",
        ),
        ({"nested": "padded"}, "nested"),
    ],
)
def test_settings_that_do_not_fit_are_refused(file, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        DataReader(file[0], **{"nested": "pad", **options})


@pytest.mark.parametrize(("made", "used"), [("pad", "exclude"), ("pad", "flatten"), ("flatten", "pad")])
def test_specs_made_with_another_setting_are_refused(file, made, used):
    with DataReader(file[0], nested=made) as reader, pytest.raises(SpecsMismatch) as caught:
        DataReader(file[0], nested=used, specs=reader.specs)
    assert str(caught.value).endswith("of different kinds: hit_layer, hit_x; for lists of lists, use the same --nested"
                                      ' ("nested" in the params) as for the specs')  # fmt: skip


def test_identifiers_are_computed_from_flattened_lists(file, tmp_path):
    with pytest.raises(ConfigError, match="with --preproc and --nested=flatten, as in"):
        DataReader(file[0], nested="pad", identifier=["hit_layer"])
    (tmp_path / "define.json").write_text('{"define": {"label": "sum(hit_layer)"}}')
    options = {"nested": "flatten", "identifier": ["label"], "preproc": tmp_path / "define.json"}
    with DataReader(file[0], **options) as reader:
        found = reader.read_block(0, 300).ids["label"]
    assert found.tolist() == ak.sum(ak.sum(file[1]["hit_layer"], axis=2), axis=1).tolist()


def test_dropped_values_are_reported_with_both_lengths(file, tmp_path):
    done = run_forked("reader.py", "--fin", file[0], "--nested=pad", "--max-length=hit_x=2x5", "--branches=hit_x",
                      "--fout=x.npz", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    total = int(ak.count(file[1]["hit_x"])) - int(np.isfinite(padded(file[1]["hit_x"], 2, 5)).sum())
    assert f"{total} values of 'hit_x' were dropped: vectors keep 2 lists of 5 numbers" in done.stderr


def test_the_error_for_vectors_that_do_not_fit_suggests_both_lengths(tmp_path, monkeypatch):
    lists = [[[1.0]] * 3000, [[2.0] * 4000], *[[[3.0, 4.0], [1.0]]] * 98]
    ak.to_parquet(ak.zip({"event": np.arange(100), "hits": ak.Array(lists)}, depth_limit=1), tmp_path / "wide.parquet")
    monkeypatch.setattr("mlaas4hep.reader.memory_check.available_memory", lambda: 10**8)
    with DataReader(tmp_path / "wide.parquet", nested="pad") as reader, pytest.raises(ConfigError) as caught:
        next(iter(reader))
    assert "every vector is padded to 3000 lists of 4000 numbers of 'hits'" in str(caught.value)
    setting = re.search(r"--max-length=(\S+) of", str(caught.value))[1]
    assert setting == "hits=200x200"
    with DataReader(tmp_path / "wide.parquet", nested="pad", max_length=setting) as reader:
        assert next(iter(reader)).x.shape == (100, 40_000)


def test_expressions_refuse_them_and_say_what_to_do(file, tmp_path):
    (tmp_path / "define.json").write_text('{"define": {"far": "abs(hit_x)"}}')
    with pytest.raises(ConfigError, match=r"this branch has lists of lists.*nested=flatten"):
        DataReader(file[0], nested="pad", preproc=tmp_path / "define.json")


def test_python_preprocessing_gets_and_returns_them(file, tmp_path):
    path, columns = file
    (tmp_path / "own.py").write_text(
        "def preprocessing(events):\n"
        "    events['near'] = events.hit_x[abs(events.hit_x) < 1]\n"
        "    return events[events.met > 20]\n"
    )
    options = {"nested": "pad", "normalise": "none", "selected_branches": ["near"], "preproc": tmp_path / "own.py"}
    truth = columns["hit_x"][abs(columns["hit_x"]) < 1][columns["met"] > 20]
    with DataReader(path, **options) as reader:
        found = reader.read_block(0, 300).x
        sizes = (reader.specs.branches["near"].dim, reader.specs.branches["near"].inner)
    np.testing.assert_array_equal(found, padded(truth, *sizes))


def test_info_shows_both_lengths(file, tmp_path):
    done = run_forked("reader.py", "--fin", file[0], "--info", "--nested=pad", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"hit_x values in \[.*\] range, dim=4x6", done.stdout)
    done = run_forked("reader.py", "--fin", file[0], "--info", "--nested=pad", "--json", cwd=tmp_path)
    described = json.loads(done.stdout)["branches"]["hit_x"]
    assert (described["kind"], described["dim"], described["inner"]) == ("nested", 4, 6)
    done = run_forked("reader.py", "--fin", file[0], "--fout=specs.json", "--nested=pad", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (
        DataReader(file[0], nested="pad", specs=tmp_path / "specs.json") as again,
        DataReader(file[0], nested="pad") as one,
    ):
        assert again.specs == one.specs
        assert again.columns == one.columns


def test_keys_of_a_client_name_values_of_padded_and_flattened_lists(file):
    path, columns = file
    with EventFile(path) as events:
        keys = ["hit_x_1_2", "hit_x_1", "hit_x"]
        rows = [row for part in events.read(keys) for row in part.rows]
    lists, flat = columns["hit_x"].tolist(), ak.flatten(columns["hit_x"], axis=2).tolist()
    assert [row[0] for row in rows] == [one[1][2] if len(one) > 1 and len(one[1]) > 2 else None for one in lists]
    assert [row[1] for row in rows] == [one[1] if len(one) > 1 else None for one in flat]
    assert [row[2] for row in rows] == flat


MODEL = """
import torch
from torch import nn


class HitNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.hit, self.out = nn.Linear(2, 16), nn.Linear(16 + 1, 1)

    def forward(self, hits, hits_mask, event):
        each = torch.relu(self.hit(hits)) * hits_mask[..., None]
        return self.out(torch.cat([each.sum(dim=(1, 2)), event], dim=1))


def model(shapes):
    assert shapes == {"hits": (3, 5, 2), "event": (1,)}
    return HitNetwork()
"""

PARAMS = {
    "epochs": 10, "batch_size": 32, "tfaas": False, "trial_export": False, "nested": "pad", "workers": 2,
    "inputs": {
        "hits": {"branches": ["hit_x", "hit_layer"], "length": 3, "inner_length": 5, "sort": "-track_pt"},
        "event": {"branches": ["met"]},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Write two classes: the hits of the signal are twice as far away."""
    folder = tmp_path_factory.mktemp("classes")
    for seed, name in enumerate(("background", "signal")):
        columns = write_tracks(folder / f"{name}.parquet", 800, seed + 3)
        if seed:
            ak.to_parquet(ak.zip({**columns, "hit_x": columns["hit_x"] * 2}, depth_limit=1), folder / f"{name}.parquet")
    return [str(folder / "background.parquet"), str(folder / "signal.parquet")]


def test_batches_have_a_third_axis_with_the_parts_of_objects(samples):
    params = {**PARAMS, "normalise": "none", "shuffle": False}
    array = ak.concatenate([ak.from_parquet(name) for name in samples])
    order = ak.argsort(array["track_pt"], ascending=False)
    truth = {}
    for run, event, x in zip(array["run"], array["event"], array["hit_x"][order], strict=True):
        truth[run, event] = padded(ak.Array([x]), 3, 5).reshape(3, 5)
    seen = 0
    with DataGenerator(samples, ["b", "s"], params) as generator:
        for epoch in range(2):  # the second one from the cache
            for batch in generator.batches(None, epoch):
                assert batch.inputs["hits"].shape[1:] == (3, 5, 2)
                assert batch.inputs["hits_mask"].shape[1:] == (3, 5)
                for row, key in enumerate(zip(batch.ids["run"], batch.ids["event"], strict=True)):
                    mask = batch.inputs["hits_mask"][row]
                    np.testing.assert_array_equal(mask, ~np.isnan(truth[key]))
                    np.testing.assert_array_equal(batch.inputs["hits"][row, ..., 0], np.nan_to_num(truth[key]))
                seen += len(batch)
    assert seen == 2 * 1600


def test_rows_of_raw_values_have_no_more_parts_than_the_inputs(file):
    def inner(**inputs):
        with DataReader(file[0], nested="pad", inputs={"event": {"branches": ["met"]}, **inputs}) as reader:
            return {slot.branch: slot.inner for slot in reader.layout.slots if slot.branch.startswith("hit")}

    hits = {"branches": ["hit_x", "hit_layer"], "length": 2, "inner_length": 3}
    assert inner(hits=hits) == {"hit_x": 3, "hit_layer": 3}
    assert inner(hits={**hits, "inner_length": 100}) == {"hit_x": 6, "hit_layer": 6}
    more = {"branches": ["hit_x"], "length": 2, "inner_length": 4}
    assert inner(hits=hits, more=more) == {"hit_x": 4, "hit_layer": 3}
    assert inner(hits=hits, vector={"branches": ["hit_x"]}) == {"hit_x": 6, "hit_layer": 3}


@pytest.mark.parametrize("absent", [("hit_layer",), ("track_pt",), ("hit_x", "hit_layer"), ("hit_layer", "track_pt")])
def test_objects_of_files_that_lack_a_branch_keep_their_numbers_of_parts(tmp_path, absent):
    old = write_tracks(tmp_path / "old.parquet", 200, 7)
    for name in absent:
        del old[name]
    ak.to_parquet(ak.zip(old, depth_limit=1), tmp_path / "old.parquet")
    write_tracks(tmp_path / "new.parquet", 200, 8)
    inputs = {"hits": {"branches": ["hit_layer", "hit_x"], "length": 4, "inner_length": 6, "sort": "-track_pt"}}
    params = {"nested": "pad", "missing_branches": "nan", "normalise": "none", "inputs": inputs, "cache": False}
    order = ak.argsort(old["track_pt"], ascending=False) if "track_pt" in old else ak.local_index(old["hit_x"], axis=1)
    with DataGenerator([tmp_path / "old.parquet", tmp_path / "new.parquet"], ["a", "b"], params) as made:
        batch = next(batch for batch in made.batches(shuffle=False) if (batch.file == 0).any())
    rows = np.flatnonzero(batch.file == 0)
    assert len(rows) > 20
    for feature, name in enumerate(inputs["hits"]["branches"]):
        if name in absent:
            assert not batch.inputs["hits"][rows, ..., feature].any()
        else:
            truth = padded(old[name][order][batch.entry[rows]], 4, 6).reshape(-1, 4, 6)
            np.testing.assert_array_equal(batch.inputs["hits"][rows, ..., feature], np.nan_to_num(truth))
            np.testing.assert_array_equal(batch.inputs["hits_mask"][rows], ~np.isnan(truth))


def test_a_network_over_parts_trains_and_its_graph_and_a_server_give_the_same_scores(samples, tmp_path):
    (tmp_path / "hits.py").write_text(MODEL)
    params = Params.parse(PARAMS)
    trained = train_model(samples, ["b", "s"], str(tmp_path / "hits.py"), params, fout=tmp_path / "models/hits")
    assert trained.metrics()["test"]["auc"] > 0.75
    session = onnxruntime.InferenceSession(tmp_path / "models/hits/model.onnx", providers=["CPUExecutionProvider"])
    raw, events = trained.source.examples(400, raw=True), trained.source.examples(400)
    found = session.run(["scores"], {"inputs": raw.x})[0]
    np.testing.assert_allclose(found, trained.backend.predict(events.inputs), atol=1e-5)

    done = run_forked(
        "workflow.py", "--predict", "models/hits", "--files", samples[1], "--fout", "scores", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    with uproot.open(tmp_path / "scores/signal.scores.root") as written:
        scores = written["scores"].arrays(library="np")
    with Server.start(tmp_path / "models") as server:
        done = run_forked(
            "tfaas_client.py", "--url", server.url, "--model=hits", f"--predict={samples[1]}", "--nevts=50", "--json",
            cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    served = np.array(json.loads(done.stdout), np.float64).reshape(-1)
    np.testing.assert_allclose(served, scores["score_s"][:50], atol=1e-5)
