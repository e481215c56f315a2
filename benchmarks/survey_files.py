#!/usr/bin/env python3
"""Compare the numbers that MLaaS4HEP, uproot and ROOT read from public ROOT files.

    python benchmarks/survey_files.py FOLDER ...                          # every .root file below the folders
    python benchmarks/survey_files.py FOLDER ... --root=PATH/python       # ROOT decides where the two differ
    python benchmarks/survey_files.py FOLDER ... --json=survey.json       # columns that are not equal, with reasons

Every numeric column of all trees and RNTuples is compared with uproot's array of the same branch: the number of values
per event, and the bits of the values. If they differ, a Python interpreter with ROOT reads the same branch, and the
table says which of the two ROOT agrees with. Files of scikit-hep-testdata come with its
releases up to 0.3.12 (`pip download --no-deps scikit-hep-testdata==0.3.12`, unzip); coffea, root_numpy, rootpy, pybes3,
uproot_custom and km3net_testdata contain files in their source distributions, and ROOT in its tutorials.

Each file is read in a separate process, so that a crash or an endless loop is one line of the table.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from mlaas4hep.io import Jagged, Kind, open_source

SECONDS = 300
"""Timeout per file."""

ENTRIES = 20_000
"""Maximum number of events per tree that are compared."""
TREES = ("TTree", "TNtuple", "TNtupleD", "TChain", "ROOT::RNTuple", "ROOT::Experimental::RNTuple")

EQUAL, NORMALISED, PACKED = "equal", "equal, bool bytes as 0 or 1", "equal to 1e-6 (packed reals)"
DIFFERENT, UNREADABLE = "different", "unreadable here"
LEFT_OUT, NO_PEER = "left out", "unreadable in uproot"


@dataclass(frozen=True)
class Finding:
    """Result of the comparison of a column.

    Attributes:
        file, tree, column: their names; tree and column are empty if the whole file or tree cannot be read.
        verdict: one of the constants above.
        reason: the reason, if the verdict is not EQUAL.
        numeric_in_uproot: whether uproot reads numbers, or lists of them, from a column that is left out here.
        root: which values ROOT agrees with, if they differ.
    """

    file: str
    tree: str
    column: str
    verdict: str
    reason: str = ""
    numeric_in_uproot: bool = False
    root: str = ""


@dataclass(frozen=True)
class Flat:
    """Values of a column in the same form for both readers: counts per event, and all values flattened."""

    counts: np.ndarray
    values: np.ndarray


def survey(path: Path, name: str, spill: Path) -> Iterator[Finding]:
    """Compare every column of a file. Write values that differ to .npz files in `spill`."""
    try:
        with uproot.open(path) as file:
            kinds = {key: kind for key, kind in file.classnames(cycle=False).items() if kind in TREES}
    except Exception as error:
        yield Finding(name, "", "", NO_PEER, error_summary(error))
        return
    for tree in kinds:
        try:
            source = open_source(str(path), tree)
        except Exception as error:
            yield Finding(name, tree, "", UNREADABLE, error_summary(error))
            continue
        with source:
            yield from compare_tree(source, path, name, tree, spill)


def compare_tree(source: Any, path: Path, name: str, tree: str, spill: Path) -> Iterator[Finding]:
    """Compare every column of a tree."""
    with uproot.open(path) as file:
        try:
            peer = file[tree]
        except Exception as error:
            yield Finding(name, tree, "", NO_PEER, error_summary(error))
            return
        branches: dict[str, Any] = {}
        for key, branch in peer.iteritems(recursive=True, full_paths=True):
            branches.setdefault(key, branch)  # ROOT uses the first of several branches with the same name
        stop = min(source.num_entries, ENTRIES)
        arrays = Arrays(peer, branches, stop)
        readable = [column.name for column in source.columns.values() if column.kind is not Kind.OTHER]
        try:
            values = dict(source.read(readable, 0, stop))
        except Exception:  # read column by column, to find those that fail
            values = {}
        for column in source.columns.values():
            finding = Finding(name, tree, column.name, EQUAL)
            yield compare_column(source, column, values.pop(column.name, None), arrays, stop, finding, spill)


@dataclass(frozen=True)
class Arrays:
    """uproot's arrays of one tree or RNTuple."""

    peer: Any
    branches: dict[str, Any]
    stop: int

    @cached_property
    def of_rntuple(self) -> Any:
        """All fields, read in one call, because reading them one by one takes minutes."""
        return self.peer.arrays(entry_stop=self.stop)

    def array(self, name: str) -> Any:
        """Return the array of a column."""
        if hasattr(self.peer, "ntuple"):
            array, fields = self.of_rntuple, name.split(".")
        else:
            branch, fields = find(self.branches, name)
            array = branch.array(entry_stop=self.stop)
        for field in fields:
            array = array[field]
        return array

    def is_numeric(self, name: str) -> bool:
        """Return whether a column holds only numbers or lists of numbers."""
        try:
            kind = self.array(name).type.content
            while isinstance(kind, (ak.types.ListType, ak.types.RegularType)):
                kind = kind.content
            return isinstance(kind, ak.types.NumpyType) and not kind.parameters
        except Exception:
            return False


