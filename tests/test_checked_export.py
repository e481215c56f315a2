"""The export to ONNX: ways to export PyTorch models, and the events for which graph and model must agree."""

import awkward as ak
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from check_backend import check_export
from tinyroot import write_tree

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import Batch, DataGenerator
from mlaas4hep.training import train_model
from mlaas4hep.training.checked_export import check_scores, export_checked
from mlaas4hep.training.event_content import EventContent

pytestmark = pytest.mark.usefixtures("without_plots")

EVENTS = 900
"""Of each class; the last 30 have no jets."""

PARAMS = {
    "epochs": 1, "batch_size": 64, "selected_branches": [], "tfaas": False,
    "inputs": {"jets": {"branches": ["Jet_pt", "Jet_eta"], "length": 4, "sort": "-Jet_pt"}},
}  # fmt: skip

MASKED_MEAN = """
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.jet, self.event = nn.Linear(2, 8), nn.Linear(8, 1)

    def forward(self, jets, jets_mask):
        h = self.jet(jets).relu() * jets_mask[..., None]
        return self.event(h.sum(1) / (jets_mask.sum(1, keepdim=True) + EPSILON))

def model(shapes):
    return Network()
"""

ATTENTION = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.jet, self.pair, self.event = nn.Linear(2, 8), nn.Linear(4, 2), nn.Linear(8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, jets, jets_mask):
        events, length, features = jets.shape
        rows, columns = jets[:, :, None].expand(-1, -1, length, -1), jets[:, None].expand(-1, length, -1, -1)
        bias = self.pair(torch.cat([rows, columns], -1)).permute(0, 3, 1, 2).reshape(2 * events, length, length)
        h = self.jet(jets)
        h = self.attention(h, h, h, attn_mask=bias, need_weights=False)[0]
        return self.event((h * jets_mask[..., None]).sum(1))

