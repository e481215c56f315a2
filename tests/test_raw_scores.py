"""Scores of a bundle's ONNX graph, compared with the framework's, for all frameworks and tasks.

The files have what a sample has: lists that are empty, and longer than the specs know; numbers that are missing, or
far outside of what the specs have seen.
"""

import awkward as ak
import numpy as np
import pytest
from check_backend import check_raw_events
from tinyroot import write_tree

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.reader import DataReader
from mlaas4hep.stream import DataGenerator
from mlaas4hep.training.loop import train

EVENTS = 500
MODELS = {
    "keras": "ex_keras.py",
    "pytorch": "ex_pytorch.py",
    "xgboost": "import xgboost\ndef model(idim, task):\n"
    "    return (xgboost.XGBRegressor if task == 'regression' else xgboost.XGBClassifier)(n_estimators=20)",
    "boosting": "from sklearn import ensemble\ndef model(idim, task):\n"
    "    kind = 'Regressor' if task == 'regression' else 'Classifier'\n"
    "    return getattr(ensemble, f'HistGradientBoosting{kind}')(max_iter=20)",
    "forest": "from sklearn import ensemble\ndef model(idim, task):\n"
    "    kind = 'Regressor' if task == 'regression' else 'Classifier'\n"
    "    return getattr(ensemble, f'RandomForest{kind}')(20, max_depth=8)",
    "perceptron": "from sklearn import neural_network\ndef model(idim, task):\n"
    "    kind = 'Regressor' if task == 'regression' else 'Classifier'\n"
    "    return getattr(neural_network, f'MLP{kind}')(hidden_layer_sizes=(16,))",
}
TASKS = {
    "two classes": ("kind", {}),
    "three classes": ("three", {}),
    "labels": ("is_*", {"task": "multilabel"}),
    "a target": ("energy", {"task": "regression"}),
    "targets": ("energy,angle", {"task": "regression"}),
}
SLOW = {
    "keras": {"three classes", "labels", "a target", "targets"},
    "pytorch": {"two classes", "three classes", "labels", "targets"},
    "ex_deepsets_keras.py": {"two classes", "targets"},
    "ex_transformer_pytorch.py": {"labels", "targets"},
}
"""What `make soak` adds: the export of each takes seconds, and each framework and each task has others."""


def pairs(models, tasks):
    """Each model with each task."""
    return [
        pytest.param(model, task, id=f"{model}-{task}", marks=[pytest.mark.slow] * (task in SLOW.get(model, ())))
        for model in models
        for task in tasks
    ]


JETS = {
    "jets": {"branches": ["pt", "eta"], "length": 3, "sort": "-pt"},
    "event": {"branches": ["met", "time"]},
}


def write_sample(path, seed, longest, odd):
    """Write events whose labels depend on lists and numbers; a fraction `odd` of the numbers is missing or extreme."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, longest + 1, EVENTS)
    pt = rng.exponential(30, counts.sum()).astype("f4")
    lists = ak.unflatten(pt, counts)
    total = ak.to_numpy(ak.sum(lists, axis=1)).astype("f4")
    met = rng.exponential(40, EVENTS).astype("f4")
    columns = {
        "run": np.full(EVENTS, seed, np.uint32),
        "luminosityBlock": np.ones(EVENTS, np.uint32),
        "event": np.arange(EVENTS, dtype=np.uint64),
        "kind": (total + met > 80).astype("i4"),
        "three": np.digitize(total, [20, 80]).astype("i4"),
        "is_hard": (total > 50).astype("i4"),
        "is_lost": (met > 30).astype("i4"),
        "energy": (5000 + 3 * total + met).astype("f4"),
        "angle": np.arctan2(met, total + 1).astype("f4"),
        "pt": lists,
        "eta": ak.unflatten(rng.normal(0, 1.5, counts.sum()).astype("f4"), counts),
        "met": met,
        "time": 1_500_000_000.0 + rng.integers(0, 10_000, EVENTS),
    }
    for name in ("met", "time"):
        columns[name][rng.uniform(size=EVENTS) < odd] = np.nan
        columns[name][rng.uniform(size=EVENTS) < odd / 4] *= 1e6
    pt[rng.uniform(size=len(pt)) < odd] = np.nan
    columns["pt"] = ak.unflatten(pt, counts)
    write_tree(path, columns, clusters=2)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Write files, and return specs of another file with shorter lists and without missing numbers."""
    folder = tmp_path_factory.mktemp("raw")
    write_sample(folder / "short.root", 9, longest=4, odd=0)
    with DataReader(folder / "short.root") as reader:
        specs = reader.specs
    for seed in (1, 2):
        write_sample(folder / f"{seed}.root", seed, longest=9, odd=0.1)
    return [str(folder / f"{seed}.root") for seed in (1, 2)], specs


def trained(sample, model, task, folder, params):
    """Train for a few steps; return the open generator and the backend."""
    files, specs = sample
    specs = None if "inputs" in params else specs  # the graph cuts lists for itself
    labels, more = TASKS[task]
    base = {
        "epochs": 1,
        "batch_size": 64,
        "cache": False,
        "exclude_branches": ["is_*", "kind", "three", "energy", "angle"],
    }
    generator = DataGenerator(files, labels, {**base, **more, **params}, specs)
    name = MODELS.get(model, model)
    if not name.endswith(".py"):
        (folder / "own.py").write_text(name)
        name = str(folder / "own.py")
    backend = make_backend(load_model_file(name), generator.shapes, Task.of(generator.sample.labels), generator.params)
    if not backend.normalised:
        generator.sample.renormalise("none")
    train(generator, backend, generator.params)
    return generator, backend


@pytest.mark.parametrize(("model", "task"), pairs(MODELS, TASKS))
def test_scores_of_raw_events_agree_with_the_framework(sample, model, task, tmp_path):
    generator, backend = trained(sample, model, task, tmp_path, {})
    with generator:
        assert sum(name.startswith("pt_") for name in generator.columns) == 4
        scores = check_raw_events(generator, backend, tmp_path)
        assert np.ptp(scores, axis=0).min() > 0


@pytest.mark.parametrize("low", [1.0, np.nextafter(np.float32(1), np.float32(2)), 1_500_000_000.0])
def test_thresholds_between_adjacent_float32_values_give_the_same_scores_in_the_graph(low, tmp_path):
    low = np.float32(low)
    x = np.where(np.arange(400) % 2, low, np.nextafter(low, np.float32(np.inf))).astype("f4")
    write_tree(tmp_path / "a.root", {"x": x, "kind": (x > low).astype("i4"), "event": np.arange(400, dtype="u8")})
    params = {"exclude_branches": ["kind"]}
    generator, backend = trained(([str(tmp_path / "a.root")], None), "boosting", "two classes", tmp_path, params)
    with generator:
        scores = check_raw_events(generator, backend, tmp_path)
        assert scores.min() < 0.1 < 0.9 < scores.max()


@pytest.mark.parametrize(
    ("model", "task"),
    pairs(
        ["ex_deepsets_keras.py", "ex_transformer_pytorch.py", "xgboost", "forest"], ["two classes", "labels", "targets"]
    ),
)
def test_scores_of_raw_objects_agree_with_the_framework(sample, model, task, tmp_path):
    generator, backend = trained(sample, model, task, tmp_path, {"inputs": JETS})
    with generator:
        assert generator.shapes == {"jets": (3, 2), "event": (2,)}
        check_raw_events(generator, backend, tmp_path)