def compare_column(
    source: Any, column: Any, values: Any, arrays: Arrays, stop: int, finding: Finding, spill: Path
) -> Finding:
    """Compare one column with uproot's array; `values` are its values if already read, else None."""
    if column.kind is Kind.OTHER:
        numeric = arrays.is_numeric(column.name)
        return change(finding, verdict=LEFT_OUT, reason=column.reason, numeric_in_uproot=numeric)
    try:
        ours = of_source(source.read([column.name], 0, stop)[column.name] if values is None else values)
    except Exception as error:
        return change(finding, verdict=UNREADABLE, reason=error_summary(error))
    try:
        theirs = of_uproot(arrays.array(column.name))
    except Exception as error:
        return change(finding, verdict=NO_PEER, reason=error_summary(error))
    verdict, reason = compare(ours, theirs)
    if verdict is DIFFERENT:
        number = len(list(spill.glob("*.npz")))
        np.savez(
            spill / f"{abs(hash((finding.file, finding.tree, finding.column)))}-{number}.npz",
            where=json.dumps(asdict(finding)),
            ours_counts=ours.counts,
            ours_values=ours.values,
            theirs_counts=theirs.counts,
            theirs_values=theirs.values,
        )
    return change(finding, verdict=verdict, reason=reason)


def change(finding: Finding, **fields: Any) -> Finding:
    return Finding(**{**asdict(finding), **fields})


def of_source(values: Any) -> Flat:
    if isinstance(values, Jagged):
        return Flat(values.counts, values.content)
    return Flat(np.full(len(values), values[:1].size, np.int64), values.reshape(-1))


def of_uproot(array: Any) -> Flat:
    values = ak.to_numpy(ak.flatten(array, axis=None), allow_missing=False)
    counts = np.ones(len(array), np.int64)
    if array.ndim > 1:
        inner = array
        while inner.ndim > 2:
            inner = ak.flatten(inner, axis=2)
        counts = ak.to_numpy(ak.num(inner, axis=1))
    return Flat(counts, values)


def find(branches: dict[str, Any], name: str) -> tuple[Any, list[str]]:
    """Return the branch of a column, and the path of fields in its record."""
    path, fields = name, []
    while path not in branches:
        path, dot, field = path.rpartition(".")
        if not dot:
            raise KeyError(name)
        fields.insert(0, field)
    return branches[path], fields


def compare(ours: Flat, theirs: Flat) -> tuple[str, str]:
    if not np.array_equal(ours.counts, theirs.counts):
        return DIFFERENT, f"{ours.counts.sum()} values here, {theirs.counts.sum()} in uproot"
    mine, other = ours.values, theirs.values
    if mine.dtype != other.dtype.newbyteorder("="):
        if np.array_equal(mine.astype(float), other.astype(float), equal_nan=True):
            return EQUAL, ""
        return DIFFERENT, f"{mine.dtype} here, {other.dtype} in uproot"
    other = other.astype(mine.dtype, copy=False)
    if mine.tobytes() == other.tobytes():
        return EQUAL, ""
    if mine.dtype == bool and np.array_equal(mine.view(np.uint8), (other.view(np.uint8) != 0).view(np.uint8)):
        return NORMALISED, "uproot has the stored bytes"
    if mine.dtype.kind == "f" and np.allclose(mine, other, rtol=1e-6, atol=1e-6, equal_nan=True):
        return PACKED, ""
    wrong = int(np.count_nonzero(mine != other))
    return DIFFERENT, f"{wrong} of {len(mine)} values"


