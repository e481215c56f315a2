#!/usr/bin/env python3
"""Draw the events of ROOT files as images, for hep_resnet.py.

    examples/event_images.py --files=VBF.root,TT.root --labels=VBF,top --fout=hep_images --image_size=64 --nevts=3000
    hep_resnet.py --fdir=hep_images --flabels=hep_images/labels.csv --mdir=models

An image is a map of the detector. eta goes from -5 (left) to 5 (right), which includes the forward jets of vector-boson
fusion; phi covers the full circle from top to bottom. The colours are computed from NanoAOD branches:

    red    jets                                   Jet_pt, Jet_eta, Jet_phi
    green  muons, electrons and tau candidates    the same for Muon, Electron and Tau
    blue   photons                                the same for Photon
    blue   jets by b tag: b jets are magenta      Jet_btag; the pT is Jet_pt * Jet_btag^2
    blue   missing ET, as a line: it has no eta   MET_pt, MET_phi

The value of a pixel is 255 sqrt(S / 250 GeV), 255 at most. S is the sum of pT exp(-dR^2 / (2 * 0.15^2)) over the 16
hardest objects of each collection, where dR^2 = deta^2 + dphi^2 is the distance from the centre of the pixel.

Events are rotated so that the hardest object is in the middle of phi, and mirrored so that the pT sum of all objects
(without missing ET) is larger on the right and below. These are symmetries of the physics (as in arXiv:1407.5675).
Objects that one of the files lacks are not drawn for any file; otherwise a network would learn to separate the files.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlaas4hep import Chunk, DataReader, console
from mlaas4hep.errors import BranchNotFound, ConfigError, require
from mlaas4hep.expressions.preproc_file import preproc_from_json
from mlaas4hep.files import new_directory
from mlaas4hep.io.storage.location import read_file_list
from mlaas4hep.stream.labels import labels_by_file, read_labels
from mlaas4hep.training.callbacks import Callbacks

RED, GREEN, BLUE = range(3)
CHANNELS = {"Jet": RED, "Muon": GREEN, "Electron": GREEN, "Tau": GREEN, "Photon": BLUE, "BJet": BLUE}
INPUTS = {name: [f"{name}_pt", f"{name}_eta", f"{name}_phi"] for name in CHANNELS}
INPUTS["BJet"] = ["BJet_pt", "Jet_eta", "Jet_phi"]
MET = ["MET_pt", "MET_phi"]
EDGE, WIDTH, BRIGHTEST = 5.0, 0.15, 250.0  # largest |eta|; width of an object in eta and phi; GeV
MAX_OBJECTS, CHUNK_PIXELS = 16, 2_000_000  # per collection; drawn at a time


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("event_images.py", __doc__)
    option = parser.add_argument
    option("--files", required=True, metavar="LIST", help="comma-separated list, glob, or text file with one per line")
    option("--labels", required=True, metavar="LIST", help="one label per file: comma-separated list, or text file")
    option("--fout", type=Path, default="hep_images", metavar="DIR", help="folder of the images (default: %(default)s)")
    option("--image_size", type=int, default=64, metavar="N", help="height and width in pixels (default: %(default)s)")
    option("--branch", default="Events", help="name of the tree (default: %(default)s)")
    option("--nevts", type=int, default=-1, metavar="N", help="maximum events per file; -1: all (default: -1)")
    option("--cuts", metavar="EXPR", help="draw only events that pass, as in 'nJet >= 2 & MET_pt > 30' (default: all)")
    console.add_verbose(parser, "1: print tracebacks")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> int:
    """Draw the events of all files; SIGTERM and Ctrl-C stop it."""
    with Callbacks().stop_on_signals():
        return draw_files(args)


def draw_files(args: argparse.Namespace) -> int:
    """Draw the events of all files, and print the number of images of each class."""
    start = time.perf_counter()
    files, labels = read_file_list(args.files), read_labels(args.labels)
    labels = [labels] if isinstance(labels, str) else labels
    check(args, files, labels)
    drawn = common_objects(files, args.branch)
    counts = dict.fromkeys(labels, 0)
    with new_directory(args.fout) as folder:
        for file, label in zip(files, labels, strict=True):
            with open_reader(file, drawn, args) as reader:
                counts[label] = write_images(reader, folder / label, args.image_size, counts[label])
        if empty := [label for label, count in counts.items() if not count]:
            raise ConfigError(f"no event of '{empty[0]}' passes", hint="loosen --cuts, or increase --nevts")
        write_labels(folder / "labels.csv", counts)
    for label, count in counts.items():
        console.print_line(f"{label}: {count:,} images of {args.image_size} x {args.image_size} pixels")
    seconds, images = time.perf_counter() - start, sum(counts.values())
    console.print_line(f"{args.fout}: {images:,} images, {seconds:.2f} sec, {images / seconds:,.0f} events/s")
    return 0


def check(args: argparse.Namespace, files: Sequence[str], labels: Sequence[str]) -> None:
    """Raise ConfigError if an argument is invalid, before any file is read."""
    labels_by_file(labels, files)
    if invalid := [label for label in labels if "/" in label or label.startswith(".")]:
        raise ConfigError(f"label '{invalid[0]}' is not a valid folder name", hint="remove / and a leading .")
    if not args.nevts:
        raise ConfigError("--nevts is 0", hint="use a positive number of events per file, or -1 for all")
    if not 8 <= args.image_size <= 2048:
        raise ConfigError(f"--image_size is {args.image_size}", hint="hep_resnet.py supports 8 to 2048 pixels")
    if args.fout.exists() and not (args.fout.is_dir() and not any(args.fout.iterdir())):
        raise ConfigError(f"{args.fout} already exists", hint="delete it, or choose another folder with --fout")


def common_objects(files: Sequence[str], tree: str) -> list[str]:
    """Return the names of INPUTS and MET that all files have, and print a notice about the others."""
    available = {}
    for file in files:
        with DataReader(file, tree) as reader:
            available[file] = set(reader.available)
    required = INPUTS | {"BJet": ["Jet_btag", *INPUTS["Jet"]], "MET": MET}
    lacking = {name: [f for f in files if not available[f].issuperset(required[name])] for name in required}
    if all(lacking[name] for name in CHANNELS):
        raise BranchNotFound("the files have no objects in common", hint="jets need Jet_pt, Jet_eta and Jet_phi")
    for name in filter(lacking.get, required):
        console.notice(f"{lacking[name][0]} lacks some of {', '.join(required[name])}: {name} is not drawn")
    return [name for name in required if not lacking[name]]


def open_reader(file: str, drawn: Sequence[str], args: argparse.Namespace) -> DataReader:
    """Return a reader of unnormalised values (NaN if missing) of the events that pass the cuts."""
    preproc = {"define": {"BJet_pt": "Jet_pt * max(Jet_btag, 0) ** 2"}} if "BJet" in drawn else {}
    preproc |= {"cut": args.cuts} if args.cuts else {}
    lists = {name: names for name, names in INPUTS.items() if name in drawn}
    return DataReader(
        file, args.branch, nevts=args.nevts, chunk_size=1 + CHUNK_PIXELS // args.image_size**2, normalise="none",
        preproc=preproc_from_json(preproc), extra=MET if "MET" in drawn else (),
        inputs={
            name: {"branches": names, "length": MAX_OBJECTS, "sort": "-" + names[0]} for name, names in lists.items()
        },
    )  # fmt: skip


def write_images(reader: DataReader, folder: Path, size: int, last: int) -> int:
    """Write one image per event, numbered from `last` + 1; return the last number."""
    image = require("PIL.Image", "server", "writing images")
    folder.mkdir(exist_ok=True)
    with console.progress(f"drawing {folder.name}", reader.stop) as bar:
        for chunk in reader:
            for pixels in draw(chunk, size):
                last += 1
                image.fromarray(pixels).save(folder / f"{last:06}.png", compress_level=1)
            bar.advance(len(chunk))
    return last


def write_labels(path: Path, counts: Mapping[str, int]) -> None:
    """Write the labels of all images as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "label"])
        writer.writerows([f"{label}/{n + 1:06}.png", label] for label, count in counts.items() for n in range(count))


