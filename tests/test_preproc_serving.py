"""A model with new branches and cuts: the same events scored by every path, compared with NumPy and ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import pytest
import requests
import uproot
from serving_fixtures import Server, onnx_model, run_client, shared_server_fixture, write_bundle  # noqa: F401
from tinyroot import write_events

from mlaas4hep.client import TFaaSClient
from mlaas4hep.client.event_file import EventFile
from mlaas4hep.client.preprocessing import preproc_from_metadata
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.expressions.preproc_file import preproc_from_json
from mlaas4hep.io import Column
from mlaas4hep.scoring.files import score_files
from mlaas4hep.serving.models.onnx_predictor import OnnxPredictor
from mlaas4hep.serving.models.rows import parse_request
from mlaas4hep.training import train_model

onnxruntime = pytest.importorskip("onnxruntime")

MODEL = "from torch import nn\ndef model(idim, outputs=1): return nn.Linear(idim, outputs)\n"
PREPROC = {"define": {"ht": "sum(pt)", "high": "pt[pt > 15]"}, "cut": "ht > 20 & good & met % 3 < 2.5"}
PYTHON = "def preprocessing(events):\n    return events[events.met > 10]\n"
SELECTED = ["met", "ht", "high"]


class Trained(NamedTuple):
    """The bundle, its events in a file, and their scores (NaN: fails the cuts)."""

    folder: Path
    events: Path
    columns: dict[str, Any]
    matrix: np.ndarray
    passes: np.ndarray
    scores: np.ndarray


def write(path: Path, events: int, seed: int) -> dict[str, Any]:
    good = np.arange(events) % 4 > 0
    return write_events(path, events, seed=seed, run=seed, good=good, flags=np.arange(events, dtype=np.int32))


@pytest.fixture(scope="module", name="trained")
def trained_fixture(tmp_path_factory: pytest.TempPathFactory, without_plots: Any, without_trial_export: Any) -> Trained:
    """A model of two new branches, of which one is a list, and its scores, computed with NumPy and ONNX Runtime."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "linear.py").write_text(MODEL)
    (folder / "preproc.json").write_text(json.dumps(PREPROC))
    for seed in (1, 2):
        write(folder / f"{seed}.root", 300, seed)
    columns = write(folder / "new.root", 100, 3)
    params = Params(epochs=1, tfaas=False, selected_branches=SELECTED, cache=False)
    train_model(
        [folder / "1.root", folder / "2.root"], ["ggH", "VBF"], str(folder / "linear.py"), params,
        fout=folder / "cuts", preproc=str(folder / "preproc.json"),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(str(folder / "cuts" / "model.onnx"))
    keys = json.loads(session.get_modelmeta().custom_metadata_map["mlaas4hep.keys"])
    assert keys[:2] == ["ht", "met"]
    pt, met = ak.values_astype(columns["pt"], np.float64), columns["met"].astype(np.float64)
    ht, high = ak.sum(pt, axis=1).to_numpy(), pt[pt > 15]
    width = len(keys) - 2
    padded = ak.fill_none(ak.pad_none(high, width, clip=True), np.nan).to_numpy()
    matrix = np.column_stack([ht, met, padded]).astype(np.float32)
    passes = (ht > 20) & columns["good"] & (met % 3 < 2.5)
    assert 20 < passes.sum() < 80
    scores = session.run(["scores"], {"inputs": matrix})[0]
    return Trained(folder / "cuts", folder / "new.root", columns, matrix, passes, scores)


@pytest.fixture(scope="module", name="url")
def url_fixture(shared_server: Server, trained: Trained) -> str:
    """A server with the model, which is uploaded as a form: only the graph and params.json."""
    with TFaaSClient(shared_server.url) as client:
        client.upload(trained.folder / "upload.json")
        return shared_server.url


def check(found: list[Any], trained: Trained) -> None:
    """Check scores by event, None for those that fail the cuts."""
    assert [row is not None for row in found] == trained.passes.tolist()
    passing = np.array([row for row in found if row is not None])
    np.testing.assert_allclose(passing, trained.scores[trained.passes], rtol=1e-5, atol=1e-6)


def raw_request(trained: Trained) -> dict[str, Any]:
    """The raw branches of all events in JSON; whole numbers are written without a point, as some programs do."""
    columns = trained.columns
    good, met, pt = columns["good"].tolist(), columns["met"].tolist(), columns["pt"].to_list()
    values = [[lists, int(flag), number] for lists, flag, number in zip(pt, good, met, strict=True)]
    return {"keys": ["pt", "good", "met"], "values": values, "model": "cuts"}


def test_scores_of_files_are_the_reference(trained: Trained, tmp_path: Path) -> None:
    ((path, _, _),) = score_files(trained.folder, [trained.events], tmp_path)
    with uproot.open(path) as file:
        found = file["scores"].arrays(["score_ggH", "passes_cuts"], library="np")
    assert found["passes_cuts"].tolist() == trained.passes.tolist()
    assert np.isnan(found["score_ggH"][~trained.passes]).all()
    expected = trained.scores[trained.passes, -1]
    np.testing.assert_allclose(found["score_ggH"][trained.passes], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("protocol", ["tfaas", "v2"])
def test_the_client_applies_the_preprocessing_to_a_file(trained: Trained, url: str, protocol: str) -> None:
    options = [f"--url={url}", f"--predict={trained.events}", "--model=cuts", f"--protocol={protocol}"]
    done = run_client(*options, "--json")
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout), trained)
    failing = 100 - trained.passes.sum()
    assert f"{failing} of 100 events fail the cuts of the model; their scores are null" in done.stderr