def model(shapes):
    return Network()
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write two files with jets; only the last events have none."""
    folder = tmp_path_factory.mktemp("jets")
    for seed, name in enumerate(("background", "signal")):
        rng = np.random.default_rng(seed)
        counts = np.append(rng.integers(1, 7, EVENTS - 30), np.zeros(30, int))
        columns = {
            "event": np.arange(EVENTS, dtype=np.uint64) + seed * EVENTS,
            "Jet_pt": ak.unflatten(rng.exponential(20 + 10 * seed, counts.sum()).astype("f4"), counts),
            "Jet_eta": ak.unflatten(rng.normal(0, 1 + seed, counts.sum()).astype("f4"), counts),
        }
        write_tree(folder / f"{name}.root", columns, clusters=3)
    return [str(folder / "background.root"), str(folder / "signal.root")]


def model_file(tmp_path, text):
    (tmp_path / "network.py").write_text(text)
    return str(tmp_path / "network.py")


def test_the_mean_of_no_objects_is_exported_as_it_was_trained(files, tmp_path):
    """PyTorch's optimiser of graphs removes the addition of 1e-8, so that the mean of no objects would be 0 / 0."""
    model = model_file(tmp_path, MASKED_MEAN.replace("EPSILON", "1e-8"))
    train_model(files, ["b", "s"], model, Params.parse(PARAMS), fout=tmp_path / "bundle")
    session = onnxruntime.InferenceSession(str(tmp_path / "bundle/model.onnx"))
    rows = np.full((3, session.get_inputs()[0].shape[1]), np.nan, np.float32)
    found = session.run(["scores"], {"inputs": rows})[0]
    weights = torch.load(tmp_path / "bundle/model.pt", weights_only=True)
    expected = 1 / (1 + np.exp(-weights["event.bias"].numpy()))  # the mean is 0
    np.testing.assert_allclose(found, np.tile(expected, (3, 1)), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_graph_that_is_wrong_only_for_events_without_objects_is_found(files, tmp_path):
    file = load_model_file(model_file(tmp_path, MASKED_MEAN.replace("EPSILON", "1e-8")))
    with DataGenerator(files, ["b", "s"], PARAMS) as generator:
        backend = make_backend(file, generator.shapes, Task.classification(2), generator.params)
        content, path = EventContent(generator, [generator]), tmp_path / "network.onnx"
        exported = export_checked(backend, content, 0, backend.task, path)
        check_scores(exported.graph, exported.events, exported.scores, backend.task)

        class Scores(torch.nn.Module):
            def forward(self, *inputs):
                return backend.model(*inputs).sigmoid()

        examples = tuple(torch.zeros(2, *shape) for shape in ((4, 2), (4,)))
        shapes = (({0: torch.export.Dim("events")},) * 2,)
        torch.onnx.export(Scores().eval(), examples, path, dynamic_shapes=shapes, dynamo=True, external_data=False)
        wrong = content.scoring_graph(onnx.load(str(path)), backend.takes, 0)
        with pytest.raises(ConfigError, match=r"for example for an event with.*: nan instead of 0\.\d+"):
            check_scores(wrong, exported.events, exported.scores, backend.task)


def test_undefined_scores_of_the_model_itself_are_reported_but_exported(files, tmp_path, capsys):
    model = model_file(tmp_path, MASKED_MEAN.replace("EPSILON", "0"))
    with DataGenerator(files, ["b", "s"], {**PARAMS, "nevts": 800}) as generator:
        backend = make_backend(load_model_file(model), generator.shapes, Task.classification(2), generator.params)
        content = EventContent(generator, [generator])
        exported = export_checked(backend, content, 0, backend.task, tmp_path / "network.onnx")
    undefined = [name for name, row in zip(exported.events.names, exported.scores, strict=True) if np.isnan(row).any()]
    assert undefined == ["with all values missing", "with empty lists", "without objects in input 'jets'"]
    assert exported.undefined == "3 of 409 events that were compared, for example for an event with all values missing"


def test_corner_events_are_those_that_the_specs_describe(files):
    with DataGenerator(files, ["b", "s"], PARAMS) as generator:
        events = EventContent(generator, [generator]).compared_events(0)
        columns = {name: index for index, name in enumerate(generator.columns)}
        specs = generator.specs.branches
    rows = dict(zip(events.names, events.raw, strict=True))
    first, last = columns["Jet_pt_0"], columns["Jet_pt_5"]
    assert np.isnan(rows["with all values missing"]).all()
    assert np.isfinite(rows["with one entry in each list"]).sum() == 2
    assert rows["with all values at their maximum"][first] == rows["with all values at their maximum"][last]
    assert rows["with all values at their maximum"][first] == np.float32(specs["Jet_pt"].maximum)
    assert 0 < rows["with all values 1e-40"][first] < np.finfo(np.float32).tiny
    full, single = (events.names.index(name) for name in ("with full lists", "with one entry in each list"))
    np.testing.assert_array_equal(events.inputs["jets_mask"][[full, single]], [[1] * 4, [1, 0, 0, 0]])


def test_events_of_the_sample_in_which_something_is_empty_are_compared(files):
    """They are the last of their files, so that they are not among the first 400."""
    with DataGenerator(files, ["b", "s"], PARAMS) as generator:
        content = EventContent(generator, [generator])
        before = content.compared_events(0)
        for part in ("train", "valid", "test"):
            for batch in generator.batches(part, shuffle=False):
                content.watch(batch, 0)
        events = content.compared_events(0)
    new = range(len(before), len(events))
    assert 0 < len(new) <= 4
    for row in new:
        entry = int(events.names[row].split()[1])
        assert entry >= EVENTS - 30
        assert np.isnan(events.raw[row]).all()
        assert not events.inputs["jets_mask"][row].any()


@pytest.mark.parametrize("exporter", range(3))
def test_attention_with_a_bias_of_numbers_is_exported_in_all_ways(exporter, tmp_path):
    """Outside torch.no_grad, torch.export fails for it (pytorch/pytorch#141107)."""
    file = load_model_file(model_file(tmp_path, ATTENTION))
    backend = make_backend(file, {"jets": (4, 2)}, Task.classification(2), Params())
    rng = np.random.default_rng(0)
    mask = np.arange(4) < rng.integers(0, 5, 50)[:, None]
    inputs = {"jets": (rng.normal(size=(50, 4, 2)) * mask[..., None]).astype(np.float32), "jets_mask": mask}
    zeros = np.zeros(50, np.int64)
    every = Batch(inputs, zeros, zeros.astype(np.float32), {}, zeros, zeros, zeros)

    class Chosen:
        takes = backend.takes

        def export(self, path):
            backend.export(path, backend.exporters[exporter])

    check_export(Chosen(), every, backend.predict(inputs), tmp_path / "network.onnx")
