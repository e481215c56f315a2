#!/usr/bin/env python3
"""Cost and quality of training: time spent waiting for data, later epochs, memory, and AUC compared with boosting.

    python benchmarks/bench_training.py                          # all of it: about half an hour
    python benchmarks/bench_training.py --only=accuracy          # one part
    python benchmarks/bench_training.py --trial                  # smoke test: few events, one seed, one epoch

The parts:

    waiting     fraction of time that the shipped networks wait for data, per epoch; 60,000 events, 947 branches
    delivery    events/s of the generator alone with the same events, in the first and in later epochs
    memory      peak memory of two epochs, Keras and PyTorch, with and without cache, 600,000 and 60,000 events
    accuracy    AUC of ggH against VBF, five seeds: all shipped models, and boosting and XGBoost in memory with the same
                events; the htautau sample of the test data ($MLAAS4HEP_TESTDATA, or ../shared/data)

Files are resampled as in `bench_reading.py`. Each training runs in a separate process with an empty cache. Each result
is immediately appended to --out. A failure of a part is reported, and the next part runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_reading import DATA, nanoaod

import mlaas4hep
from mlaas4hep.config import Params
from mlaas4hep.stream import PARTS, DataGenerator

ROOT = Path(__file__).resolve().parents[1]
HTAUTAU = ROOT / "examples" / "htautau"
MODELS = ("ex_keras.py", "ex_pytorch.py")
MODELS_OF_VECTORS = ("ex_xgboost.py", "ex_sklearn.py", "ex_pytorch.py", "ex_keras.py")
MODELS_OF_OBJECTS = (
    *("ex_deepsets_pytorch.py", "ex_deepsets_keras.py"),
    *("ex_transformer_pytorch.py", "ex_transformer_keras.py"),
)
CLASSES = ["ggH", "VBF"]
FILES = [str(DATA / "htautau" / f"{name}.root") for name in CLASSES]
LABEL = "HLT_IsoMu20"
SEEDS = range(5)
TRAIN = """
import json, sys
from mlaas4hep.config import Params
from mlaas4hep.stream import DataGenerator
from mlaas4hep.backends.make import make_backend
from mlaas4hep.training.loop import train
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
files, labels, model, params = json.loads(sys.argv[1])
params = Params.parse(params)
with DataGenerator(files, labels, params) as generator:
    backend = make_backend(load_model_file(model), generator.shapes, Task.of(generator.sample.labels), params)
    history = train(generator, backend, params)
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"epochs": history.to_json(), "peak_mb": int(peak) / 1e3}))
"""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parts = {"waiting": waiting, "delivery": delivery, "memory": memory, "accuracy": accuracy}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=parts, help="one part (default: all)")
    parser.add_argument("--trial", action="store_true", help="smoke test: few events, one seed, one epoch")
    parser.add_argument(
        "--out", default="bench_training.jsonl", help="results are appended to it (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    for name, part in parts.items():
        if args.only in (None, name):
            print(f"{name}", flush=True)
            part(Notes(Path(args.out), name, args.trial))
    return 0


@dataclass(frozen=True)
class Notes:
    """Prints the results of a part, and appends them to a file."""

    path: Path
    part: str
    trial: bool

    def add(self, text: str, **values: object) -> None:
        """Print a result, and append it to the file as JSON."""
        print(f"  {text}", flush=True)
        line = {"part": self.part, **values, "mlaas4hep": mlaas4hep.__version__, "cores": os.cpu_count()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, **({"trial": True} if self.trial else {})}) + "\n")

    @contextmanager
    def failures(self, **values: object) -> Iterator[None]:
        """Report an exception of the block, and continue."""
        try:
            yield
        except Exception as error:
            self.add(f"{values}: {type(error).__name__}: {error}", **values, error=str(error))


def run(files: list[str], labels: object, model: str, params: dict[str, object]) -> dict[str, Any]:
    """Train in a separate process with an empty cache; return its epochs and its peak memory."""
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-bench-") as cache:
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, json.dumps([files, labels, model, params])],
            env={**os.environ, "MLAAS4HEP_CACHE": cache, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def waiting(notes: Notes) -> None:
    """Measure the fraction of time spent waiting, per epoch and model."""
    for model in MODELS:
        with notes.failures(model=model):
            params: dict[str, object] = {"epochs": 4, "workers": 2, "patience": 9}
            found = run([nanoaod(600 if notes.trial else 60_000)], LABEL, model, params)
            for epoch in found["epochs"]:
                share, rate = epoch["waiting"] / epoch["seconds"], epoch["events"] / epoch["seconds"]
                notes.add(
                    f"{model:16s} epoch {epoch['epoch']}: waiting {share:6.1%}, {rate:9,.0f} events/s",
                    model=model, epoch=epoch["epoch"], waiting=share, rate=rate,
                )  # fmt: skip


def delivery(notes: Notes) -> None:
    """Measure events/s of the first epoch, with an empty cache, and of later epochs, in new generators."""
    file = nanoaod(600 if notes.trial else 60_000)
    rates: dict[str, list[float]] = {"first": [], "later": [], "first, no cache": []}
    for _ in range(3):
        with tempfile.TemporaryDirectory(prefix="mlaas4hep-bench-") as cache:
            os.environ["MLAAS4HEP_CACHE"] = cache
            for wanted in (True, False):
                params = Params.parse({"workers": 2, "cache": wanted, "batch_size": 1024})
                with DataGenerator([file], LABEL, params) as generator:
                    for epoch in range(3 if wanted else 1):
                        start = time.perf_counter()
                        events = sum(len(batch) for batch in generator.batches(None, epoch))
                        name = "first, no cache" if not wanted else "later" if epoch else "first"
                        rates[name].append(events / (time.perf_counter() - start))
    for name, found in rates.items():
        notes.add(f"{name:16s} {statistics.median(found):9,.0f} events/s", epoch=name, rates=found)
    ratio = statistics.median(rates["later"]) / statistics.median(rates["first"])
    notes.add(f"later epochs against the first: {ratio:.1f}", ratio=ratio)


def memory(notes: Notes) -> None:
    """Measure the peak resident memory of two epochs in MB; the second one reads from the cache."""
    for model in MODELS:
        for cache in (True, False):
            for events in (600, 6000) if notes.trial else (60_000, 600_000):
                with notes.failures(model=model, events=events, cache=cache):
                    params: dict[str, object] = {"epochs": 2, "workers": 2, "cache": cache}
                    found = run([nanoaod(events)], LABEL, model, params)
                    notes.add(
                        f"{model:16s} {events:7,} events, {'with' if cache else 'without'} cache:"
                        f" {found['peak_mb']:.0f} MB",
                        model=model, events=events, cache=cache, peak_mb=found["peak_mb"],
                    )  # fmt: skip


def accuracy(notes: Notes) -> None:
    """Measure the AUC on the test part, per model and seed."""
    found: dict[str, list[float]] = {}
    less = {"nevts": 400, "epochs": 1} if notes.trial else {}
    for seed in range(1) if notes.trial else SEEDS:
        vectors = Params.load(str(HTAUTAU / "params.json"), seed=seed, **less)
        objects = Params.load(str(HTAUTAU / "objects.json"), seed=seed, **less)
        trainings: dict[str, Callable[[], float]] = {
            name: partial(do, vectors)
            for name, do in (("HistGradientBoosting", boosting), ("XGBoost in memory", trees))
        }
        for model in MODELS_OF_VECTORS:
            trainings[model] = partial(shipped, model, vectors)
        for model in MODELS_OF_OBJECTS:
            trainings[model] = partial(shipped, model, objects)
        for name, train in trainings.items():
            with notes.failures(model=name, seed=seed):
                area = train()
                found.setdefault(name, []).append(area)
                notes.add(f"seed {seed}  {name:28s} {area:.4f}", model=name, seed=seed, auc=area)
    for name, areas in found.items():
        print(f"  {name:28s} mean {np.mean(areas):.4f}: " + " ".join(f"{area:.4f}" for area in areas))


def in_memory(params: Params) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return vectors and classes of each part, NaN for missing values."""
    parts = {}
    with DataGenerator(FILES, CLASSES, params.model_copy(update={"normalise": "none"})) as generator:
        for part in PARTS:
            batches = list(generator.batches(part))
            x = np.concatenate([np.where(batch.mask, batch.x, np.nan) for batch in batches])
            parts[part] = x, np.concatenate([batch.y for batch in batches])
    return parts


