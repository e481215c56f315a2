"""What a bundle and its report say of events: their branches, how they were normalised, what of them matters.

content = EventContent(generator, [generator])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas4hep.files import write_json
from mlaas4hep.reader.preproc_script import ScriptPreproc
from mlaas4hep.reader.specs import FLOAT32_MAX
from mlaas4hep.stream import Batch, DataGenerator
from mlaas4hep.stream.contrast import with_shuffled_copies
from mlaas4hep.training import plots
from mlaas4hep.training.content import WORDS, Section, in_words
from mlaas4hep.training.importance import EVENTS, Importance, permutation_importance
from mlaas4hep.training.page import details, number, paragraph, table

if TYPE_CHECKING:
    from mlaas4hep.training.bundle import Trained


class EventContent:
    """The events of files; see `Content`."""

    channels = 0
    packages: Sequence[str] = ("uproot", "awkward")

    def __init__(self, generator: DataGenerator, by_fold: Sequence[DataGenerator]) -> None:
        """Speak of a sample; `by_fold` is it as each of the models sees it."""
        self._generator = generator
        self._by_fold = by_fold

    def about(self) -> dict[str, Any]:
        """Return what training.json says of the events."""
        generator, sample = self._generator, self._generator.sample
        by_file = sample.labels.by_file or [None] * len(sample.files)
        return {
            "identifier": list(sample.identifier),
            "normalise": self._by_fold[0].sample.options.normalise,
            "files": [
                {
                    "name": name,
                    "entries": entries,
                    **({"label": sample.labels.classes[label]} if label is not None else {}),
                }
                for name, entries, label in zip(sample.files, sample.entries, by_file, strict=True)
            ],
            "label_branches": list(sample.labels.branches),
            "contrast": sample.labels.contrast,
            "columns": generator.columns,
        }

    def write(self, folder: Path, fold: int | None = None) -> None:
        """Write the specs; with those of the whole sample also its preprocessing.

        Expressions travel with the bundle; a Python file is kept beside them for people, and never run from there.
        """
        generator = self._generator if fold is None else self._by_fold[fold]
        generator.specs.save(str(folder / "specs.json"))
        preproc = generator.sample.options.preproc
        if preproc is None or fold is not None:
            return
        if isinstance(preproc, ScriptPreproc):
            (folder / "preproc.py").write_text(preproc.source, encoding="utf-8")
        else:
            write_json(folder / "preproc.json", preproc.to_json())

    def example(self, name: str, count: int) -> dict[str, Any]:
        """Return some events of the test part with their labels."""
        events, classes = self._generator.examples(count, raw=True), self._generator.classes
        x = np.clip(events.x, -FLOAT32_MAX, FLOAT32_MAX)  # JSON has no infinity, and the model takes it for this
        return {
            "model": name,
            "keys": self._generator.columns,
            "values": [[None if np.isnan(value) else float(value) for value in row] for row in x],
            "labels": [classes[y] if np.ndim(y) == 0 else y.tolist() for y in events.y],
        }

    def raw(self, count: int) -> np.ndarray:
        """Return rows of numbers as they are in the files, float32 (events, columns), NaN where there is none."""
        return self._generator.examples(count, part=None, raw=True).x

    def graph(self, network: Any, takes: Sequence[str], fold: int) -> Any:
        """Return the ONNX graph from raw rows to scores."""
        from mlaas4hep.training.onnx_graph import with_inputs

        return with_inputs(network, self._by_fold[fold].sample.inputs, takes, self._generator.layout)

    def metadata(self) -> dict[str, str]:
        """Return what a graph says of its rows."""
        from mlaas4hep.training.onnx_graph import about_rows

        return about_rows(self._generator.layout)

    def after_graph(self, folder: Path, trained: Trained) -> dict[str, Any]:
        """Write nothing more."""
        return {}

    def losses(self) -> Sequence[str]:
        """Return what was not read, or not whole, a line each."""
        return self._generator.sample.losses()

    def sample(self, training: Mapping[str, Any]) -> str:
        """Return how the parts were made, and of which files."""
        return paragraph(_split(self._generator)) + _files(training)

    def before(self) -> Sequence[Section]:
        """Return the sections in front of the training's."""
        return [("Features", lambda: _features(self._by_fold[0]))]

    def after(self, trained: Trained) -> Sequence[Section]:
        """Return the sections behind the scores'."""
        return [("Importance", lambda: _importance(trained, self._by_fold[0]))]


