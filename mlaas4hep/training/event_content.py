"""The description of events in a bundle and its report: files, branches, normalisation, importance of branches.

content = EventContent(generator, [generator])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.config import model_inputs
from mlaas4hep.expressions.preproc_json import JsonPreproc
from mlaas4hep.expressions.preproc_script import ScriptPreproc
from mlaas4hep.files import write_json
from mlaas4hep.io.storage.location import redacted
from mlaas4hep.protocol.graph_preproc import graph_preproc
from mlaas4hep.protocol.missing_value import missing_value
from mlaas4hep.reader.friends import features_by_friend
from mlaas4hep.reader.inputs import Inputs
from mlaas4hep.report import plots
from mlaas4hep.report.importance import MAX_EVENTS, permutation_importance
from mlaas4hep.report.page import details, number, paragraph, table
from mlaas4hep.report.reweighting import reweighting_section
from mlaas4hep.samples.skipped_file import write_skipped_file
from mlaas4hep.specs.specs import FLOAT32_MAX
from mlaas4hep.stream import Batch, DataGenerator
from mlaas4hep.stream.sample import Sample
from mlaas4hep.stream.shuffled_copies import add_shuffled_copies
from mlaas4hep.training.compared_events import (
    COMPARED_EVENTS,
    ComparedEvents,
    IncompleteEvents,
    concatenated,
    corner_events,
)
from mlaas4hep.training.loop import PART_NAMES
from mlaas4hep.training.trained import SampleContent, Section, TrainedModel, describe_split


class EventContent(SampleContent):
    """Implementation of `SampleContent` for events."""

    channels = 0
    packages: Sequence[str] = ("uproot", "awkward")

    def __init__(self, generator: DataGenerator, by_fold: Sequence[DataGenerator]) -> None:
        """Describe a sample; `by_fold` has the generator of each fold, or only `generator`."""
        self._generator = generator
        self._by_fold = by_fold
        self._incomplete = [IncompleteEvents(one.sample.inputs) for one in by_fold]
        self._raw: dict[tuple[int, int], np.ndarray] = {}

    def params(self) -> dict[str, Any]:
        """Return all parameters."""
        return self._generator.params.model_dump()

    def describe(self) -> dict[str, Any]:
        """Return the entries of training.json about the events."""
        generator, sample = self._generator, self._generator.sample
        by_file = sample.labels.by_file or [None] * len(sample.files)
        aliases = dict.fromkeys(alias for file in sample.readers.inputs for alias in file.options.friends)
        return {
            "identifier": list(sample.survey.identifier),
            "normalise": self._by_fold[0].sample.options.normalise,
            "files": [
                {"name": redacted(name), "entries": one.entries, "identity": one.identity}
                | ({} if label is None else {"label": sample.labels.classes[label]})
                | ({"part": part} if part else {})
                for name, one, label, part in zip(
                    sample.files, sample.survey.files, by_file, sample.fixed_parts, strict=True
                )
            ],
            "samples": _samples(sample),
            "left_out": [{"name": redacted(file.name), "reason": file.reason} for file in sample.survey.left_out],
            "missing_branches": list(sample.specs.missing),
            "label_branches": list(sample.labels.branches),
            "contrast": sample.labels.uses_shuffled_copies,
            "labels_are_files": sample.labels.are_files,
            "columns": generator.columns,
            "friend_features": features_by_friend(generator.specs.branches, aliases),
        }

    def write(self, folder: Path, fold: int | None = None) -> None:
        """Write the specs; for the whole sample also the preprocessing.

        A Python preprocessing is written for documentation only: scoring runs it only if --preproc names it.
        """
        generator = self._generator if fold is None else self._by_fold[fold]
        generator.specs.save(str(folder / "specs.json"))
        reweighting = generator.sample.reweighting
        if reweighting is not None and (fold is not None or not generator.params.kfold):
            write_json(folder / "reweighting.json", reweighting.to_json())
        if fold is None:
            write_skipped_file(folder / "skipped.json", generator.sample.skipped_samples())
        preproc = generator.sample.options.preproc
        if preproc is None or fold is not None:
            return
        if isinstance(preproc, ScriptPreproc):
            (folder / "preproc.py").write_text(preproc.source, encoding="utf-8")
        else:
            write_json(folder / "preproc.json", preproc.to_json())

    def example(self, name: str, count: int) -> dict[str, Any]:
        """Return some events of the test set with their labels."""
        events, classes = self._generator.examples(count, raw=True), self._generator.classes
        x = np.clip(events.x, -FLOAT32_MAX, FLOAT32_MAX)  # JSON has no infinity; the graph clips to the same range
        return {
            "model": name,
            "keys": self._generator.columns,
            "values": [[None if np.isnan(value) else float(value) for value in row] for row in x],
            "labels": [classes[y] if np.ndim(y) == 0 else y.tolist() for y in events.y],
        }

    def watch(self, batch: Batch, fold: int) -> None:
        """Keep some events in which something is empty, see `IncompleteEvents`."""
        self._incomplete[fold].add(batch)

    def compared_events(self, fold: int) -> ComparedEvents:
        """Return events of the sample, corner cases, and the incomplete events that `watch` kept."""
        whole, generator = self._generator, self._by_fold[fold]
        events = whole.examples(COMPARED_EVENTS, part=None, raw=True)
        parts = [
            self._of_sample(events.x, generator.examples(COMPARED_EVENTS, part=None)),
            corner_events(whole.specs, generator.sample.inputs, whole.sample.inputs),
            *(self._of_sample(self._raw_rows(batch), batch) for batch in self._incomplete[fold].batches),
        ]
        return concatenated(parts)

    def _of_sample(self, raw: np.ndarray, batch: Batch) -> ComparedEvents:
        files = self._generator.sample.files
        places = zip(batch.entry.tolist(), batch.file.tolist(), strict=True)
        names = [f"entry {entry} of {redacted(files[file])}" for entry, file in places]
        return ComparedEvents(raw, batch.inputs, names)

    def _raw_rows(self, batch: Batch) -> np.ndarray:
        """Return the unnormalised rows of events; they are read once for all folds."""
        places = list(zip(batch.file.tolist(), batch.entry.tolist(), strict=True))
        for file, entry in places:
            if (file, entry) not in self._raw:
                self._raw[file, entry] = self._generator.sample.load(file, entry, entry + 1, raw=True).x
        return np.concatenate([self._raw[place] for place in places])

    def scoring_graph(self, network: Any, takes: Sequence[str], fold: int) -> Any:
        """Return the ONNX graph from raw rows to scores."""
        from mlaas4hep.training.onnx_graph import prepend_inputs

        return prepend_inputs(network, self._by_fold[fold].sample.inputs, takes, self._generator.layout)

    def graph_metadata(self) -> dict[str, str]:
        """Return the metadata that describe the columns of the graph's input, and the preprocessing."""
        from mlaas4hep.training.onnx_graph import column_metadata

        return {**column_metadata(self._generator.layout), **_preproc_metadata(self._generator.sample)}

    def missing_value(self) -> float | None:
        """Return a number that is outside the ranges of all branches; None if there is none."""
        branches = self._generator.specs.branches.values()
        ranges = ((one.minimum, one.maximum) for one in branches)
        return missing_value((low, high) for low, high in ranges if low is not None and high is not None)

    def skipped_data(self) -> Sequence[str]:
        """Return messages about data that could not be read."""
        return self._generator.sample.data_notices()

    def sample_section(self, training: Mapping[str, Any]) -> str:
        """Return HTML about the files and the split of the sample."""
        return paragraph(_split(self._generator)) + _yields(self._generator) + _files(training)

    def metrics(self) -> dict[str, Any]:
        """Return the yields, for metrics.json."""
        return {"yields": [one.to_json() for one in self._generator.sample.yields]}

    def first_sections(self) -> Sequence[Section]:
        """Return the sections about the branches and about reweighting."""
        reweighting = self._by_fold[0].sample.reweighting
        shown = [("Reweighting", partial(reweighting_section, reweighting))] if reweighting is not None else []
        return [("Features", lambda: _features(self._by_fold[0])), *shown]

    def last_sections(self, trained: TrainedModel) -> Sequence[Section]:
        """Return the section about the importance of branches."""
        return [("Importance", lambda: _importance(trained, self._by_fold[0]))]


