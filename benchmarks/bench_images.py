#!/usr/bin/env python3
"""Cost of training on images, and whether it learns what it should, and nothing from shuffled labels.

    python benchmarks/bench_images.py                       # all of it: about half an hour on 2 cores
    python benchmarks/bench_images.py --only=steps          # one part
    python benchmarks/bench_images.py --trial               # smoke test with few images

The parts:

    rings       test accuracy of hep_resnet.py, and its seconds, on 3,000 images of 64 x 64 pixels with a ring, half a
                ring or a blob in noise; three seeds
    shuffled    the same with labels that were shuffled: chance is 1/3
    steps       images/s of resnet18 by turns: from files, from memory, and in a loop of Keras alone (model.fit)
    memory      peak of a run of hep_resnet.py on 10,000 images of 16 x 16 pixels, and on 100,000

Where TensorFlow has a GPU, `steps` is measured on it, in float32 and in the mixed precision that hep_resnet.py takes.
Every result is a line of --out as soon as it is there.
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
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_serving import Bench
from PIL import Image

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.images.folder import read_folder
from mlaas4hep.images.stream import ImageStream
from mlaas4hep.images.train import Network

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("ring", "blob", "arc")
SEEDS = range(3)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parts = {"rings": rings, "shuffled": shuffled, "steps": steps, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=parts, help="one part (default: all)")
    parser.add_argument("--trial", action="store_true", help="smoke test with few images")
    parser.add_argument("--out", default="bench_images.jsonl", help="results are appended to it (default: %(default)s)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-bench-") as folder:
        bench = Bench(Path(folder), Path(args.out), args.trial)
        for name, part in parts.items():
            if args.only in (None, name):
                print(name, flush=True)
                part(bench)
    return 0


def draw(count: int, size: int, seed: int) -> Iterator[tuple[np.ndarray, str]]:
    """Yield images, uint8 (size, size), of rings, blobs and half rings in noise, and their classes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    for number in range(count):
        kind = CLASSES[number % 3]
        middle, radius = rng.uniform(0.3 * size, 0.7 * size, 2), rng.uniform(0.12 * size, 0.28 * size)
        distance = np.hypot(y - middle[0], x - middle[1])
        signal = np.exp(-((distance / (0.8 * radius)) ** 2) if kind == "blob" else -(((distance - radius) / 2) ** 2))
        signal = signal * (x > middle[1]) if kind == "arc" else signal
        pixels = signal * rng.uniform(60, 160) + rng.normal(40, 25, (size, size))
        yield np.clip(pixels, 0, 255).astype(np.uint8), kind


def write_images(folder: Path, count: int, size: int, seed: int = 0, shuffled: bool = False) -> list[str]:
    """Write images and labels.csv; return the options of hep_resnet.py for them."""
    images, names, labels = folder / "images", [], []
    images.mkdir(parents=True)
    for number, (pixels, label) in enumerate(draw(count, size, seed)):
        names.append(f"{number:06}")
        labels.append(label)
        Image.fromarray(pixels).save(images / f"{number:06}.png")
    if shuffled:
        np.random.default_rng(seed).shuffle(labels)
    rows = [f"{name},{label}\n" for name, label in zip(names, labels, strict=True)]
    (folder / "labels.csv").write_text("".join(["image,label\n", *rows]))
    return [f"--fdir={images}", f"--flabels={folder / 'labels.csv'}"]


def run(folder: Path, *options: str) -> tuple[dict[str, Any], float, float]:
    """Run hep_resnet.py; return the content of metrics.json, seconds, and peak memory in MB."""
    command = [sys.executable, ROOT / "hep_resnet.py", f"--mdir={folder / 'models'}", *options]
    began = time.perf_counter()
    with (folder / "said.txt").open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError((folder / "said.txt").read_text())
    seconds = time.perf_counter() - began
    return json.loads((folder / "models/metrics.json").read_text()), seconds, used.ru_maxrss / 1e3


def rings(bench: Bench) -> None:
    """Measure the accuracy with correct labels."""
    learn(bench, "rings", shuffled=False)


def shuffled(bench: Bench) -> None:
    """Measure the accuracy with shuffled labels."""
    learn(bench, "shuffled", shuffled=True)