def _split(generator: DataGenerator) -> str:
    split = generator.sample.split
    if split.expressions:
        return "; ".join(f"{WORDS[part]}: {text}" for part, text in split.expressions.items()) + "; training: the rest."
    train, test = split.share_of_training, 1 / split.folds if split.folds else split.shares[-1]
    shares = in_words([train, 1 - train - test, test])
    shares = f"For each of the {split.folds} models {shares}" if split.folds else shares
    identity = ", ".join(generator.sample.identifier)
    return f"{shares}, by a hash of the event's identity" + (f" ({identity})." if identity else ".")


def _files(training: Mapping[str, Any]) -> str:
    labelled = any("label" in file for file in training["files"])
    rows = [
        [file["name"], *([file["label"]] if labelled else []), f"{file['entries']:,}"] for file in training["files"]
    ]
    return details(
        f"{len(rows)} file{'s' * (len(rows) > 1)}",
        table("Before cuts.", ["file", *(["label"] if labelled else []), "events"], rows, 1 + labelled),
        opened=len(rows) <= 20,
    )


def _features(generator: DataGenerator) -> str:
    rows = []
    for name, branch in generator.specs.branches.items():
        moments = [number(value) for value in (branch.minimum, branch.maximum, branch.mean, branch.std)]
        rows.append([name, branch.kind.value, str(branch.dim), *moments, f"{branch.nan:,}", f"{branch.inf:,}"])
    head = ["branch", "kind", "dim", "min", "max", "mean", "std", "NaN", "inf"]
    shapes = ", ".join(f"{name} ({' × '.join(map(str, shape))})" for name, shape in generator.shapes.items())
    return paragraph(
        f"{len(rows)} branches as {generator.layout.width} columns; the model is given {shapes}, normalised:"
        f" {generator.sample.options.normalise}."
    ) + details("Every branch", table("Over all events, before normalisation.", head, rows, 2))


def _importance(trained: Trained, generator: DataGenerator) -> str:
    events = _some_events(generator)
    if len(events) < 2:
        return paragraph("Not known: there are no events of the test part at the beginning of the files.")
    found = permutation_importance(
        trained.backend, events, generator.sample.inputs, trained.test.task, generator.params.seed
    )
    rows = [[drop.branch, f"{drop.value:.5f}", f"{drop.uncertainty:.5f}"] for drop in found.drops]
    what = "drop of the AUC" if found.measure == "AUC" else "rise of the loss"
    return plots.draw(
        [(partial(plots.importance, found), f"The {len(rows)} most important branches.")],
        paragraph(_tried(found))
        + details("In numbers", table("Most important first.", ["branch", what, "±"], rows, 1)),
    )


def _some_events(generator: DataGenerator) -> Batch:
    events = generator.examples(EVENTS)
    if generator.sample.labels.contrast:
        return with_shuffled_copies(events, np.random.default_rng(generator.params.seed))
    return events


def _tried(found: Importance) -> str:
    figure = "the AUC drops" if found.measure == "AUC" else "the loss rises"
    tried = f"all {found.tried}" if found.tried == found.branches else f"{found.tried} of {found.branches}"
    return (
        f"By how much {figure} when the values of a branch are dealt out to other events: {found.events:,} events of"
        f" the test part, {found.repeats} times. A first look at fewer events, of {tried} branches, chose these."
        " The errors say by how much a branch that tells nothing scatters around 0. Of branches that tell the same,"
        " each may look unimportant."
    )
