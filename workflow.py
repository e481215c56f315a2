#!/usr/bin/env python3
"""Train a model on ROOT files and leave a bundle that can be served.

    workflow.py --files=examples/htautau/files.txt --labels=examples/htautau/labels.txt --model=ex_keras.py --fout=model
    workflow.py --files=ggH.root,VBF.root --labels=ggH,VBF --model=ex_pytorch.py --params=params.json
    workflow.py --files=files.txt
    workflow.py --predict=model --files=data.root --fout=scores

Without labels the model learns to tell the events from copies of themselves whose columns were shuffled. Results go to
stdout, progress and notices to stderr. The exit code is 0, 1 after an error, 143 after SIGTERM and
130 after Ctrl-C (--resume goes on from there). In Python: from mlaas4hep import DataGenerator.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep import console

if TYPE_CHECKING:
    from mlaas4hep.config import Params
    from mlaas4hep.stream import DataGenerator
    from mlaas4hep.training.backend import Backend
    from mlaas4hep.training.loop import Epoch
    from mlaas4hep.training.stopping import Stop

__all__ = ["DataGenerator"]

DEFAULT_BUNDLE, DEFAULT_SCORES = "mlaas4hep_model", "scores"
FORMATS = ("root", "rntuple", "parquet")
ROUNDS = 25
"""Of the rounds of boosted trees beyond the number of epochs, each so-manieth is printed."""


def __getattr__(name: str) -> Any:
    if name == "DataGenerator":
        from mlaas4hep.stream import DataGenerator

        return DataGenerator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("workflow.py", __doc__)
    option = parser.add_argument
    option(
        "--files",
        required=True,
        metavar="LIST",
        help="a text file with one file or LFN a line, a comma list, a glob, or one data file",
    )
    option(
        "--labels",
        type=str,
        metavar="LIST",
        help="one label a file: a text file with one a line, or a comma list; or the name of a branch (default: none)",
    )
    option(
        "--model",
        metavar="FILE",
        help="model file with def model(idim), here or in models/ (default: that of the first framework installed)",
    )
    option("--params", metavar="FILE", help="params.json: how to read and train (default: params.json if it is there)")
    option("--specs", metavar="FILE", help="use these specs instead of making a first pass")
    option("--preproc", metavar="FILE", help="new branches and cuts: a JSON file, or Python with preprocessing(events)")
    option(
        "--predict",
        metavar="BUNDLE",
        help="train nothing: write the scores of a bundle for every event, in files that are friends of the inputs",
    )
    option("--format", choices=FORMATS, default="root", help="of the scores: %(choices)s (default: %(default)s)")
    option(
        "--fout",
        metavar="DIR",
        help=f"folder of the bundle, or of the scores (default: {DEFAULT_BUNDLE}, or {DEFAULT_SCORES})",
    )
    option(
        "--sign", metavar="KEY",
        help="private Ed25519 key (PEM) that signs the model; servers trust it by --trust (default: it is not signed)",
    )  # fmt: skip
    option("--resume", action="store_true", help="go on from the checkpoint of a run that was killed, if there is one")
    console.add_verbose(parser, "1: say more, and keep tracebacks")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> int:
    """Train, or score, and say how it went."""
    from mlaas4hep.training.stopping import Stop

    stop = Stop()
    with stop.by_signals():
        return predict(args) if args.predict else train(args, stop)


def train(args: argparse.Namespace, stop: Stop) -> int:
    """Train, and say how it went."""
    args.fout = args.fout or DEFAULT_BUNDLE
    from mlaas4hep.training import train_model
    from mlaas4hep.training.model_file import default_model
    from mlaas4hep.training.run import AlreadyTrained, Watch
    from mlaas4hep.training.words import print_epoch, print_result

    params = load_params(args.params)
    model = args.model or default_model()
    if not args.model:
        console.notice(f"no --model: taking {model}")
    if not args.labels:
        console.notice("no --labels: the model learns to tell events from copies of themselves with shuffled columns")

    def started(generator: DataGenerator, backend: Backend, fold: int) -> None:
        if fold:
            return
        if len(set(map(os.path.realpath, generator.sample.files))) < len(generator.sample.files):
            console.notice("a file is in the list more than once, and so are its events")
        print_sample(generator, backend)
        if params.hist:
            plot(generator, params.hist)

    def report(epoch: Epoch, best: bool, fold: int) -> None:
        if epoch.epoch <= params.epochs or epoch.epoch % ROUNDS == 0:  # trees have many rounds
            print_epoch(epoch, best, fold if params.kfold else None)

    try:
        trained = train_model(
            args.files,
            args.labels or None,
            model,
            params,
            fout=args.fout,
            specs=args.specs,
            preproc=args.preproc,
            watch=Watch(started, report, args.resume, stop),
            sign=args.sign or "",
        )
    except AlreadyTrained as done:
        console.notice(str(done))
        return 0
    print_result(trained, Path(args.fout))
    return 0


def predict(args: argparse.Namespace) -> int:
    """Write the scores of a bundle, and say where."""
    from mlaas4hep.errors import ConfigError
    from mlaas4hep.training.scoring import score_files

    given = [name for name in ("labels", "model", "specs", "resume", "sign") if getattr(args, name)]
    if given:
        raise ConfigError(f"--{given[0]} is for training, and --predict takes a model that is trained")
    fout = args.fout or DEFAULT_SCORES
    for path, events, lost in score_files(
        args.predict, args.files, fout, args.format, load_params(args.params), args.preproc
    ):
        for line in lost:
            console.notice(line)
        console.say(f"Scores: {path} ({events} events)")
    return 0


def load_params(path: str | None) -> Params:
    """Return the parameters of a file, of ./params.json, or the defaults."""
    from mlaas4hep.config import Params

    if path is None and os.path.lexists("params.json") and not os.path.isdir("params.json"):
        path = "params.json"
        console.notice("no --params: taking params.json of this folder")
    return Params.load(path) if path else Params.parse({})


def print_sample(generator: DataGenerator, backend: Backend) -> None:
    """Print what is trained on what."""
    specs, nouns = generator.specs, {"classification": "classes", "multilabel": "labels", "regression": "targets"}
    console.say(
        f"Sample: {generator.num_entries} events of {len(generator.sample.files)} files,"
        f" {specs.num_flat} flat and {specs.num_jagged} jagged branches, {generator.layout.width} columns,"
        f" {nouns[generator.params.task]} {', '.join(generator.classes)}"
    )
    if generator.params.inputs:
        console.say("Inputs: " + ", ".join(f"{name} {shape}" for name, shape in generator.shapes.items()))
    console.say(f"Model : {backend.framework}, {backend.size()}, {backend.outputs} outputs")


def plot(generator: DataGenerator, folder: str) -> None:
    """Write histograms of every branch of every file before and after normalisation."""
    from mlaas4hep.reader.histograms import write_histograms

    for index, name in enumerate(generator.sample.files):
        with generator.sample.reader(index) as reader:
            write_histograms(reader, folder, f"{index}_{Path(name).stem}")
    print(f"Histograms: {folder}")


if __name__ == "__main__":
    sys.exit(main())