def learn(bench: Bench, part: str, shuffled: bool) -> None:
    """Train with each seed, and record accuracy and seconds."""
    for seed in SEEDS[:1] if bench.trial or shuffled else SEEDS:
        folder = bench.folder / f"{part}{seed}"
        options = write_images(folder, 120 if bench.trial else 3000, 64, seed, shuffled)
        found, seconds, _ = run(folder, *options, f"--epochs={1 if bench.trial else 5}", f"--seed={seed}")
        accuracy, images = found["test"]["accuracy"], found["test"]["events"]
        error = (accuracy * (1 - accuracy) / images) ** 0.5
        bench.add(
            part, f"seed {seed}: accuracy {accuracy:.4f} +- {error:.4f} of {images} images after {seconds:.0f} s",
            seed=seed, accuracy=accuracy, images=images, seconds=seconds, epochs=len(found["epochs"]),
        )  # fmt: skip


class InMemory(ImageStream):
    """Images that are decoded before training."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.pixels = np.stack([super(InMemory, self)._read(index) for index in range(len(self.images))])

    def _read(self, index: int) -> np.ndarray:
        return self.pixels[index]


def steps(bench: Bench) -> None:
    """Measure images/s from files, from memory, and of Keras's own loop, alternating."""
    count, size = (96, 32) if bench.trial else (3000, 64)
    options = write_images(bench.folder / "steps", count, size)
    folder = read_folder(*(option.partition("=")[2] for option in options))
    for precision in sorted({"float32", Network().policy()}):
        network = Network(precision=precision)
        params = Params.parse({"batch_size": 32 if precision == "float32" else 128, "workers": 2})
        files, memory = (kind(folder, (size, size, 1), params) for kind in (ImageStream, InMemory))
        backend = make_backend(network.as_model_file(), files.shapes, Task.of(files.labels), params)
        loops = {
            "files": partial(our_loop, backend, files),
            "memory": partial(our_loop, backend, memory),
            "keras": keras_loop(network, memory),
        }
        seconds = alternate(loops, bench.rounds)
        rates = {name: files.training_entries / statistics.median(times) for name, times in seconds.items()}
        words = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
        ratio = rates["memory"] / rates["files"]
        bench.add(
            "steps", f"{precision}: images/s: {words}; a step on files takes {ratio:.3f} of one in memory",
            precision=precision, rates=rates, ratio=ratio, runs=seconds, batch=params.batch_size,
        )  # fmt: skip


def alternate(loops: Mapping[str, Callable[[int], None]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each epoch of each loop, except the first epoch, which compiles the network."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for epoch in range(1 + rounds):
        for name, loop in loops.items():
            began = time.perf_counter()
            loop(epoch)
            seconds[name].append(time.perf_counter() - began)
    return {name: times[1:] for name, times in seconds.items()}


def our_loop(backend: Any, images: ImageStream, epoch: int) -> None:
    """Train for an epoch as hep_resnet.py does."""
    for _ in backend.steps(images.batches("train", epoch)):
        pass


def keras_loop(network: Network, images: InMemory) -> Callable[[int], None]:
    """Return an epoch of the same network with Keras's `fit`, on images in memory."""
    import keras

    model = network.build(images.shapes, len(images.labels.classes))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=network.make_optimizer(), loss=loss)
    train = images.part == 0
    x, y = images.pixels[train], images.images.y[train]

    def epoch(number: int) -> None:
        model.fit(x, y, batch_size=images.params.batch_size, epochs=number + 1, initial_epoch=number, verbose=0)

    return epoch


def memory(bench: Bench) -> None:
    """Measure the peak memory of a run on some images, and on ten times as many."""
    peaks = []
    for count in (120, 240) if bench.trial else (10_000, 100_000):
        folder = bench.folder / f"memory{count}"
        options = write_images(folder, count, 16)
        _, seconds, peak = run(folder, *options, "--epochs=1", "--batch_size=128")
        peaks.append(peak)
        bench.add("memory", f"{count:,} images: {peak:,.0f} MB, {seconds:.0f} s", images=count, mb=peak)
    bench.add("memory", f"{peaks[1] / peaks[0] - 1:+.1%}", growth=peaks[1] / peaks[0] - 1)


if __name__ == "__main__":
    sys.exit(main())
