#!/usr/bin/env python3
"""Read ROOT files: what is in them, how fast they stream, and specs for later passes.

    reader.py --fin=examples/htautau/ggH.root --info --verbose=1
    reader.py --fin=examples/htautau/ggH.root --branches='Jet_*,MET_pt' --fout=specs.json
    reader.py --fin=root://host//path/file.root --nevts=10000
    reader.py --fin='data/*.root' --workers=2 --fout=specs.json

Results go to stdout, progress and notices to stderr. In Python: from mlaas4hep import DataReader.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep import console

if TYPE_CHECKING:
    from mlaas4hep.reader import DataReader, Specs
    from mlaas4hep.stream.sample import Sample

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
        help="ROOT file: a path, a URL (root://, https://) or an LFN (/store/...); or several of the same branches: a"
        " comma list, a glob ('data/*.root'), or a text file (.txt, .list) with one a line",
    )
    option("--fout", metavar="FILE", help="write the specs (.json) or the vectors (.parquet, .npz, .h5) here")
    option("--nan", type=float, default=float("nan"), help="value written where there is none (default: nan)")
    option("--branch", default="Events", help="name of the tree, with its folders (default: Events)")
    option(
        "--identifier",
        type=str,
        metavar="LIST",
        default="run,luminosityBlock,event",
        help="branches that name an event, never features (default: %(default)s)",
    )
    option(
        "--branches",
        type=str,
        metavar="LIST",
        help="branches to read: names, globs (Jet_*), /regular expressions/, @file (default: all numbers)",
    )
    option("--exclude-branches", type=str, metavar="LIST", help="branches to leave out, in the same forms")
    option(
        "--nevts",
        type=int,
        default=-1,
        help="events to read; -1: all; 0: all, after a first pass over 20,000 (default: -1)",
    )
    option("--chunk-size", type=int, default=10_000, help="events read at a time (default: 10000)")
    option("--specs", metavar="FILE", help="use these specs instead of making a first pass")
    option(
        "--redirector",
        type=str,
        metavar="LIST",
        default="",
        help="where LFNs are asked for, root://host[:port], in turn",
    )
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
    """Open the file, or files, and do what the options ask for."""
    from mlaas4hep.compiled import KERNEL
    from mlaas4hep.files import check_destination

    if args.fout:
        check_destinations(args.fout)
    if args.hists:
        check_destination(os.path.join(args.hists, "histograms.pdf"))
    files = find_files(args.fin)
    if args.fout:
        check_not_read(args.fout, files)
    if args.verbose and KERNEL is None:
        console.notice("without the compiled loops; with a C++ compiler, installing again makes reading faster")
    results = read_one(files[0], args) if len(files) == 1 else read_many(files, args)
    if args.json:
        print(json.dumps(results, indent=1, allow_nan=False))
    return 0


def find_files(text: str) -> list[str]:
    """Return the files that --fin means: one, a comma list, a glob, or what a .txt or .list names, one a line."""
    from mlaas4hep.io.location import is_url, read_file_list

    if os.path.exists(text):
        several = text.endswith((".txt", ".list"))
    elif is_url(text):
        several = "," in text and all(is_url(part.strip()) for part in text.split(","))
    else:
        several = any(sign in text for sign in ",*?[")
    return read_file_list(text) if several else [text]


def read_one(file: str, args: argparse.Namespace) -> dict[str, Any]:
    """Do what is asked for with one file; return what --json says of it."""
    from mlaas4hep.lists import split_list
    from mlaas4hep.reader import DataReader
    from mlaas4hep.reader.export import write_vectors
    from mlaas4hep.reader.losses import losses, not_finite

    with DataReader(
        file,
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
            tell(args, f"Reading {reader.location}")
        if args.verbose > 1:
            tell(args, *reader.features)
        learn(lambda: reader.specs, args)
        results: dict[str, Any] = {"file": reader.location}
        if is_specs(args.fout):
            save(reader.specs, args.fout)
        if args.info:
            results |= describe(reader, args)
        if args.fout and not is_specs(args.fout):
            events = write_vectors(reader, args.fout)
            console.notice(f"vectors of {events} events written to {args.fout}")
            results = {"events": events, **results, "vectors": args.fout}
        elif not args.info and not args.hists:
            results |= stream([reader], reader.stop, args)
        if args.hists:
            results["histograms"] = plot(reader, args.hists)
        for line in (*losses(reader.truncated, reader.skipped, reader.specs), *not_finite(reader.specs)):
            console.notice(line)
    return results


def read_many(files: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Do what is asked for with several files, with one first pass over all; return what --json says of them."""
    from mlaas4hep.errors import ConfigError
    from mlaas4hep.io.location import is_url, shown
    from mlaas4hep.reader.losses import losses

    names = [shown(file) for file in files]
    fin = ",".join(names) if is_url(args.fin) else args.fin
    if args.fout and not is_specs(args.fout):
        raise ConfigError(
            f"--fout={args.fout} is for the vectors of one file, and --fin means {len(files)}:"
            f" {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}",
            hint="name one of them",
        )
    if args.verbose:
        tell(args, *(f"Reading {name}" for name in names))
    made: list[Sample] = []

    def specs() -> Specs:
        made.append(open_sample(files, args))
        return made[0].specs

    learn(specs, args)
    (sample,) = made
    cut: Counter[str] = Counter()
    if args.verbose > 1:
        tell(args, *sample.specs.branches)
    results: dict[str, Any] = {"file": fin, "files": names}
    if is_specs(args.fout):
        save(sample.specs, args.fout)
    if args.info:
        events = sum(reader.num_entries for reader in each(sample, cut))
        with sample.reader(0) as reader:
            results |= describe(reader, args, fin, events)
    elif not args.hists:
        results |= stream(each(sample, cut), sum(sample.entries), args)
    if args.hists:
        readers = enumerate(each(sample, cut))
        pages = [plot(reader, args.hists, f"{index}_{Path(names[index]).stem}") for index, reader in readers]
        results["histograms"] = [path for pair in pages for path in pair]
    for line in (*losses(cut, {}, sample.specs.select(cut)), *sample.losses()):
        console.notice(line)
    sample.close()
    return results