def boosting(params: Params) -> float:
    """Return the AUC of scikit-learn's boosting, in memory."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    parts = in_memory(params)
    (x, y), (test_x, test_y) = parts["train"], parts["test"]
    seen = np.isfinite(x).sum(axis=0) >= 10  # it cannot bin a column that is empty in its own inner split
    model = HistGradientBoostingClassifier(random_state=params.seed).fit(x[:, seen], y)
    return float(roc_auc_score(test_y, model.predict_proba(test_x[:, seen])[:, 1]))


def trees(params: Params) -> float:
    """Return the AUC of the shipped XGBoost model, in memory."""
    from sklearn.metrics import roc_auc_score

    from mlaas4hep.backends.model_file import load_model_file
    from mlaas4hep.backends.task import Task

    parts = in_memory(params)
    (x, y), (test_x, test_y) = parts["train"], parts["test"]
    model = load_model_file("ex_xgboost.py").build({"x": (x.shape[1],)}, Task.classification(2))
    model.set_params(random_state=params.seed).fit(x, y, eval_set=[parts["valid"]], verbose=False)
    return float(roc_auc_score(test_y, model.predict_proba(test_x)[:, 1]))


def shipped(model: str, params: Params) -> float:
    """Return the AUC of a shipped model, through the stream."""
    from mlaas4hep.backends.make import make_backend
    from mlaas4hep.backends.model_file import load_model_file
    from mlaas4hep.backends.task import Task
    from mlaas4hep.training.loop import evaluate, train

    with DataGenerator(FILES, CLASSES, params) as generator:
        backend = make_backend(load_model_file(model), generator.shapes, Task.of(generator.sample.labels), params)
        if not backend.normalised:
            generator.sample.renormalise("none")
        train(generator, backend, params)
        return evaluate(generator, backend, "test").metrics()["auc"]


if __name__ == "__main__":
    sys.exit(main())
