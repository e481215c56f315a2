#!/usr/bin/env python3
"""Show how a cut on a score sculpts the mass of the background, and how a training-only input prevents it.

    examples/mass_decorrelation.py --fout=docs/images/mass_decorrelation.png

The toy events have a resonance at 80 GeV above a falling background, a transverse momentum that reveals the mass, and
two variables that do not. One classifier is trained with the cross-entropy alone. The loss of the other, which is
models/ex_disco_pytorch.py, also has the distance correlation of score and mass, a training-only input. Both are applied
with --predict, and the figure shows the mass of background events of the test set that pass a cut with an efficiency of
50% for the signal.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import uproot

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.errors import require
from mlaas4hep.scoring.files import score_files
from mlaas4hep.training import train_model

EFFICIENCY = 0.5
EXAMPLE = Path(__file__).parent / "models" / "ex_disco_pytorch.py"
PARAMS = {
    "inputs": {
        "event": {"branches": ["pt", "tau21", "d2"]},
        "aux": {"branches": ["mass"], "training_only": True},
    },
    "observers": ["mass"],
    "batch_size": 1024,
    "epochs": 20,
    "patience": 20,
    "tfaas": False,
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("mass_decorrelation.py", __doc__)
    parser.add_argument(
        "--fout", type=Path, default="mass_decorrelation.png", metavar="FILE", help="the figure (default: %(default)s)"
    )
    parser.add_argument(
        "--events", type=int, default=100_000, metavar="N", help="events per class (default: %(default)s)"
    )
    console.add_verbose(parser, "1: tracebacks")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(draw, build_parser().parse_args(argv))


def draw(args: argparse.Namespace) -> int:
    """Make events, train both classifiers, and draw the figure."""
    require("matplotlib.figure", "plot", "figures")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events((folder / "background.root", folder / "signal.root"), args.events)
        plain = folder / "plain.py"
        plain.write_text(EXAMPLE.read_text(encoding="utf-8").replace("STRENGTH = 50.0", "STRENGTH = 0.0"))
        masses = {
            "cross-entropy alone": selected_masses(folder, plain),
            "with distance correlation": selected_masses(folder, EXAMPLE),
        }
        before = mass_of_test_events(folder)
    for label, mass in masses.items():
        console.print_line(
            f"{label}: {len(mass) / len(before):.1%} of the background, {divergence(mass, before):.3f} bits"
        )
    plot(args.fout, before, masses)
    console.print_line(f"Figure: {args.fout}")
    return 0


def write_events(paths: Sequence[Path], events: int) -> None:
    """Write the events: signal with a narrow mass, background with a falling one."""
    rng = np.random.default_rng(1)
    for number, path in enumerate(paths):
        mass = rng.normal(80, 8, events) if number else 40 + rng.triangular(0, 0, 160, events)
        branches = {
            "run": np.full(events, number + 1, np.uint32),
            "event": np.arange(events, dtype=np.uint64),
            "mass": mass.astype(np.float32),
            "pt": rng.normal(5 * mass, 60).astype(np.float32),
            "tau21": rng.normal(0.6 - 0.15 * number, 0.12, events).astype(np.float32),
            "d2": rng.normal(2.0 - 0.5 * number, 0.5, events).astype(np.float32),
        }
        with uproot.recreate(path) as file:
            file.mktree("Events", {name: values.dtype for name, values in branches.items()}).extend(branches)


def selected_masses(folder: Path, model: Path) -> np.ndarray:
    """Train a classifier; return the masses of background events of the test set that pass the cut."""
    files = [folder / "background.root", folder / "signal.root"]
    bundle = folder / f"bundle_{model.stem}"
    train_model(files, ["background", "signal"], str(model), Params.parse(PARAMS), fout=bundle)
    tested = []
    for path, _, _ in score_files(bundle, files, folder / f"scores_{model.stem}"):
        with uproot.open(path) as file:
            columns = file["scores"].arrays(["mass", "score_signal", "part"], library="np")
        tested.append({name: values[columns["part"] == 2] for name, values in columns.items()})
    background, signal = tested
    return background["mass"][background["score_signal"] > np.quantile(signal["score_signal"], 1 - EFFICIENCY)]


def mass_of_test_events(folder: Path) -> np.ndarray:
    """Return the masses of all background events of the test set."""
    with uproot.open(folder / "scores_plain" / "background.scores.root") as file:
        columns = file["scores"].arrays(["mass", "part"], library="np")
    return columns["mass"][columns["part"] == 2]


def divergence(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence of two distributions of the mass, in bits."""
    edges = np.linspace(40, 200, 17)
    p, q = (np.histogram(mass, edges)[0] / len(mass) + 1e-9 for mass in (first, second))
    mean = (p + q) / 2
    return float((p * np.log2(p / mean) + q * np.log2(q / mean)).sum() / 2)


def plot(path: Path, before: np.ndarray, masses: dict[str, np.ndarray]) -> None:
    """Draw the distributions of the mass."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=110)
    axes = figure.subplots()
    edges = np.linspace(40, 200, 33)
    axes.hist(before, edges, density=True, color="#c9d6e4", label="all background events")
    for (label, mass), colour in zip(masses.items(), ("#bd1f01", "#3f90da"), strict=True):
        axes.hist(mass, edges, density=True, histtype="step", linewidth=1.6, color=colour, label=f"selected: {label}")
    axes.set(xlabel="mass of the background [GeV]", ylabel="normalised events", xlim=(edges[0], edges[-1]))
    axes.legend()
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    console.exit_with(main())
