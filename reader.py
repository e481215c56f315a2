#!/usr/bin/env python3
"""Read ROOT files: print their content, stream events as vectors, or write specs or vectors.

    reader.py --fin=examples/htautau/ggH.root --info --verbose=1
    reader.py --fin=examples/htautau/ggH.root --branches='Jet_*,MET_pt' --fout=specs.json
    reader.py --fin=root://host//path/file.root:folder/tree --nevts=10000
    reader.py --fin='data/*.root' --workers=2 --fout=specs.json
    reader.py --fin='data/*.root' --check-duplicates

Results go to stdout, progress and notices to stderr. The exit code is 0 after success, 1 after an error, and 3 if
--check-duplicates has found duplicate events. In Python: from mlaas4hep import DataReader.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep import console
from mlaas4hep.comma_lists import abbreviated
from mlaas4hep.errors import printable

if TYPE_CHECKING:
    from mlaas4hep.reader import DataReader, Specs
    from mlaas4hep.samples.fileset import Fileset
    from mlaas4hep.samples.readers import SampleReaders
    from mlaas4hep.samples.survey import Survey

__all__ = ["DataReader"]

DUPLICATES_FOUND = 3
"""Exit code of --check-duplicates if events occur more than once."""


def __getattr__(name: str) -> Any:
    if name == "DataReader":
        from mlaas4hep.reader import DataReader

        return DataReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    from mlaas4hep.config import FilesParams
    from mlaas4hep.config.flags import add_flags

    parser = console.Parser("reader.py", __doc__)
    option = parser.add_argument
    option(
        "--fin",
        required=True,
        metavar="FILE",
        help="ROOT file: a path, a URL (root://, https://) or an LFN (/store/...), with the tree if it is not --branch"
        " (data.root:tree); or several files with the same branches: a comma-separated list, a glob ('data/*.root'), a"
        " text file (.txt, .list) with one file per line, or a samples file (.json, .yaml)",
    )
    option("--fout", metavar="FILE", help="file to write the specs (.json) or the vectors (.parquet, .npz, .h5) to")
    option("--nan", type=float, default=float("nan"), help="value of padding and missing values (default: nan)")
    option("--specs", metavar="FILE", help="use these specs instead of making a first pass")
    add_flags(parser, FilesParams)
    option("--info", action="store_true", help="print the content of the files and stop")
    option("--json", action="store_true", help="print a single JSON object and nothing else to stdout")
    option(
        "--hists",
        nargs="?",
        const="hists",
        metavar="DIR",
        help="write histograms of every branch before and after normalisation to DIR, as a PDF and a web page"
        " (default: no histograms; without DIR: hists)",
    )
    option(
        "--preproc",
        metavar="FILE",
        help="new branches and cuts: a JSON file, or a Python file that defines preprocessing(events)",
    )
    option(
        "--check-duplicates",
        action="store_true",
        help="count the events that occur more than once in the files, by their identifiers, and stop; the exit code is"
        f" {DUPLICATES_FOUND} if there are any",
    )
    console.add_verbose(parser, "1: print more, and tracebacks of errors; 2: also list the branches that are read")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> int:
    """Read the files as the options say."""
    from mlaas4hep.compiled import KERNEL
    from mlaas4hep.files import check_writable

    if args.check_duplicates:
        return check_duplicates(args)
    if args.fout:
        check_destinations(args.fout)
    if args.hists:
        check_writable(os.path.join(args.hists, "histograms.pdf"))
    fileset = find_files(args.fin)
    if args.fout:
        check_not_read(args.fout, fileset.files)
    if args.verbose and KERNEL is None:
        console.notice("the compiled loops are missing, so reading is slow; install again with a C++ compiler")
    results = read_files(fileset, args)
    if args.json:
        print(json.dumps(results, indent=1, allow_nan=False))
    return 0


def find_files(text: str) -> Fileset:
    """Return the files that --fin names: one, a comma-separated list, a glob, a .txt or .list file, a samples file."""
    from mlaas4hep.config.samples import is_samples_file
    from mlaas4hep.io.storage.location import is_url
    from mlaas4hep.samples.fileset import Fileset

    if os.path.exists(text):
        several = text.endswith((".txt", ".list")) or is_samples_file(text)
    elif is_url(text):
        several = "," in text and all(is_url(part.strip()) for part in text.split(","))
    else:
        several = any(sign in text for sign in ",*?[")
    return Fileset.of(text) if several else Fileset.of_names([text])


def read_files(fileset: Fileset, args: argparse.Namespace) -> dict[str, Any]:
    """Make a first pass over all files, then print and write the requested results; return the output of --json."""
    from mlaas4hep.errors import ConfigError
    from mlaas4hep.io.storage.location import is_url, output_stems, redacted
    from mlaas4hep.reader.data_notices import dropped_data_notices, non_finite_notices
    from mlaas4hep.reader.export import write_vectors
    from mlaas4hep.samples.bad_files import left_out_notices

    count, vectors = len(fileset.files), bool(args.fout) and not is_specs(args.fout)
    if vectors and count > 1:
        raise ConfigError(
            f"--fout={args.fout} takes the vectors of one file, but --fin={args.fin} names {count}:"
            f" {abbreviated(list(map(redacted, fileset.files)), 3)}",
            hint="name one of them",
        )
    with closing(open_files(fileset, args)) as readers:
        if args.verbose:
            locations = map(redacted, fileset.files)
            if count == 1:
                with readers.borrow(0) as reader:
                    locations = iter([reader.location])
            print_lines(args, *(f"Reading {location}" for location in locations))
        found = make_first_pass(readers, args)
        specs, names = found.specs, [redacted(file) for file in readers.files]
        truncated: Counter[str] = Counter()
        if args.verbose > 1:
            print_lines(args, *specs.branches)
        if count > 1:
            results: dict[str, Any] = {"file": ",".join(names) if is_url(args.fin) else args.fin, "files": names}
        else:
            with readers.borrow(0) as reader:
                results = {"file": reader.location}
        if found.left_out:
            results["left_out"] = {redacted(file.name): file.reason for file in found.left_out}
        if is_specs(args.fout):
            write_specs(specs, args.fout)
            write_skipped(fileset, found, args.fout)
        if args.info:
            sizes, trees = zip(*readers.map(lambda reader: (reader.num_entries, reader.options.branch), 1), strict=True)
            with readers.borrow(0) as reader:
                results |= describe(reader, args, results["file"], sum(sizes))
            if args.json:
                results["tree"] = ",".join(dict.fromkeys(trees))
        if vectors:
            with readers.borrow(0) as reader:
                events = write_vectors(reader, args.fout)
                truncated.update(reader.truncated)
            console.notice(f"vectors of {events} events written to {args.fout}")
            results = {"events": events, **results, "vectors": args.fout}
        elif not args.info and not args.hists:
            results |= stream(borrow_all(readers, truncated), sum(found.entries), args)
        if args.hists:
            titles = [""] if count == 1 else [f"{i}_{stem}" for i, stem in enumerate(output_stems(readers.files))]
            borrowed = zip(borrow_all(readers, truncated), titles, strict=True)
            pages = [plot(reader, args.hists, title) for reader, title in borrowed]
            results["histograms"] = [path for pair in pages for path in pair]
        missing = dropped_data_notices(truncated, readers.skipped, specs)
        for line in (*left_out_notices(found.left_out), *missing, *non_finite_notices(specs)):
            console.notice(line)
    return results


def check_duplicates(args: argparse.Namespace) -> int:
    """Print which events occur more than once in the files; return the exit code."""
    from mlaas4hep.config import FilesParams
    from mlaas4hep.config.flags import parse_flags
    from mlaas4hep.duplicates.description import as_json, as_text
    from mlaas4hep.duplicates.search import find_duplicates
    from mlaas4hep.errors import ConfigError
    from mlaas4hep.expressions.preproc_file import load_preproc

    given = [f"--{name}" for name in ("fout", "specs", "info", "hists") if getattr(args, name)]
    if given:
        raise ConfigError(f"--check-duplicates cannot be combined with {given[0]}", hint="run reader.py twice")
    preproc = load_preproc(args.preproc) if args.preproc else None
    start = time.perf_counter()
    found = find_duplicates(find_files(args.fin), parse_flags(args, FilesParams), preproc)
    seconds = time.perf_counter() - start
    for line in found.notices:
        console.notice(line)
    if args.json:
        rate = found.events / max(seconds, 1e-9)
        print(json.dumps({**as_json(found), "seconds": seconds, "events_per_s": rate}, indent=1, allow_nan=False))
    else:
        print(as_text(found, shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize))
        print(f"Read {found.events} events, {seconds:.2f} sec, {found.events / max(seconds, 1e-9):,.0f} events/s")
    return DUPLICATES_FOUND if found.pairs else 0


def open_files(fileset: Fileset, args: argparse.Namespace) -> SampleReaders:
    """Return readers of the files with the options of the command line."""
    from mlaas4hep.config import FilesParams
    from mlaas4hep.config.flags import parse_flags
    from mlaas4hep.expressions.preproc_file import load_preproc
    from mlaas4hep.reader import ReadOptions, Specs
    from mlaas4hep.samples.input_files import input_files
    from mlaas4hep.samples.readers import SampleReaders

    params, count = parse_flags(args, FilesParams), len(fileset.files)
    options = ReadOptions.parse(
        {
            **params.reading(),
            "nan": args.nan,
            "preproc": load_preproc(args.preproc) if args.preproc else None,
            "exclude_missing": count > 1,
            "optional_branches": count > 1 and params.missing_branches != "error",
            "require_features": not args.info or bool(args.fout or args.hists),
            "workers": max(params.workers // count, 1),
        }
    )
    return SampleReaders(input_files(fileset, options), Specs.load(args.specs) if args.specs else None)


def borrow_all(readers: SampleReaders, truncated: Counter[str]) -> Iterator[DataReader]:
    """Yield the reader of each file in turn, and add up the numbers of values that its vectors dropped."""
    for index in range(len(readers.files)):
        with readers.borrow(index) as reader:
            yield reader
            truncated.update(reader.truncated)


def print_lines(args: argparse.Namespace, *lines: str) -> None:
    """Print lines to stdout, or to stderr if --json reserves stdout."""
    for line in lines:
        print(printable(line), file=sys.stderr if args.json else sys.stdout)


def is_specs(path: str | None) -> bool:
    """Return whether --fout is for specs rather than vectors."""
    return bool(path) and str(path).endswith(".json")


def check_destinations(path: str) -> None:
    """Raise an error if --fout cannot be written, or would replace a file of another kind."""
    from mlaas4hep.errors import MLaaS4HEPError
    from mlaas4hep.files import check_replaceable, check_writable
    from mlaas4hep.reader import Specs
    from mlaas4hep.reader.export import check_vector_file

    def has_specs(file: Path) -> bool:
        try:
            Specs.load(str(file))
        except MLaaS4HEPError:
            return False
        return True

    if not is_specs(path):
        check_vector_file(path)
        return
    check_writable(path)
    check_replaceable(path, has_specs, "specs", "name another file with --fout")


def check_not_read(path: str, files: Iterable[str]) -> None:
    """Raise an error if --fout is one of the files to read."""
    from mlaas4hep.errors import ConfigError

    if any(os.path.exists(file) and os.path.exists(path) and os.path.samefile(file, path) for file in files):
        raise ConfigError(f"--fout={path} is one of the files to read", hint="name another file with --fout")


def make_first_pass(readers: SampleReaders, args: argparse.Namespace) -> Survey:
    """Make the first pass, unless specs are given, and print its time and memory; return the survey of all files."""
    from mlaas4hep.samples.survey import survey

    (resident, swapped), start = console.process_memory(), time.perf_counter()
    found = survey(readers, args.workers, readers.options.exclude_branches, args.verbose > 0)
    seconds = time.perf_counter() - start
    readers.set_specs(found.specs, found.origins)
    specs, now = found.specs, console.process_memory()
    if not args.json:
        how = "Specs given" if args.specs else "First pass"
        print(
            f"{how}: {specs.events} events, {seconds:.2f} sec, shape ({specs.width},)"
            f" {specs.num_flat} branches: flat {specs.num_jagged} jagged"
        )
        print(f"VMEM used: {max(now[0] - resident, 0):.1f} (MB) SWAP used: {max(now[1] - swapped, 0):.1f} (MB)")
    return found


def write_specs(specs: Specs, path: str) -> None:
    """Write the specs."""
    specs.save(path)
    console.notice(f"specs written to {path}")


def write_skipped(fileset: Fileset, found: Survey, fout: str) -> None:
    """Write the files that were left out to a samples file next to the specs."""
    from mlaas4hep.files import check_replaceable
    from mlaas4hep.samples.skipped_file import is_skipped_file, skipped_samples, write_skipped_file

    path = Path(fout).with_suffix(".skipped.json")
    if found.left_out or is_skipped_file(path):
        check_replaceable(path, is_skipped_file, "files that were left out", "move it, or name another --fout")
        write_skipped_file(path, skipped_samples(fileset, found.left_out))
    if found.left_out:
        console.notice(f"files that were left out: {path}; --fin={path} tries them again")


def describe(reader: DataReader, args: argparse.Namespace, name: str = "", events: int | None = None) -> dict[str, Any]:
    """Print the content of a file: a table in a terminal, the format of the original in a pipe or with --verbose.

    Args:
        name, events: name and number of events of several files, whose specs the reader has.

    Returns:
        The content for --json, which is not printed here; otherwise {}.
    """
    from mlaas4hep.reader import info

    if reader.unread_friends:
        console.notice(reader.unread_friends)
    if args.json:
        return info.as_json(reader, name, events)
    if sys.stdout.isatty() and not args.verbose:
        width = shutil.get_terminal_size().columns
        print(info.as_table(reader, width, "NO_COLOR" not in os.environ, name, events))
    else:
        print(info.as_text(reader, events))
    return {}


def stream(readers: Iterable[DataReader], expected: int, args: argparse.Namespace) -> dict[str, Any]:
    """Read all events as vectors and print the rate; return the figures for --json."""
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
    """Write the histograms of a file; return their paths."""
    from mlaas4hep.histograms.write import write_histograms

    paths = write_histograms(reader, folder, name)
    for path in paths:
        console.notice(f"histograms of {len(reader.features)} branches written to {path}")
    return [str(path) for path in paths]


if __name__ == "__main__":
    console.exit_with(main())
