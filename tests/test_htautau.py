"""The H -> tau tau example: networks compared with gradient boosting, served scores with the framework's."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scripts import HTAUTAU, ROOT, run_forked, run_script
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from mlaas4hep import DataGenerator, TFaaSClient
from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.metrics import auc
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.stream import Batch
from mlaas4hep.training.loop import evaluate, train

FILES, LABELS = str(HTAUTAU / "files.txt"), str(HTAUTAU / "labels.txt")
MODELS = ("ex_keras.py", "ex_pytorch.py")
MARGIN = 0.02


def vectors(generator, part):
    """Return all events of a set as rows for scikit-learn, with NaN for missing values."""
    every = Batch.concatenate(list(generator.batches(part, shuffle=False)))
    return np.where(every.mask, every.x, np.nan), every.y


def boosting_auc(generator, seed):
    """Return the test AUC of gradient boosting on the same vectors."""
    (x, y), (test_x, test_y) = vectors(generator, "train"), vectors(generator, "test")
    seen = np.isfinite(x).sum(axis=0) >= 10  # it cannot bin a column that is empty in its own inner split
    model = HistGradientBoostingClassifier(random_state=seed).fit(x[:, seen], y)
    return roc_auc_score(test_y, model.predict_proba(test_x[:, seen])[:, 1])


def network_auc(generator, name, seed):
    """Return the test AUC of an example model, trained as in `make demo`."""
    backend = make_backend(load_model_file(name), generator.shapes, Task.of(generator.sample.labels), generator.params)
    train(generator, backend, generator.params)
    test = evaluate(generator, backend, "test")
    return auc(test.y, test.scores)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seeds", [[0], pytest.param([1, 2], marks=pytest.mark.slow)])
def test_the_example_networks_come_close_to_gradient_boosting(seeds, capsys):
    areas = {name: [] for name in ("boosting", *MODELS)}
    for seed in seeds:
        with DataGenerator(FILES, LABELS, Params.load(str(HTAUTAU / "params.json"), seed=seed)) as generator:
            areas["boosting"].append(boosting_auc(generator, seed))
            for name in MODELS:
                areas[name].append(network_auc(generator, name, seed))
    with capsys.disabled():
        print(f"\nggH against VBF, AUC on the test set, seeds {', '.join(map(str, seeds))}:")
        for name, found in areas.items():
            print(f"  {name:14s}" + "".join(f" {area:.4f}" for area in found))
    for name in MODELS:
        for area, best in zip(areas[name], areas["boosting"], strict=True):
            assert area >= best - MARGIN


@pytest.mark.slow
def test_an_example_network_for_objects_beats_gradient_boosting_on_the_same_events():
    with DataGenerator(FILES, LABELS, Params.load(str(HTAUTAU / "params.json"), seed=0)) as generator:
        boosting = boosting_auc(generator, 0)
        vectors_of = [batch.entry for batch in generator.batches("test", shuffle=False)]
    with DataGenerator(FILES, LABELS, Params.load(str(HTAUTAU / "objects.json"), seed=0)) as generator:
        objects_of = [batch.entry for batch in generator.batches("test", shuffle=False)]
        network = network_auc(generator, "ex_deepsets_pytorch.py", 0)
    assert np.concatenate(vectors_of).tolist() == np.concatenate(objects_of).tolist()
    assert network > boosting


@pytest.fixture(scope="module", params=MODELS)
def bundle(request, tmp_path_factory):
    """Train with workflow.py; return the bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "params.json").write_text(json.dumps({"epochs": 2, "nevts": 3000, "tfaas": False, "trial_export": False}))
    done = run_forked(
        "workflow.py",
        f"--files={FILES}",
        f"--labels={LABELS}",
        f"--model={request.param}",
        "--fout=htautau",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder / "htautau"


@pytest.fixture
def url(tmp_path):
    """Start our server on a free port; return its URL."""
    command = [sys.executable, str(ROOT / "tfaas_server.py"), f"--models-dir={tmp_path / 'models'}", "--port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        line = server.stderr.readline()
        yield next(word for word in line.split() if word.startswith("http"))
        server.terminate()
        server.wait(timeout=20)


def framework_scores(bundle):
    """Return raw test events, and their scores by the framework with the model file of the bundle."""
    training = json.loads((bundle / "training.json").read_text())
    with DataGenerator(FILES, LABELS, training["params"], bundle / "specs.json") as generator:
        raw, events = generator.examples(300, raw=True), generator.examples(300)
        file, two = load_model_file(str(bundle / "model.py")), Task.classification(2)
        backend = make_backend(file, generator.shapes, two, Params(seed=99))
        load_weights(backend, bundle)
        return generator.columns, raw, backend.predict(events.inputs)


def load_weights(backend, bundle):
    """Load the trained weights of a bundle into a new model."""
    if backend.framework == "keras":
        import keras

        backend.model.set_weights(keras.saving.load_model(bundle / "model.keras", compile=False).get_weights())
    else:
        import torch

        backend.model.load_state_dict(torch.load(bundle / "model.pt", weights_only=True))


def test_the_server_returns_the_scores_of_the_framework(bundle, url):
    columns, raw, expected = framework_scores(bundle)
    done = run_script("tfaas_client.py", f"--url={url}", f"--upload={bundle / 'upload.json'}", cwd=bundle.parent)
    assert done.returncode == 0, done.stderr
    rows = [[None if np.isnan(value) else float(value) for value in row] for row in raw.x]
    order = np.random.default_rng(0).permutation(len(columns))
    shuffled = {
        "keys": [columns[i] for i in order],
        "values": [[row[i] for i in order] for row in rows],
        "model": "htautau",
    }
    client = TFaaSClient(url)
    np.testing.assert_allclose(client.predict(shuffled), expected, atol=1e-5)
    assert 0.05 < expected.std() < 0.5  # scores that say something


def test_the_client_prints_the_true_labels_of_the_example_events(bundle, url):
    run_script("tfaas_client.py", f"--url={url}", f"--upload={bundle / 'upload.json'}", cwd=bundle.parent)
    done = run_script("tfaas_client.py", f"--url={url}", f"--predict={bundle / 'example.json'}", cwd=bundle.parent)
    assert done.returncode == 0, done.stderr
    example = json.loads((bundle / "example.json").read_text())
    lines = done.stdout.splitlines()
    assert [line.split()[-1] for line in lines] == example["labels"]
    assert sorted(set(example["labels"])) == ["VBF", "ggH"]
    assert all(0 <= json.loads(line.split("  ")[0])[0] <= 1 for line in lines)


def test_xgboost_gives_the_same_result_from_the_stream_and_from_memory():
    params = Params.load(str(HTAUTAU / "params.json"), normalise="none", nevts=2000)
    with DataGenerator(FILES, LABELS, params) as generator:
        batches = list(generator.batches("train"))  # in the order of the stream, by which XGBoost samples events
        x = np.concatenate([np.where(batch.mask, batch.x, np.nan) for batch in batches])
        y = np.concatenate([batch.y for batch in batches])
        (valid_x, valid_y), (test_x, test_y) = (vectors(generator, part) for part in ("valid", "test"))
        file, task = load_model_file("ex_xgboost.py"), Task.of(generator.sample.labels)
        given = file.build(generator.shapes, task).set_params(random_state=0)
        given.fit(x, y, eval_set=[(valid_x, valid_y)], verbose=False)
        backend = make_backend(file, generator.shapes, task, params)
        train(generator, backend, params)
        test = evaluate(generator, backend, "test")
    expected = roc_auc_score(test_y, given.predict_proba(test_x)[:, 1])
    assert auc(test.y, test.scores) == pytest.approx(expected, abs=0.002)