def test_the_server_applies_the_preprocessing_to_raw_branches(trained: Trained, url: str) -> None:
    request = raw_request(trained)
    check(requests.post(f"{url}/json", json=request, timeout=20).json(), trained)
    for event in (trained.passes.argmax(), trained.passes.argmin()):
        one = {**request, "values": request["values"][event]}
        answer = requests.post(f"{url}/json", json=one, timeout=20).json()
        assert (answer is not None) == trained.passes[event]
        if answer is not None:
            np.testing.assert_allclose(answer, trained.scores[event], rtol=1e-5, atol=1e-6)
    with TFaaSClient(url) as client:
        check(client.predict(request), trained)
    failing = requests.get(f"{url}/metrics", timeout=20).text
    assert 'mlaas4hep_cut_rows_total{model="cuts"}' in failing


def test_large_requests_are_preprocessed_in_another_process(trained: Trained, url: str) -> None:
    request = raw_request(trained)
    request["values"] *= 200  # about a megabyte
    answer = requests.post(f"{url}/json", json=request, timeout=60).json()
    assert len(answer) == 20_000
    check(answer[-100:], trained)
    assert answer[:100] * 200 == answer


def test_events_that_all_fail_the_cuts(trained: Trained, url: str, tmp_path: Path) -> None:
    request = {"keys": ["pt", "good", "met"], "values": [[[1.0], True, 4.0], [[], False, 4.0]], "model": "cuts"}
    assert requests.post(f"{url}/json", json=request, timeout=20).json() == [None, None]
    (tmp_path / "one.json").write_text(json.dumps({**request, "values": request["values"][0]}))
    done = run_client(f"--url={url}", f"--predict={tmp_path / 'one.json'}")
    assert (done.returncode, done.stdout) == (0, "null\n")
    assert "1 of 1 events fail the cuts" in done.stderr


def test_new_branches_are_scored_as_they_are(trained: Trained, url: str) -> None:
    keys = [f"high_{index}" for index in range(trained.matrix.shape[1] - 2)]
    rows = [[None if np.isnan(value) else float(value) for value in row] for row in trained.matrix]
    request = {"keys": ["ht", "met", *keys], "values": rows, "model": "cuts"}
    answer = requests.post(f"{url}/json", json=request, timeout=20).json()
    np.testing.assert_allclose(answer, trained.scores, rtol=1e-5, atol=1e-6)
    with TFaaSClient(url, protocol="v2") as client:
        np.testing.assert_allclose(client.predict(request), trained.scores, rtol=1e-5, atol=1e-6)