def _preproc_metadata(sample: Sample) -> dict[str, str]:
    """Return the entry about the preprocessing, with the types of the branches that predictions need."""
    preproc = sample.options.preproc
    if preproc is None:
        return {}
    if not isinstance(preproc, JsonPreproc):
        return graph_preproc(None, {})
    inputs_of_model = Inputs.of(sample.specs, model_inputs(sample.params.inputs), "none")
    used = preproc.for_prediction(inputs_of_model.branches).used_names
    with sample.readers.borrow(0) as reader:
        inputs = {name: column for name, column in sorted(reader.file_columns.items()) if name in used}
    return graph_preproc(preproc.to_json(), inputs)


def _split(generator: DataGenerator) -> str:
    fileset = generator.sample.fileset
    named = [
        f"{PART_NAMES[sample.part]}: sample {name}"
        for name, sample in zip(fileset.names, fileset.samples, strict=True)
        if sample.part
    ]
    rest = "" if len(named) == len(fileset.names) else _split_of_others(generator)
    return f"{'; '.join(named)}{'. Other samples: ' * bool(rest)}{rest}" if named else rest


def _split_of_others(generator: DataGenerator) -> str:
    """Describe the split of the samples that do not set their part."""
    split = generator.sample.split
    if split.expressions:
        chosen = "; ".join(f"{PART_NAMES[part]}: {text}" for part, text in split.expressions.items())
        return f"{chosen}; training: all other events."
    train, test = split.training_share, 1 / split.folds if split.folds else split.shares[-1]
    shares = describe_split([train, 1 - train - test, test])
    shares = f"For each of the {split.folds} models: {shares}" if split.folds else shares
    identity = ", ".join(generator.sample.survey.identifier)
    return f"{shares}, chosen by a hash of the event's identifier" + (f" ({identity})." if identity else ".")


