#!/usr/bin/env python3
"""Read ROOT files: what is in them, how fast they stream, and specs for later passes.

    reader.py --fin=examples/htautau/ggH.root --info --verbose=1
    reader.py --fin=examples/htautau/ggH.root --branches='Jet_*,MET_pt' --fout=specs.json
    reader.py --fin=root://host//path/file.root --nevts=10000

Results go to stdout, progress and notices to stderr. In Python: from mlaas4hep import DataReader.
"""

from __future__ import annotations

import argparse
import os
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
    option("--fout", metavar="FILE", help="write the specs here, as JSON")
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
    option(
        "--hists",
        nargs="?",
        const="hists",
        metavar="DIR",
        help="write histograms of every branch before and after normalisation to DIR (default: hists)",
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
    from mlaas4hep.reader import DataReader
    from mlaas4hep.reader.losses import losses

    def names(text: str | None) -> list[str]:
        return [name.strip() for name in (text or "").split(",") if name.strip()]

    if args.fout and os.path.exists(args.fout):
        check_specs_file(args.fout)
    with DataReader(
        args.fin,
        args.branch,
        names(args.branches),
        names(args.exclude_branches),
        names(args.identifier),
        args.nevts,
        args.chunk_size,
        args.specs,
        args.workers,
        normalise=args.normalise,
        nan=args.nan,
        preproc=args.preproc,
        redirectors=names(args.redirector),
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
        learn(reader, args.specs)
        if args.fout:
            reader.specs.save(args.fout)
            console.notice(f"specs written to {args.fout}")
        if args.info:
            print_info(reader)
        elif not args.hists:
            stream(reader)
        if args.hists:
            plot(reader, args.hists)
        for line in losses(reader.truncated, reader.skipped, reader.specs):
            console.notice(line)
    return 0


def check_specs_file(path: str) -> None:
    """Raise ConfigError unless a file that would be replaced holds specs."""
    from mlaas4hep.errors import ConfigError, MLaaS4HEPError
    from mlaas4hep.reader import Specs

    try:
        Specs.load(path)
    except MLaaS4HEPError as error:
        raise ConfigError(
            f"{path} is there already, and holds no specs", hint="name another file with --fout"
        ) from error


def learn(reader: DataReader, given: str | None) -> None:
    """Make the first pass, unless there are specs, and say what it took."""
    (resident, swapped), start = console.memory(), time.perf_counter()
    specs = reader.specs
    seconds = time.perf_counter() - start
    now = console.memory()
    how = "Specs given" if given else "First pass"
    print(
        f"{how}: {specs.events} events, {seconds:.2f} sec, shape ({specs.width},)"
        f" {specs.num_flat} branches: flat {specs.num_jagged} jagged"
    )
    print(f"VMEM used: {max(now[0] - resident, 0):.1f} (MB) SWAP used: {max(now[1] - swapped, 0):.1f} (MB)")


def print_info(reader: DataReader) -> None:
    """Print what is in the file, in the original's form."""
    from mlaas4hep.io import Kind

    branches = reader.specs.branches
    print(f"Number of events  : {reader.num_entries}")
    for label, jagged in (("# flat branches   ", False), ("# jagged branches ", True)):
        chosen = {name: branch for name, branch in branches.items() if (branch.kind is Kind.JAGGED) == jagged}
        print(f"{label}: {len(chosen)}")
        for name, branch in chosen.items():
            odd = "".join(f", {count} {what}" for what, count in (("NaN", branch.nan), ("inf", branch.inf)) if count)
            seen = f"values in [{branch.minimum}, {branch.maximum}] range" if branch.count else "no values"
            print(f"{name} {seen}, dim={branch.dim}{odd}")
    left_out = [column for column in reader.available.values() if column.kind is Kind.OTHER]
    if left_out:
        print(f"# left out        : {len(left_out)}")
        for column in left_out:
            print(f"{column.name} {column.reason}")


def stream(reader: DataReader) -> None:
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
    print(
        f"Read {events} events, {seconds:.2f} sec, {events / max(seconds, 1e-9):,.0f} events/s,"
        f" shape ({events}, {reader.layout.width}) float32 in {chunks} chunks, {size / 1e6:.1f} MB, {filled:.0%} filled"
    )


def plot(reader: DataReader, folder: str) -> None:
    """Write the histograms."""
    from pathlib import Path

    from mlaas4hep.reader.histograms import write_histograms

    path = Path(folder) / f"{Path(reader.location).stem}.pdf"
    write_histograms(reader, path)
    print(f"Histograms of {len(reader.features)} branches: {path}")


if __name__ == "__main__":
    sys.exit(main())
