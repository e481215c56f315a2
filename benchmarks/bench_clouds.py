#!/usr/bin/env python3
"""How fast are particle clouds delivered, compared with weaver-core's loader on the same files?

    python benchmarks/bench_clouds.py                      # 4 files of 25,000 jets, LZ4, 2 workers, five rounds
    python benchmarks/bench_clouds.py --codec=zlib --runs=3
    python benchmarks/bench_clouds.py --jets=2000 --runs=1 # smoke test

The inputs are those of JetClass's ParticleTransformer: up to 128 particles per jet with 17 features (8 of them derived,
and the mask), 2 coordinates and 4-vectors, in shuffled batches of 1024, with ten classes. The baseline is weaver-core's
`SimpleIterDataset` in a `DataLoader` with the same number of workers, with the best of several fetch sizes. It needs
`pip install -c constraints.txt -e '.[bench]'`.

MLaaS4HEP is measured without the cache, like weaver-core and like a first epoch, and with the events in the cache on
disk, like a later epoch.

Both use the same normalisation constants, and their output is compared before the measurement. `make_jets.py` of the
test data creates the files in a temporary folder; they are in the page cache. All measurements alternate in every
round, and ratios are medians of the ratios of single rounds. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

import mlaas4hep
from mlaas4hep import DataGenerator
from mlaas4hep.expressions.preproc_file import preproc_from_json

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLAAS4HEP_TESTDATA", ROOT.parent / "shared" / "data"))
FILES, BATCH, LENGTH = 4, 1024, 128
CLASSES = ["QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl"]
DERIVED = {
    "part_pt": "hypot(part_px, part_py)",
    "part_pt_log": "log(part_pt)",
    "part_e_log": "log(part_energy)",
    "part_logptrel": "log(part_pt/jet_pt)",
    "part_logerel": "log(part_energy/jet_energy)",
    "part_deltaR": "hypot(part_deta, part_dphi)",
    "part_d0": "tanh(part_d0val)",
    "part_dz": "tanh(part_dzval)",
}
SPECIES = [f"part_is{name}" for name in ("ChargedHadron", "NeutralHadron", "Photon", "Electron", "Muon")]
FEATURES = ["part_pt_log", "part_e_log", "part_logptrel", "part_logerel", "part_deltaR", "part_charge", *SPECIES,
            "part_d0", "part_d0err", "part_dz", "part_dzerr", "part_deta", "part_dphi"]  # fmt: skip
POINTS = ["part_deta", "part_dphi"]
VECTORS = ["part_px", "part_py", "part_pz", "part_energy"]
FETCH_STEPS = (0.05, 0.2, 1.0)
"""Fractions of a file that weaver-core fetches at a time."""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", choices=["lz4", "zlib"], default="lz4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--jets", type=int, default=25_000, help="jets per file (default: 25000)")
    args = parser.parse_args(argv)
    files = [jets_file(number, args.codec, args.jets) for number in range(FILES)]
    generator, epoch = generator_epoch(files, args.workers, cache=False)
    _, cached = generator_epoch(files, args.workers, cache=True)
    compare(epoch, cached)  # also fills the cache
    with tempfile.TemporaryDirectory() as folder:
        steps = {"mlaas4hep, first epoch": epoch, "mlaas4hep, from its cache": cached}
        peers: dict[str, Epoch] = {}
        try:
            peers = weaver_epochs(files, args.workers, generator, Path(folder))
        except ModuleNotFoundError as error:
            print(f"no baseline: {error}; pip install -c constraints.txt -e '.[bench]'", file=sys.stderr)
        else:
            compare(epoch, next(iter(peers.values())))
        steps |= peers
        rates: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.runs):
            for name, step in steps.items():
                start = time.perf_counter()
                jets = sum(len(batch["y"]) for batch in step())
                rates[name].append(jets / (time.perf_counter() - start))
    best = max(peers or ["mlaas4hep, first epoch"], key=lambda name: statistics.median(rates[name]))
    print(f"{FILES} files of {args.jets:,} jets, {args.codec}, batches of {BATCH}, {args.workers} workers")
    for name, values in rates.items():
        ratio = statistics.median(value / other for value, other in zip(values, rates[best], strict=True))
        print(f"{name:40s} {statistics.median(values):12,.0f} jets/s  {ratio:5.2f} x")
    print(json.dumps({
        "rates": {name: round(statistics.median(values)) for name, values in rates.items()}, "cores": os.cpu_count(),
        "mlaas4hep": mlaas4hep.__version__, "codec": args.codec, "workers": args.workers, "jets": args.jets,
    }))  # fmt: skip
    return 0


def jets_file(number: int, codec: str, jets: int) -> str:
    """Return a file of jets. Create it if it does not exist."""
    folder = Path(tempfile.gettempdir()) / "mlaas4hep-benchmarks"
    folder.mkdir(exist_ok=True)
    path = folder / f"jets_{number}_{codec}_{jets}.root"
    if not path.exists():
        temporary = path.with_suffix(".part")
        maker = DATA.parent / "bench" / "make_jets.py"
        command = [sys.executable, str(maker), str(temporary), str(jets), "--codec", codec, "--seed", str(number)]
        print(f"making {path}", file=sys.stderr)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        temporary.rename(path)
    return str(path)


Epoch = Callable[[], Iterator[dict[str, Any]]]
"""The batches of an epoch: arrays by name."""


def generator_epoch(files: list[str], workers: int, cache: bool) -> tuple[DataGenerator, Epoch]:
    """Return the generator and its epoch. Weaver-core uses the constants of its specs."""
    params = {
        "branch": "tree", "batch_size": BATCH, "workers": workers, "identifier": [], "cache": cache,
        "inputs": {
            "points": {"branches": POINTS, "length": LENGTH, "normalise": "none"},
            "features": {"branches": FEATURES, "length": LENGTH, "normalise": "standard"},
            "vectors": {"branches": VECTORS, "length": LENGTH, "normalise": "none"},
        },
    }  # fmt: skip
    generator = DataGenerator(files, "label_*", params, preproc=preproc_from_json({"define": DERIVED}))

    numbers = count()

    def epoch() -> Iterator[dict[str, Any]]:
        for batch in generator.batches(epoch=next(numbers)):
            yield {**batch.inputs, "y": batch.y}

    return generator, epoch


def weaver_epochs(files: list[str], workers: int, generator: DataGenerator, folder: Path) -> dict[str, Epoch]:
    """Return epochs of weaver-core for several fetch sizes. A worker has files of its own."""
    import logging

    import yaml
    from torch.utils.data import DataLoader
    from weaver.utils.dataset import SimpleIterDataset

    logging.disable(logging.INFO)
    specs = generator.specs.branches
    new = {name: in_numpy(text) for name, text in DERIVED.items()}
    new |= {f"{name}_": name for name in FEATURES}  # weaver-core allows one normalisation per name
    config = {
        "selection": None,
        "new_variables": {"part_mask": "ak.ones_like(part_energy)", **new},
        "preprocess": {"method": "manual"},
        "inputs": {
            "points": {"length": LENGTH, "pad_mode": "constant", "vars": [[name, None] for name in POINTS]},
            "features": {
                "length": LENGTH, "pad_mode": "constant",
                "vars": [[f"{name}_", specs[name].mean, 1 / specs[name].std, -1e30, 1e30] for name in FEATURES],
            },
            "vectors": {"length": LENGTH, "pad_mode": "constant", "vars": [[name, None] for name in VECTORS]},
            "mask": {"length": LENGTH, "pad_mode": "constant", "vars": [["part_mask", None]]},
        },
        "labels": {"type": "simple", "value": [f"label_{name}" for name in CLASSES]},
    }  # fmt: skip
    path = folder / "jets.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))

    def make(step: float) -> Epoch:
        def epoch() -> Iterator[dict[str, Any]]:
            data = SimpleIterDataset({"_": list(files)}, str(path), for_training=True, fetch_step=step, name="train")
            loader = DataLoader(data, batch_size=BATCH, num_workers=workers, drop_last=False, persistent_workers=False)
            for inputs, labels, _ in loader:
                yield {**inputs, "y": labels["_label_"]}

        return epoch

    return {f"weaver-core {metadata.version('weaver-core')}, fetch_step={step}": make(step) for step in FETCH_STEPS}


def in_numpy(text: str) -> str:
    """Return an expression in the syntax of weaver-core."""
    return re.sub(r"\b(hypot|log|tanh)\(", r"np.\1(", text)


def compare(mine: Epoch, theirs: Epoch) -> None:
    """Check that both deliver the same jets: the sums of every feature agree."""
    sums = []
    for epoch in (mine, theirs):
        total: dict[str, np.ndarray] = {}
        for batch in epoch():
            for name in ("points", "features", "vectors"):
                values = np.asarray(batch[name], np.float64)
                values = values if values.shape[1] == LENGTH else values.transpose(0, 2, 1)
                values[~np.isfinite(values)] = 0
                total[name] = total.get(name, 0) + np.abs(values).sum(axis=(0, 1))
            total["y"] = total.get("y", 0) + np.bincount(np.asarray(batch["y"]), minlength=len(CLASSES))
        sums.append(total)
    for name, found in sums[0].items():
        np.testing.assert_allclose(found, sums[1][name], rtol=1e-4, err_msg=name)


if __name__ == "__main__":
    sys.exit(main())