def error_summary(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def run_apart(path: Path, name: str, spill: Path) -> list[Finding]:
    """Survey a file in a separate process."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        sender.send([asdict(finding) for finding in survey(path, name, spill)])

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    sender.close()
    try:
        if receiver.poll(SECONDS):
            return [Finding(**fields) for fields in receiver.recv()]
        reason = f"no end within {SECONDS} s"
    except EOFError:
        process.join()
        reason = f"the process ended with code {process.exitcode}"
    finally:
        process.kill()
        process.join()
    return [Finding(name, "", "", UNREADABLE, reason)]


ROOT_SCRIPT = """
import json, re, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, ROOT
ROOT.gErrorIgnoreLevel = ROOT.kFatal
for line in sys.stdin:
    job = json.loads(line)
    try:
        with np.load(job["npz"]) as stored:
            sides = {
                who: (stored[who + "_counts"], stored[who + "_values"].astype(float)) for who in ("ours", "theirs")
            }
        file = ROOT.TFile.Open(job["path"])
        tree = file.Get(job["tree"])
        stop = len(sides["ours"][0])
        column = re.sub(r"(\\[\\d*\\])+$", "", job["column"].rpartition("/")[2])
        tree.SetEstimate(-1)
        size = max(len(values) for _, values in sides.values())
        tree.SetEstimate(10 * size + stop + 1)
        count = tree.Draw(column + ":Entry$", "", "goff para", stop, 0)
        if count < 0:
            raise ValueError("ROOT cannot draw it")
        values = np.array([tree.GetVal(0)[i] for i in range(count)])
        entries = np.array([tree.GetVal(1)[i] for i in range(count)]).astype(int)
        counts = np.bincount(entries, minlength=stop)
        agree = [
            who for who, (theirs, numbers) in sides.items()
            if np.array_equal(counts, theirs) and np.allclose(values, numbers, rtol=1e-6, atol=1e-9, equal_nan=True)
        ]
        print(json.dumps(" and ".join(agree) or f"neither: ROOT has {count} values"), flush=True)
    except BaseException as error:
        print(json.dumps("ROOT cannot: " + str(error).strip().splitlines()[0][:200]), flush=True)
"""


def ask_root(findings: list[Finding], spill: Path, paths: dict[str, Path], python: str) -> list[Finding]:
    """Add to the findings that differ which values ROOT agrees with."""
    stored = {}
    for npz in spill.glob("*.npz"):
        with np.load(npz) as content:
            where = json.loads(str(content["where"]))
        stored[where["file"], where["tree"], where["column"]] = npz
    decided = []
    for finding in findings:
        if finding.verdict == DIFFERENT:
            key = (finding.file, finding.tree, finding.column)
            job = {"npz": str(stored[key]), "path": str(paths[finding.file]), "tree": key[1], "column": key[2]}
            done = subprocess.run(
                [python, "-c", ROOT_SCRIPT], input=json.dumps(job) + "\n", capture_output=True, text=True, check=False
            )
            lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
            answer = json.loads(lines[-1]) if lines else f"ROOT ended with code {done.returncode}"
            finding = change(finding, root=answer)
        decided.append(finding)
    return decided


def print_table(findings: Sequence[Finding], files: int) -> None:
    columns = [finding for finding in findings if finding.column]
    verdicts = Counter(finding.verdict for finding in columns)
    trees = len({(finding.file, finding.tree) for finding in findings if finding.tree})
    print(f"{files} files, {trees} trees and RNTuples, {len(columns)} columns")
    print("\n| columns | number |\n|---|---|")
    for verdict, number in verdicts.most_common():
        print(f"| {verdict} | {number:,} |")
    missed = sum(finding.numeric_in_uproot for finding in columns)
    print(f"| left out, although uproot reads numbers | {missed:,} |")
    print_group("Files and trees that cannot be read", [f for f in findings if not f.column])
    print_group("Columns that differ or cannot be read", [f for f in columns if f.verdict in (DIFFERENT, UNREADABLE)])


def print_group(title: str, findings: Sequence[Finding]) -> None:
    """Print findings, one line for all findings of a tree with the same kind of reason."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        kind = re.sub(r"'[^']*'|/\S+|\d+", "", finding.reason)
        root = finding.root.partition(":")[0]
        groups.setdefault((finding.file, finding.tree, finding.verdict, kind, root), []).append(finding)
    if groups:
        print(f"\n{title}:")
    for (file, tree, verdict, _, _), several in groups.items():
        first = several[0]
        more = f" and {len(several) - 1} more columns" if len(several) > 1 else ""
        root = f" (ROOT: {first.root})" if first.root else ""
        print(f"  {' '.join(filter(None, (file, tree, first.column)))}{more}: {verdict}: {first.reason}{root}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--root", default="", help="a Python interpreter with ROOT")
    parser.add_argument("--json", default="", help="output file for all findings that are not 'equal'")
    options = parser.parse_args(argv)
    paths = {
        str(path.relative_to(folder.parent)): path
        for folder in map(Path.resolve, options.folders)
        for path in sorted(folder.rglob("*.root"))
    }
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as spill:
        for number, (name, path) in enumerate(paths.items(), 1):
            print(f"{number}/{len(paths)} {name}", file=sys.stderr)
            findings += run_apart(path, name, Path(spill))
        if options.root:
            findings = ask_root(findings, Path(spill), paths, options.root)
    print_table(findings, len(paths))
    if options.json:
        rest = [asdict(finding) for finding in findings if finding.verdict != EQUAL]
        Path(options.json).write_text(json.dumps(rest, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
