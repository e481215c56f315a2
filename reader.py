#!/usr/bin/env python3
"""Read ROOT files: what is in them, how fast they stream, and specs for later passes.

    reader.py --fin=examples/htautau/ggH.root --info --verbose=1
    reader.py --fin=examples/htautau/ggH.root --branches='Jet_*,MET_pt' --fout=specs.json
    reader.py --fin=root://host//path/file.root --nevts=10000

Results go to stdout, progress and notices to stderr. In Python: from mlaas4hep import DataReader.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from mlaas4hep import console

if TYPE_CHECKING:
    from mlaas4hep.reader import DataReader

__all__ = ["DataReader"]


def __getattr__(name: str) -> Any:
    if name == "DataReader":
        from mlaas4hep.reader import DataReader

        return DataReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("reader.py", __doc__)
    option = parser.add_argument
    option(
        "--fin",
        required=True,
        metavar="FILE",
        help="ROOT file: a path, a URL (root://, https://) or an LFN (/store/...)",
    )
    option("--fout", metavar="FILE", help="write the specs (.json) or the vectors (.parquet, .npz, .h5) here")
    option("--nan", type=float, default=float("nan"), help="value written where there is none (default: nan)")
    option("--branch", default="Events", help="name of the tree, with its folders (default: Events)")
    option(
        "--identifier",
        metavar="LIST",
        default="run,luminosityBlock,event",
        help="branches that name an event, never features (default: %(default)s)",
    )
    option(
        "--branches",
        metavar="LIST",
        help="branches to read: names, globs (Jet_*), /regular expressions/, @file (default: all numbers)",
    )
    option("--exclude-branches", metavar="LIST", help="branches to leave out, in the same forms")
    option(
        "--nevts",
        type=int,
        default=-1,
        help="events to read; -1: all; 0: all, after a first pass over 20,000 (default: -1)",
    )
    option("--chunk-size", type=int, default=10_000, help="events read at a time (default: 10000)")
    option("--specs", metavar="FILE", help="use these specs instead of making a first pass")
    option("--redirector", metavar="LIST", default="", help="where LFNs are asked for, root://host[:port], in turn")
    option("--info", action="store_true", help="print what is in the file and stop")
    option("--json", action="store_true", help="print JSON, and nothing else, on stdout")
    option(
        "--hists",
        nargs="?",
        const="hists",
        metavar="DIR",
        help="write a PDF and a web page of every branch before and after normalisation to DIR (default: hists)",
    )
    option("--preproc", metavar="FILE", help="new branches and cuts: a JSON file, or Python with preprocessing(events)")
    option(
        "--normalise",
        default="auto",
        metavar="HOW",
        help="auto, standard, minmax or none; others for some branches: auto,Jet_*=standard (default: auto)",
    )
    option("--workers", type=int, default=1, help="threads that read, a block of events each (default: 1)")
    option("--timeout", type=float, default=60.0, help="seconds that a server may take to answer (default: 60)")
    option("--retries", type=int, default=4, help="attempts after a server failed, with growing pauses (default: 4)")
    option("--on-error", default="raise", metavar="HOW", help="damage: raise, or skip the clusters (default: raise)")
    console.add_verbose(parser, "1: say more, and keep tracebacks; 2: list the branches that are read")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> int:
    """Open the file and do what the options ask for."""
    from mlaas4hep.compiled import KERNEL
    from mlaas4hep.files import check_destination
    from mlaas4hep.lists import split_list
    from mlaas4hep.reader import DataReader
    from mlaas4hep.reader.export import write_vectors
    from mlaas4hep.reader.losses import losses

    if args.fout:
        check_destinations(args.fout)
    if args.hists:
        check_destination(os.path.join(args.hists, "histograms.pdf"))
    with DataReader(
        args.fin,
        args.branch,
        split_list(args.branches or ""),
        split_list(args.exclude_branches or ""),
        split_list(args.identifier),
        args.nevts,
        args.chunk_size,
        args.specs,
        args.workers,
        normalise=args.normalise,
        nan=args.nan,
        preproc=args.preproc,
        redirectors=split_list(args.redirector),
        timeout=args.timeout,
        retries=args.retries,
        on_error=args.on_error,
    ) as reader:
        if args.verbose:
            print(f"Reading {reader.location}")
        if args.verbose and KERNEL is None:
            console.notice("without the compiled loops; with a C++ compiler, installing again makes reading faster")
        if args.verbose > 1:
            print("\n".join(reader.features))
        for line in learn(reader, args.specs):
            if not args.json:
                print(line)
        if is_specs(args.fout):
            reader.specs.save(args.fout)
            console.notice(f"specs written to {args.fout}")
        if args.info:
            print_info(reader, args)
        if args.fout and not is_specs(args.fout):
            events = write_vectors(reader, args.fout)
            console.notice(f"vectors of {events} events written to {args.fout}")
            if args.json and not args.info:
                print(json.dumps({"file": reader.location, "events": events, "vectors": args.fout}, indent=1))
        elif not args.info and not args.hists:
            stream(reader, args.json)
        if args.hists:
            plot(reader, args.hists)
        for line in losses(reader.truncated, reader.skipped, reader.specs):
            console.notice(line)
    return 0


def is_specs(path: str | None) -> bool:
    """Tell whether --fout is for specs, and not for vectors."""
    return bool(path) and str(path).endswith(".json")


def check_destinations(path: str) -> None:
    """Raise unless --fout can be written, and holds nothing else that would be replaced."""
    from mlaas4hep.errors import ConfigError, MLaaS4HEPError
    from mlaas4hep.files import check_destination
    from mlaas4hep.reader import Specs
    from mlaas4hep.reader.export import check_vector_file

    if not is_specs(path):
        check_vector_file(path)
        return
    check_destination(path)
    if os.path.exists(path):
        try:
            Specs.load(path)
        except MLaaS4HEPError as error:
            raise ConfigError(
                f"{path} is there already, and holds no specs", hint="name another file with --fout"
            ) from error


def learn(reader: DataReader, given: str | None) -> list[str]:
    """Make the first pass, unless there are specs; return lines that say what it took."""
    (resident, swapped), start = console.memory(), time.perf_counter()
    specs = reader.specs
    seconds = time.perf_counter() - start
    now = console.memory()
    how = "Specs given" if given else "First pass"
    return [
        f"{how}: {specs.events} events, {seconds:.2f} sec, shape ({specs.width},)"
        f" {specs.num_flat} branches: flat {specs.num_jagged} jagged",
        f"VMEM used: {max(now[0] - resident, 0):.1f} (MB) SWAP used: {max(now[1] - swapped, 0):.1f} (MB)",
    ]


def print_info(reader: DataReader, args: argparse.Namespace) -> None:
    """Print what is in the file: a table in a terminal, the original's form in a pipe or with --verbose, or JSON."""
    from mlaas4hep.reader import info

    if args.json:
        print(json.dumps(info.as_json(reader), indent=1, allow_nan=False))
    elif sys.stdout.isatty() and not args.verbose:
        print(info.as_table(reader, shutil.get_terminal_size().columns, "NO_COLOR" not in os.environ))
    else:
        print(info.as_text(reader))


