"""Scale factors of event weights, which normalise samples with a cross section to the integrated luminosity.

    sample_scales(fileset, readers, found, Params(lumi=20.0))       # by file, lumi × 1000 × xsec / sumw

`lumi` is in 1/fb and `xsec` in pb, hence the factor 1000. `sumw` is the sum of the weights of all events before cuts,
as far as they are read: events in clusters and files that cannot be read, and events beyond `nevts`, do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import numpy as np

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.config.samples import SampleParams
from mlaas4hep.errors import BranchNotFound, ConfigError, TreeNotFound, sample_in_errors
from mlaas4hep.expressions.derived import DerivedColumns
from mlaas4hep.io.blocks import split_into_blocks
from mlaas4hep.io.opening import open_source
from mlaas4hep.io.storage.location import split_tree, with_tree
from mlaas4hep.reader.skipping_reader import count_skipped
from mlaas4hep.samples.fileset import Fileset
from mlaas4hep.samples.input_files import weight_of
from mlaas4hep.samples.readers import InputFile, SampleReaders
from mlaas4hep.samples.survey import Survey
from mlaas4hep.specs.exact import UNIT

PB_IN_FB = 1000.0
"""A luminosity of 1/fb is 1000/pb."""

_TREE_AND_EXPRESSION = re.compile(r"\s*([A-Za-z_][\w/;]*)\s*:(.+)")


def sample_scales(fileset: Fileset, readers: SampleReaders, found: Survey, params: Params) -> list[float]:
    """Return the factor of the event weights, by file; 1 for samples without a cross section.

    Raises:
        ConfigError: a cross section is given but no luminosity, or the sum of weights is not positive and finite.
        FileUnreadable, TreeNotFound, BranchNotFound: a sum of weights cannot be read.
    """
    scales = [1.0] * len(fileset.samples)
    for index, (name, sample) in enumerate(zip(fileset.names, fileset.samples, strict=True)):
        files = [file for file, other in enumerate(fileset.sample_of) if other == index]
        if sample.xsec is None or not files:
            continue
        if params.lumi is None:
            hint = 'set it in 1/fb in the params, as in "lumi": 20.0'
            raise ConfigError(f"sample '{name}' has a cross section, but there is no 'lumi'", hint=hint)
        with sample_in_errors(name):
            sumw = _sum_of_weights(sample, files, readers, found, params)
            if not 0 < sumw < np.inf:
                raise ConfigError(
                    f"the sum of weights '{sample.sumw or weight_of(sample, params) or 1}' is {sumw:.6g}; it must be"
                    " positive",
                    hint="set 'sumw' in the samples file",
                )
        scales[index] = params.lumi * PB_IN_FB * sample.xsec / sumw
    return [scales[index] for index in fileset.sample_of]


def split_sumw(sumw: str) -> tuple[str, str]:
    """Return the tree and the expression of a sum of weights, as in "Runs:genEventSumw"; the tree may be ""."""
    match = _TREE_AND_EXPRESSION.fullmatch(sumw)
    return (match[1], match[2].strip()) if match else ("", sumw.strip())


def _sum_of_weights(
    sample: SampleParams, files: Sequence[int], readers: SampleReaders, found: Survey, params: Params
) -> float:
    """Return the sum of the weights of the events of a sample that are read, before cuts."""
    if not isinstance(sample.sumw, str):
        return sample.sumw
    tree, text = split_sumw(sample.sumw or weight_of(sample, params) or "1")
    weight = DerivedColumns({"sumw": text})
    if tree:
        return _sum_over_trees(tree, weight, files, readers, found)
    total = Fraction(0)
    with console.progress("sums of weights", len(files)) as bar:
        for file in files:
            with readers.borrow(file) as reader, _explain_sumw(sample.sumw):
                total += Fraction(reader.sum_before_cuts(weight), UNIT)
            bar.advance(1)
    return float(total)


def _sum_over_trees(
    tree: str, weight: DerivedColumns, files: Sequence[int], readers: SampleReaders, found: Survey
) -> float:
    """Return the sum of an expression over another tree of each file, times the fraction of its events that are read.

    Two trees of events in one file share this other tree, which counts once.
    """
    by_file: dict[str, list[int]] = {}
    for file in files:
        by_file.setdefault(split_tree(readers.inputs[file].name)[0], []).append(file)
    total = Fraction(0)
    with console.progress("sums of weights", len(by_file)) as bar:
        for name, trees in by_file.items():
            entries = sum(found.files[file].num_entries for file in trees)
            read = sum(_entries_read(file, readers, found) for file in trees)
            share = Fraction(read, entries) if entries else Fraction(1)
            total += _sum_over_tree(name, readers.inputs[trees[0]], tree, weight) * share
            bar.advance(1)
    return float(total)


def _entries_read(file: int, readers: SampleReaders, found: Survey) -> int:
    """Return the number of entries of a file that are read, before cuts."""
    entries = found.entries[file]
    return entries - count_skipped(readers.damaged_clusters[file], entries)


def _sum_over_tree(name: str, file: InputFile, tree: str, weight: DerivedColumns) -> Fraction:
    """Return the sum of an expression over all entries of another tree of a file."""
    options = file.options
    with (
        _explain_sumw(tree),
        open_source(with_tree(name, tree), "", options.redirector, options.retry_policy) as source,
    ):
        weight.check(source.columns, f"tree '{tree}' of {source.location}")
        total = 0
        for start, stop in split_into_blocks(source.boundaries, source.num_entries):
            values = source.read(sorted(weight.names), start, stop)
            total += weight.exact_sum(values, stop - start)
        return Fraction(total, UNIT)


@contextmanager
def _explain_sumw(sumw: str) -> Iterator[None]:
    """Explain how to correct `sumw` if a tree or branch is missing; "": `sumw` is not given."""
    try:
        yield
    except TreeNotFound as error:
        error.hint = "correct 'sumw' in the samples file"
        raise
    except BranchNotFound as error:
        if not sumw:
            error.hint = (
                "without 'sumw', the weight is summed over all events before the preprocessing; give 'sumw' as an"
                " expression of branches of the file"
            )
        raise
