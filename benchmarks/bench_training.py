#!/usr/bin/env python3
"""What training costs and what it is worth: waiting for data, later epochs, memory, and AUC beside boosting.

    python benchmarks/bench_training.py                          # all of it: about half an hour
    python benchmarks/bench_training.py --only=accuracy          # one part

The parts:

    waiting     share of the time in which the shipped networks wait for data, by epoch; 60,000 events, 947 branches
    delivery    events/s of the generator alone on the same events, first epoch and later ones
    memory      peak of training on 600,000 events beside 60,000
    accuracy    AUC of ggH against VBF (examples/htautau), five seeds: shipped models, boosting, XGBoost in memory

Files are resampled as in `bench_reading.py`. Each training is a process of its own, with a new folder as its cache.
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
from pathlib import Path

import numpy as np
from bench_reading import nanoaod

from mlaas4hep.config import Params
from mlaas4hep.stream import DataGenerator

ROOT = Path(__file__).resolve().parents[1]
HTAUTAU = ROOT / "examples" / "htautau"
MODELS = ("ex_keras.py", "ex_pytorch.py")
LABEL = "HLT_IsoMu20"
SEEDS = range(5)
TRAIN = """
import json, sys
from mlaas4hep.config import Params
from mlaas4hep.stream import DataGenerator
from mlaas4hep.training.backend import make_backend
from mlaas4hep.training.loop import train
from mlaas4hep.training.model_file import load_model_file
from mlaas4hep.training.task import Task
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
    args = parser.parse_args(argv)
    results = {}
    for name, part in parts.items():
        if args.only in (None, name):
            print(f"{name}", flush=True)
            results[name] = part()
    print(json.dumps(results))
    return 0


def run(files: list[str], labels: object, model: str, params: dict[str, object]) -> dict[str, object]:
    """Train in a process of its own, with an empty cache; return its epochs and its peak of memory."""
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-bench-") as cache:
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, json.dumps([files, labels, model, params])],
            env={**os.environ, "MLAAS4HEP_CACHE": cache, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def waiting() -> dict[str, list[float]]:
    """Return the share of waiting by epoch, by model."""
    shares = {}
    for model in MODELS:
        found = run([nanoaod(60_000)], LABEL, model, {"epochs": 4, "workers": 2, "patience": 9})
        shares[model] = [epoch["waiting"] / epoch["seconds"] for epoch in found["epochs"]]
        rates = [epoch["events"] / epoch["seconds"] for epoch in found["epochs"]]
        for number, (share, rate) in enumerate(zip(shares[model], rates, strict=True), start=1):
            print(f"  {model:16s} epoch {number}: waiting {share:6.1%}, {rate:9,.0f} events/s", flush=True)
    return shares


def delivery() -> dict[str, list[float]]:
    """Return events/s of the first epoch, with an empty cache, and of later ones; in fresh generators."""
    file = nanoaod(60_000)
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
        print(f"  {name:16s} {statistics.median(found):9,.0f} events/s", flush=True)
    ratio = statistics.median(rates["later"]) / statistics.median(rates["first"])
    print(f"  later epochs against the first: {ratio:.1f}")
    return rates


def memory() -> dict[str, float]:
    """Return the peak resident memory, in MB, of one epoch of the PyTorch network."""
    peaks = {}
    for events in (60_000, 600_000):
        for cache in (True, False):
            found = run([nanoaod(events)], LABEL, "ex_pytorch.py", {"epochs": 1, "workers": 2, "cache": cache})
            peaks[f"{events}, {'with' if cache else 'without'} cache"] = found["peak_mb"]
            print(
                f"  {events:7,} events, {'with' if cache else 'without'} cache: {found['peak_mb']:.0f} MB", flush=True
            )
    return peaks


def accuracy() -> dict[str, list[float]]:
    """Return the AUC on the test part by model, a number a seed."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    from mlaas4hep.training.backend import make_backend
    from mlaas4hep.training.loop import evaluate, train
    from mlaas4hep.training.model_file import load_model_file
    from mlaas4hep.training.task import Task

    files, labels = str(HTAUTAU / "files.txt"), str(HTAUTAU / "labels.txt")
    found: dict[str, list[float]] = {}

    def note(name: str, area: float) -> None:
        found.setdefault(name, []).append(area)
        print(f"  {name:28s} {area:.4f}", flush=True)

    for seed in SEEDS:
        print(f"  seed {seed}")
        vectors = Params.load(str(HTAUTAU / "params.json"), seed=seed)
        objects = Params.load(str(HTAUTAU / "objects.json"), seed=seed)
        with DataGenerator(files, labels, vectors.model_copy(update={"normalise": "none"})) as generator:
            parts = {}
            for part in ("train", "valid", "test"):
                batches = list(generator.batches(part))
                x = np.concatenate([np.where(batch.mask, batch.x, np.nan) for batch in batches])
                parts[part] = x, np.concatenate([batch.y for batch in batches])
        (x, y), (valid_x, valid_y), (test_x, test_y) = parts.values()
        seen = np.isfinite(x).sum(axis=0) >= 10  # boosting cannot bin a column that is empty in its own inner split
        boosting = HistGradientBoostingClassifier(random_state=seed).fit(x[:, seen], y)
        note("HistGradientBoosting", roc_auc_score(test_y, boosting.predict_proba(test_x[:, seen])[:, 1]))
        given = load_model_file("ex_xgboost.py").build({"x": (x.shape[1],)}, Task.classification(2))
        given.set_params(random_state=seed).fit(x, y, eval_set=[(valid_x, valid_y)], verbose=False)
        note("XGBoost in memory", roc_auc_score(test_y, given.predict_proba(test_x)[:, 1]))
        for model, params in (
            ("ex_xgboost.py", vectors), ("ex_sklearn.py", vectors), ("ex_pytorch.py", vectors),
            ("ex_keras.py", vectors), ("ex_deepsets_pytorch.py", objects), ("ex_deepsets_keras.py", objects),
            ("ex_transformer_pytorch.py", objects),
        ):  # fmt: skip
            with DataGenerator(files, labels, params) as generator:
                task = Task.of(generator.sample.labels)
                backend = make_backend(load_model_file(model), generator.shapes, task, params)
                if not backend.normalised:
                    generator.sample.renormalise("none")
                train(generator, backend, params)
                note(model, evaluate(generator, backend, "test").figures()["auc"])
    for name, areas in found.items():
        print(f"  {name:28s} mean {np.mean(areas):.4f}: " + " ".join(f"{area:.4f}" for area in areas))
    return found


if __name__ == "__main__":
    sys.exit(main())