def draw(chunk: Chunk, size: int) -> np.ndarray:
    """Return one image per event, uint8 (events, size, size, 3)."""
    channel, pt, eta, phi = objects_of(chunk)
    eta, phi = align(pt, eta, phi)
    centres = (2 * np.arange(size, dtype=np.float32) + 1) / size - 1
    x, y = EDGE * centres - eta[..., None], np.pi * centres - phi[..., None]
    y -= 2 * np.pi * np.round(y / (2 * np.pi))  # the smallest distance in phi
    across = np.exp(-((np.nan_to_num(x) / WIDTH) ** 2) / 2)  # 1 everywhere for objects without eta
    down = np.exp(-((y / WIDTH) ** 2) / 2) * pt[..., None]
    images = np.empty((len(pt), size, size, 3), np.uint8)
    for colour in (RED, GREEN, BLUE):
        total = down[:, channel == colour].swapaxes(1, 2) @ across[:, channel == colour]
        images[..., colour] = np.minimum(255 * np.sqrt(total / BRIGHTEST) + 0.5, 255)
    return images


def objects_of(chunk: Chunk) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the channel of each object, (objects,), and pt, eta and phi, float32 (events, objects).

    pt is 0 for absent objects and for objects with a value that is not finite. The last object is missing ET, with eta
    NaN.
    """
    names = [name for name in CHANNELS if name in chunk.inputs]
    channel = np.repeat([*(CHANNELS[name] for name in names), BLUE], [*(MAX_OBJECTS for name in names), 1])
    met = np.zeros((len(chunk), 1, 3), np.float32)
    if chunk.extra:
        met[:, 0, 0], met[:, 0, 2] = (chunk.extra[name] for name in MET)
    x = np.concatenate([*(chunk.inputs[name] for name in names), met], axis=1)
    present = np.isfinite(x).all(axis=-1) & (x[..., 0] > 0)
    x[~present] = 0
    x[:, -1, 1] = np.nan
    used = present.any(axis=0)
    used[-1] = True  # keep at least one
    pt, eta, phi = np.moveaxis(x[:, used], -1, 0)
    return channel[used], pt, eta, phi


def align(pt: np.ndarray, eta: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotate and mirror events, see the module's docstring; return eta and phi."""
    pt = np.where(np.isnan(eta), 0, pt)
    phi = phi - np.take_along_axis(phi, pt.argmax(axis=1, keepdims=True), axis=1)
    phi -= 2 * np.pi * np.round(phi / (2 * np.pi))
    right, below = (np.nansum(pt * np.sign(place), axis=1, keepdims=True) for place in (eta, phi))
    return eta * np.copysign(1, right), phi * np.copysign(1, below)


if __name__ == "__main__":
    sys.exit(main())