def open_sample(files: list[str], args: argparse.Namespace) -> Sample:
    """Open several files that have the same branches, and learn the specs of all, so many at a time as are workers."""
    from mlaas4hep.config import Params
    from mlaas4hep.stream.sample import Sample

    said = {name: getattr(args, name) for name in Params.model_fields if hasattr(args, name)}
    names = {"selected_branches": args.branches or "", "exclude_branches": args.exclude_branches or "", "cache": False}
    return Sample(files, None, Params.parse({**said, **names}, "the command line"), args.specs, args.preproc)


def each(sample: Sample, cut: Counter[str]) -> Iterator[DataReader]:
    """Lend the reader of each file in turn, and count the values that it cuts off."""
    for index in range(len(sample.files)):
        with sample.reader(index) as reader:
            yield reader
            cut.update(reader.truncated)


def tell(args: argparse.Namespace, *lines: str) -> None:
    """Print what is said on the way; where JSON is wanted, stdout is for that alone."""
    for line in lines:
        print(line, file=sys.stderr if args.json else sys.stdout)


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


def check_not_read(path: str, files: list[str]) -> None:
    """Raise if --fout is one of the files that are read."""
    from mlaas4hep.errors import ConfigError

    if any(os.path.exists(file) and os.path.exists(path) and os.path.samefile(file, path) for file in files):
        raise ConfigError(f"--fout={path} is what is read", hint="name another file with --fout")


def learn(specs_of: Callable[[], Specs], args: argparse.Namespace) -> None:
    """Make the first pass, unless there are specs, and say what it took."""
    (resident, swapped), start = console.memory(), time.perf_counter()
    specs = specs_of()
    seconds = time.perf_counter() - start
    now = console.memory()
    if args.json:
        return
    how = "Specs given" if args.specs else "First pass"
    print(
        f"{how}: {specs.events} events, {seconds:.2f} sec, shape ({specs.width},)"
        f" {specs.num_flat} branches: flat {specs.num_jagged} jagged"
    )
    print(f"VMEM used: {max(now[0] - resident, 0):.1f} (MB) SWAP used: {max(now[1] - swapped, 0):.1f} (MB)")


def save(specs: Specs, path: str) -> None:
    """Write the specs."""
    specs.save(path)
    console.notice(f"specs written to {path}")


def describe(reader: DataReader, args: argparse.Namespace, name: str = "", events: int | None = None) -> dict[str, Any]:
    """Print what is in the file: a table in a terminal, the original's form in a pipe or with --verbose.

    Args:
        name, events: of several files, of which the reader has the specs.

    Returns:
        The same for --json, in place of printing it.
    """
    from mlaas4hep.reader import info

    if args.json:
        return info.as_json(reader, name, events)
    if sys.stdout.isatty() and not args.verbose:
        width = shutil.get_terminal_size().columns
        print(info.as_table(reader, width, "NO_COLOR" not in os.environ, name, events))
    else:
        print(info.as_text(reader, events))
    return {}


def stream(readers: Iterable[DataReader], expected: int, args: argparse.Namespace) -> dict[str, Any]:
    """Turn all events into vectors, and say how fast; return the figures."""
    events = chunks = size = values = width = 0
    start = time.perf_counter()
    with console.progress("reading", expected) as bar:
        for reader in readers:
            width = reader.layout.width
            for chunk in reader:
                events, chunks, size = events + len(chunk), chunks + 1, size + chunk.x.nbytes
                values += int(chunk.mask.sum())
                bar.advance(len(chunk))
    seconds = time.perf_counter() - start
    filled = values / max(events * width, 1)
    rate = events / max(seconds, 1e-9)
    if not args.json:
        print(
            f"Read {events} events, {seconds:.2f} sec, {rate:,.0f} events/s, shape ({events}, {width}) float32"
            f" in {chunks} chunks, {size / 1e6:.1f} MB, {filled:.0%} filled"
        )
    return {"events": events, "seconds": seconds, "events_per_s": rate, "columns": width, "chunks": chunks,
            "bytes": size, "filled": filled}  # fmt: skip


def plot(reader: DataReader, folder: str, name: str = "") -> list[str]:
    """Write the histograms; return where they are."""
    from mlaas4hep.reader.histograms import write_histograms

    paths = write_histograms(reader, folder, name)
    for path in paths:
        console.notice(f"histograms of {len(reader.features)} branches written to {path}")
    return [str(path) for path in paths]


if __name__ == "__main__":
    sys.exit(main())
