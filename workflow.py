#!/usr/bin/env python3
"""Train a model on ROOT files, and write a bundle that can be served.

    workflow.py --files=examples/htautau/files.txt --labels=examples/htautau/labels.txt --model=ex_keras.py --fout=model
    workflow.py --files=ggH.root,VBF.root --labels=ggH,VBF --model=ex_pytorch.py --params=params.json
    workflow.py --files=data.root:signal,data.root:background --labels=signal,background
    workflow.py --files=files.txt
    workflow.py --predict=model --files=data.root --fout=scores

Without labels, the model is trained to distinguish the events from copies in which groups of branches are shuffled
among the events (a self-supervised baseline). Results go to stdout, progress and notices to stderr. The exit code is 0
after success, 1 after an error, 143 after SIGTERM and 130 after Ctrl-C (continue with --resume). In Python: from
mlaas4hep import DataGenerator.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep import console

if TYPE_CHECKING:
    from mlaas4hep.backends.protocol import Backend
    from mlaas4hep.config import Params
    from mlaas4hep.stream import DataGenerator
    from mlaas4hep.training.callbacks import Callbacks

__all__ = ["DataGenerator"]

DEFAULT_BUNDLE, DEFAULT_SCORES = "mlaas4hep_model", "scores"
FORMATS = ("root", "rntuple", "parquet")


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
        help="text file with one file or LFN per line, comma-separated list, glob, one data file, or samples file"
        " (.json, .yaml) with labels, cuts and cross sections; files with the tree if it is not 'branch' of the params"
        " (data.root:tree)",
    )
    option(
        "--labels",
        type=str,
        metavar="LIST",
        help="labels: text file with one per line, comma-separated list, or name of a branch (default: those of the"
        " samples, if --files is a samples file)",
    )
    option(
        "--model",
        metavar="FILE",
        help="Python file that defines model(idim), or a folder with a model.py, in the working directory, in models/,"
        " or among the shipped examples; FILE:FUNCTION names another function (default: example for the first"
        " framework that is installed); with --predict, only for a bundle without ONNX graph",
    )
    option(
        "--model-args",
        metavar="JSON",
        help="""keyword arguments of the function of the model file, as in '{"width": 128}' (default: 'model_args' of"""
        " the params)",
    )
    option("--params", metavar="FILE", help="parameters of reading and training (default: params.json if it exists)")
    option("--dtype", metavar="FORMAT", help="ignored: the format of each file is recognised by its content")
    option("--specs", metavar="FILE", help="use this specs.json instead of a first pass over the data")
    option(
        "--preproc",
        metavar="FILE",
        help="new branches and cuts: a JSON file, or a Python file that defines preprocessing(events)",
    )
    option(
        "--predict",
        metavar="BUNDLE",
        help="do not train; score all events with this bundle, and write the scores as friends of the input trees",
    )
    option(
        "--allow-nan", action="store_true", help="write scores that are not finite, too (default: they are an error)"
    )
    option("--format", choices=FORMATS, default="root", help="format of the scores (default: %(default)s)")
    option(
        "--fout",
        metavar="DIR",
        help=f"folder to write the bundle or the scores to (default: {DEFAULT_BUNDLE} or {DEFAULT_SCORES})",
    )
    option(
        "--sign", metavar="KEY",
        help="private Ed25519 key (PEM) to sign the model with, for servers with --trust (default: do not sign)",
    )  # fmt: skip
    option(
        "--threads",
        type=int,
        metavar="N",
        help="number of threads of numerical libraries (default: 'threads' of the"
        " params, or the number of CPUs that the process may use)",
    )
    option("--resume", action="store_true", help="continue from the checkpoint of a stopped run, if it exists")
    console.add_verbose(parser, "1: more messages, and tracebacks")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> int:
    """Train or score, and print the result."""
    from mlaas4hep.training.callbacks import Callbacks

    callbacks = Callbacks()
    with callbacks.stop_on_signals():
        return predict(args) if args.predict else train(args, callbacks)


def train(args: argparse.Namespace, callbacks: Callbacks) -> int:
    """Train, and print the result."""
    args.fout = args.fout or DEFAULT_BUNDLE
    if args.dtype:
        console.notice("--dtype has no effect, because the format of each file is recognised by its content")
    from mlaas4hep.backends.model_file import default_model
    from mlaas4hep.config.training import parse_model_args
    from mlaas4hep.report.terminal import EpochPrinter, print_result
    from mlaas4hep.training import train_model
    from mlaas4hep.training.run import AlreadyTrained

    params = load_params(args.params, args.threads)
    params = params.model_copy(update={"verbose": max(params.verbose, args.verbose)})
    if args.model_args:
        params = params.model_copy(update={"model_args": params.model_args | parse_model_args(args.model_args)})
    model = args.model or default_model()
    if not args.model:
        console.notice(f"no --model: using {model}")

    def on_train_begin(generator: DataGenerator, backend: Backend, fold: int) -> None:
        printer.noun = backend.round_noun
        if fold:
            return
        if generator.labels.uses_shuffled_copies:
            console.notice("no labels: training a self-supervised baseline, events against their shuffled copies")
        if generator.labels.are_files:
            console.notice("no labels: training to distinguish the files; the expected AUC is 0.5 if they are alike")
        print_sample(generator, backend)
        if params.hist:
            plot(generator, params.hist)

    printer = EpochPrinter(params)
    callbacks.on_train_begin, callbacks.on_epoch_end = on_train_begin, printer
    try:
        trained = train_model(
            args.files,
            args.labels or None,
            model,
            params,
            fout=args.fout,
            specs=args.specs,
            preproc=args.preproc,
            callbacks=callbacks,
            resume=args.resume,
            sign=args.sign or "",
        )
    except AlreadyTrained as done:
        console.notice(str(done))
        return 0
    print_result(trained, Path(args.fout))
    return 0


def predict(args: argparse.Namespace) -> int:
    """Score files with a bundle, and print the paths of the scores."""
    from mlaas4hep.errors import ConfigError
    from mlaas4hep.scoring.files import score_files

    invalid = [name for name in ("labels", "specs", "resume", "sign", "model_args") if getattr(args, name)]
    if invalid:
        raise ConfigError(
            f"--{invalid[0].replace('_', '-')} is an option of training, not of --predict", hint="leave it out"
        )
    fout = args.fout or DEFAULT_SCORES
    for path, events, messages in score_files(
        args.predict,
        args.files,
        fout,
        args.format,
        load_params(args.params, args.threads),
        args.preproc,
        allow_nan=args.allow_nan,
        model=args.model,
    ):
        for message in messages:
            console.notice(message)
        console.print_line(f"Scores: {path} ({events} events)")
    return 0


def load_params(path: str | None, threads: int | None = None) -> Params:
    """Return the parameters in a file, in ./params.json, or the defaults; `threads` takes precedence."""
    from mlaas4hep.config import Params

    if path is None and os.path.lexists("params.json") and not os.path.isdir("params.json"):
        path = "params.json"
        console.notice("no --params: using ./params.json")
    params = Params.load(path) if path else Params.parse({})
    if threads is not None:
        threads = Params.parse({"threads": threads}, "the command line", {"threads": "--threads"}).threads
        params = params.model_copy(update={"threads": threads})
    return params


def print_sample(generator: DataGenerator, backend: Backend) -> None:
    """Print the sample and the model."""
    specs, nouns = generator.specs, {"classification": "classes", "multilabel": "labels", "regression": "targets"}
    console.print_line(
        f"Sample: {generator.num_entries} events of {len(generator.sample.files)} files,"
        f" {specs.num_flat} flat and {specs.num_jagged} jagged branches, {generator.layout.width} columns,"
        f" {nouns[generator.params.task]} {', '.join(generator.classes)}"
    )
    if generator.params.inputs:
        console.print_line("Inputs: " + ", ".join(f"{name} {shape}" for name, shape in generator.shapes.items()))
    if generator.sample.fileset.has_names or generator.params.weight:
        print_yields(generator)
    outputs = f"{backend.outputs} output{'s' * (backend.outputs > 1)}"
    console.print_line(f"Model : {backend.framework}, {backend.size()}, {outputs}")


def print_yields(generator: DataGenerator) -> None:
    """Print the yields by sample and class as a table."""
    lumi = generator.params.lumi
    rows = [["sample", "label", "events", "sum of weights" + (f" ({lumi:g}/fb)" if lumi else "")]]
    for one in generator.sample.yields:
        rows.append([one.sample or "all", one.label, str(one.events), f"{one.weighted:.6g} +- {one.error:.3g}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for index, row in enumerate(rows):
        aligned = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.print_line(f"{'        ' if index else 'Yields: '}{aligned}".rstrip())


def plot(generator: DataGenerator, folder: str) -> None:
    """Write histograms of all branches of all files, before and after normalisation."""
    from mlaas4hep.histograms.write import write_histograms
    from mlaas4hep.io.storage.location import output_stems

    for index, stem in enumerate(output_stems(generator.sample.files)):
        with generator.sample.readers.borrow(index) as reader:
            write_histograms(reader, folder, f"{index}_{stem}")
    console.print_line(f"Histograms: {folder}")


if __name__ == "__main__":
    console.exit_with(main())