def test_the_metadata_have_the_preprocessing_and_the_branches_that_it_needs(url: str) -> None:
    parameters = requests.get(f"{url}/v2/models/cuts", timeout=20).json()["parameters"]
    assert parameters["preproc"] == PREPROC
    assert parameters["raw_keys"] == ["good", "met", "pt"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([["x"], 1, 2.0], "the values of 'pt' must be numbers"),
        ([3.0, 1, 2.0], "the value of 'pt' must be a list of numbers"),
        ([[3.0], [1], 2.0], "the value of 'good' must be a number"),
        ([[3.0], 1], "has 2 values for 3 keys"),
    ],
)
def test_invalid_raw_values_are_named(url: str, values: list[Any], reason: str) -> None:
    request = {"keys": ["pt", "good", "met"], "values": values, "model": "cuts"}
    answer = requests.post(f"{url}/json", json=request, timeout=20)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_python_code_is_not_taken_from_a_server(trained: Trained, shared_server: Server, tmp_path: Path) -> None:
    metadata = {"mlaas4hep.keys": ["met"], "mlaas4hep.preproc": {"content": "python", "inputs": {}}}
    write_bundle(tmp_path / "python", "python", onnx_model([1.0], metadata=metadata))
    with TFaaSClient(shared_server.url) as client:
        client.bundle(tmp_path / "python")
    options = [f"--url={shared_server.url}", f"--predict={trained.events}", "--model=python"]
    done = run_client(*options)
    assert (done.returncode, done.stdout) == (1, "")
    assert "computed by Python code, which is never taken from a server" in done.stderr
    assert "--preproc=preproc.py" in done.stderr
    code = tmp_path / "preproc.py"
    code.write_text(PYTHON)
    done = run_client(*options, f"--preproc={code}", "--json")
    assert done.returncode == 0, done.stderr
    met = trained.columns["met"].tolist()
    assert json.loads(done.stdout) == [[pytest.approx(one)] if one > 10 else None for one in met]


def test_errors_name_the_event_in_the_file(trained: Trained) -> None:
    preproc = preproc_from_json({"cut": "met > 30"})
    entries = np.flatnonzero(trained.columns["met"] > 30)
    with EventFile(str(trained.events)) as file:
        (events,) = file.read(["met"], preproc)
    assert events.num_events == 100
    assert [events.index(row) for row in range(len(events.rows))] == entries.tolist()
    assert [row[0] for row in events.rows] == trained.columns["met"][entries].tolist()


def preprocessed(content: Any, inputs: Any) -> OnnxPredictor:
    metadata = {"mlaas4hep.keys": ["ht", "met"], "mlaas4hep.branches": {"ht": [0, 1, "flat"], "met": [1, 1, "flat"]}}
    metadata["mlaas4hep.preproc"] = {"content": content, "inputs": inputs}
    return OnnxPredictor(Path("m.onnx"), content=onnx_model([1.0, 10.0], metadata=metadata))