def stream(reader: DataReader, as_json: bool) -> None:
    """Turn all events into vectors, and say how fast."""
    events = chunks = size = values = 0
    start = time.perf_counter()
    with console.progress("reading", reader.stop) as bar:
        for chunk in reader:
            events, chunks, size = events + len(chunk), chunks + 1, size + chunk.x.nbytes
            values += int(chunk.mask.sum())
            bar.advance(len(chunk))
    seconds = time.perf_counter() - start
    filled = values / max(events * reader.layout.width, 1)
    rate = events / max(seconds, 1e-9)
    if as_json:
        figures = {"file": reader.location, "events": events, "seconds": seconds, "events_per_s": rate,
                   "columns": reader.layout.width, "chunks": chunks, "bytes": size, "filled": filled}  # fmt: skip
        print(json.dumps(figures, indent=1))
        return
    print(
        f"Read {events} events, {seconds:.2f} sec, {rate:,.0f} events/s,"
        f" shape ({events}, {reader.layout.width}) float32 in {chunks} chunks, {size / 1e6:.1f} MB, {filled:.0%} filled"
    )


def plot(reader: DataReader, folder: str) -> None:
    """Write the histograms."""
    from mlaas4hep.reader.histograms import write_histograms

    for path in write_histograms(reader, folder):
        console.notice(f"histograms of {len(reader.features)} branches written to {path}")


if __name__ == "__main__":
    sys.exit(main())