def _yields(generator: DataGenerator) -> str:
    lumi = generator.params.lumi
    caption = "Yields after cuts" + (f", scaled to {lumi:g}/fb." if lumi else ".")
    rows = [
        [one.sample or "all", one.label, f"{one.events:,}", f"{one.weighted:.6g}", f"{one.error:.3g}"]
        for one in generator.sample.yields
    ]
    return table(caption, ["sample", "label", "events", "sum of weights", "±"], rows, 2)


def _samples(sample: Sample) -> dict[str, Any]:
    """Return the parameters of the samples that have names, with the factors of their weights."""
    scales = dict(zip(sample.fileset.sample_of, sample.scales, strict=True))
    named = zip(sample.fileset.names, sample.fileset.samples, strict=True) if sample.fileset.has_names else ()
    return {
        name: {**one.model_dump(exclude={"files", "reasons"}, exclude_defaults=True), "scale": scales[index]}
        for index, (name, one) in enumerate(named)
    }


def _files(training: Mapping[str, Any]) -> str:
    files = training["files"]
    columns = ["name", "label"] if any("label" in file for file in files) else ["name"]
    rows = [[*(file[column] for column in columns), f"{file['entries']:,}"] for file in files]
    content = table("Before cuts.", ["file", *columns[1:], "events"], rows, len(columns))
    shown = details(f"{len(rows)} file{'s' * (len(rows) > 1)}", content, opened=len(rows) <= 20)
    left_out = [[file["name"], file["reason"]] for file in training.get("left_out", ())]
    if left_out:
        content = table("They cannot be read; skipped.json lists them.", ["file", "reason"], left_out)
        shown += details(f"{len(left_out)} file{'s' * (len(left_out) > 1)} left out", content, opened=True)
    return shown


def _features(generator: DataGenerator) -> str:
    rows = []
    for name, branch in generator.specs.branches.items():
        moments = [number(value) for value in (branch.minimum, branch.maximum, branch.mean, branch.std)]
        rows.append([name, branch.kind.value, str(branch.dim), *moments, f"{branch.nan:,}", f"{branch.inf:,}"])
    head = ["branch", "kind", "dim", "min", "max", "mean", "std", "NaN", "inf"]
    shapes = ", ".join(f"{name} ({' × '.join(map(str, shape))})" for name, shape in generator.shapes.items())
    return paragraph(
        f"{len(rows)} branches in {generator.layout.width} columns. Inputs of the model: {shapes}. Normalisation:"
        f" {generator.sample.options.normalise}."
    ) + details("Every branch", table("Over all events, before normalisation.", head, rows, 2))


def _importance(trained: TrainedModel, generator: DataGenerator) -> str:
    events, seed = generator.examples(MAX_EVENTS), generator.params.seed
    if generator.sample.labels.uses_shuffled_copies:
        events = add_shuffled_copies(events, np.random.default_rng(seed), generator.sample.shuffling_units)
    if len(events) < 2:
        return paragraph("Unknown: the beginning of the files contains no events of the test set.")
    result = permutation_importance(trained.backend, events, generator.sample.inputs, trained.test.task, seed)
    rows = [[drop.branch, f"{drop.value:.5f}", f"{drop.uncertainty:.5f}"] for drop in result.drops]
    description = (
        f"{result.change[0].upper()}{result.change[1:]} when the values of a branch are permuted among events:"
        f" {result.events:,} events of the test set, {result.repeats} permutations. These branches were selected with"
        f" fewer events from {result.tried} of {result.branches} branches. A branch without information is at 0 within"
        " its error. Strongly correlated branches may each look unimportant."
    )
    numbers = table("Most important first.", ["branch", result.change, "±"], rows, 1)
    drawing = partial(plots.importance, result), f"The {len(rows)} most important branches."
    return plots.draw([drawing], paragraph(description) + details("In numbers", numbers))
