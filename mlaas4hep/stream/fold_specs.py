"""Specs of a sample without the events of one cross-validation fold.

specs_by_fold(sample, 5)[0]        # specs of all events outside fold 0
"""

from __future__ import annotations

from dataclasses import replace

from mlaas4hep import console
from mlaas4hep.io.columns import select_events
from mlaas4hep.reader import Specs
from mlaas4hep.specs.statistics import Statistics
from mlaas4hep.stream.sample import Sample
from mlaas4hep.stream.split import fold_of


def specs_by_fold(sample: Sample, folds: int) -> list[Specs]:
    """Return the specs of all events outside each fold, in the order of the folds."""
    parts: list[list[Specs]] = [[] for _ in range(folds)]
    for file in range(len(sample.files)):
        with sample.readers.borrow(file) as reader:
            kinds = {name: reader.available[name].kind for name in reader.features}
            statistics = [Statistics(kinds) for _ in range(folds)]
            with console.progress("computing specs of folds", reader.stop) as bar:
                for start, stop in reader.blocks():
                    values, entries = reader.read_columns(start, stop)
                    fold = fold_of(sample.events.hashes(values, entries, reader.identity), folds)
                    for index in range(folds):
                        chosen = fold == index
                        columns = {name: select_events(values[name], chosen) for name in kinds}
                        statistics[index].add(columns, int(chosen.sum()))
                    bar.advance(stop - start)
            for specs_of_fold, one in zip(parts, statistics, strict=True):
                specs = one.specs()
                specs_of_fold += [specs] if specs is not None else []
    by_fold = [Specs.merge_all(specs_of_fold) for specs_of_fold in parts]
    return [
        replace(sample.specs, branches=rest.branches, events=rest.events)
        for rest in (Specs.merge_all([*by_fold[:index], *by_fold[index + 1 :]]) for index in range(folds))
    ]