@pytest.mark.parametrize(
    ("content", "inputs", "reason"),
    [
        ({"define": {"ht": "sum(pt"}}, {}, "sum(pt"),
        ({"define": {"ht": "sum(pt)"}}, {}, "the branch 'pt' has no type in 'inputs'"),
        ({"define": {"ht": "sum(pt)"}}, {"pt": ["list", "f"]}, "with the kind and type of each input"),
        ({"define": {"ht": "sum(pt)"}}, [], "must have the keys 'content' and 'inputs'"),
        ("import os", {}, "is not a JSON object"),
        ({"define": {f"x{index}": "sum(pt) + 12345" for index in range(1000)}}, {}, "is larger than 20 kB"),
    ],
)
def test_invalid_metadata_of_a_graph_are_refused(content: Any, inputs: Any, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        preprocessed(content, inputs)
    assert reason in error.value.what


def test_cuts_on_columns_of_the_model_are_applied() -> None:
    predictor = preprocessed({"cut": "met > 10 & good"}, {"met": ["flat", "f"], "good": ["flat", "b"]})
    rows = predictor.rows(
        parse_request(b'{"keys": ["good", "met", "ht"], "values": [[1, 20, 5], [1, 9, 6], [0, 20, 7]]}')
    )
    np.testing.assert_array_equal(rows.matrix, [[5, 20]])
    assert rows.kept is not None
    assert rows.kept.tolist() == [True, False, False]
    rows = predictor.rows(parse_request(b'{"keys": ["met", "ht"], "values": [9, 6]}'))  # not all branches are there
    np.testing.assert_array_equal(rows.matrix, [[6, 9]])
    assert rows.kept is None
    for keys, reason in (
        ('"good", "met", "het"', "unknown key 'het'; closest: 'ht'"),
        ('"good", "met", "met"', "twice"),
    ):
        request = f'{{"keys": [{keys}], "values": [1, 20, 5]}}'.encode()
        with pytest.raises(ConfigError) as error:
            predictor.rows(parse_request(request))
        assert reason in str(error.value)


def test_a_request_with_too_much_work_is_refused() -> None:
    chain = {f"x{index}": f"met + x{index - 1}" for index in range(1, 600)}
    definitions = {"ht": "sum(x599)", "x0": "met + pt", **chain}
    predictor = preprocessed({"define": definitions}, {"pt": ["jagged", "f"], "met": ["flat", "f"]})
    request = {"keys": ["pt", "met"], "values": [[1.0] * 100_000, 2.0]}
    with pytest.raises(ConfigError, match="has too much to compute for 1 events"):
        predictor.rows(parse_request(json.dumps(request).encode()))
    rows = predictor.rows(parse_request(b'{"keys": ["pt", "met"], "values": [[1.0, 2.5], 2.0]}'))
    np.testing.assert_array_equal(rows.matrix, [[1.0 + 2.5 + 2 * 600 * 2.0, 2.0]])


def test_definitions_and_cuts_that_only_the_training_uses_are_not_needed() -> None:
    """The branch of a weight, and that of a training-only cut, are not in data."""
    content = {
        "define": {"ht": "sum(pt)", "w": "2 * genWeight"},
        "cuts": ["met > 10", {"cut": "label < 2", "training_only": True}],
    }
    predictor = preprocessed(content, {"pt": ["jagged", "f"], "met": ["flat", "f"]})
    rows = predictor.rows(parse_request(b'{"keys": ["pt", "met"], "values": [[[1, 2], 20], [[3], 9]]}'))
    np.testing.assert_array_equal(rows.matrix, [[3, 20]])
    assert rows.kept is not None
    assert rows.kept.tolist() == [True, False]
    metadata = {"parameters": {"preproc": content, "keys": ["ht", "met"]}}
    preproc = preproc_from_metadata(metadata, "htautau")
    assert preproc is not None
    available = {"pt": Column.of("pt", np.dtype("f4"), is_list=True), "met": Column.of("met", np.dtype("f4"))}
    assert preproc.needs(available, {"ht", "met"}) == {"pt", "met"}


def test_only_requests_with_raw_branches_are_preprocessed() -> None:
    """The server evaluates these in a thread, because expressions may take long."""
    predictor = preprocessed({"define": {"ht": "sum(pt)"}}, {"pt": ["jagged", "f"]})
    assert predictor.preprocesses(parse_request(b'{"keys": ["pt", "met"], "values": [[1, 2], 20]}'))
    for body in (b'{"keys": ["ht", "met"], "values": [3, 20]}', b'{"values": [3, 20]}'):
        assert not predictor.preprocesses(parse_request(body))
