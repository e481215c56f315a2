"""The files of a sample, which have the same branches, and from which any block of events can be loaded.

    sample = Sample(["ggH.root", "VBF.root"], ["ggH", "VBF"], Params())
    sample.load(file=0, start=0, stop=1000)

`generator` decides in which order blocks are loaded and how they are mixed.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.expressions.preproc_file import load_preproc
from mlaas4hep.normalisation_choice import NormalisationChoice
from mlaas4hep.reader import ReadOptions, Specs
from mlaas4hep.reader.data_notices import dropped_data_notices, non_finite_notices
from mlaas4hep.reader.inputs import Inputs
from mlaas4hep.samples.bad_files import left_out_notices
from mlaas4hep.samples.fileset import Files, Fileset
from mlaas4hep.samples.input_files import WEIGHT, input_files
from mlaas4hep.samples.readers import SampleReaders
from mlaas4hep.samples.scales import sample_scales
from mlaas4hep.samples.skipped_file import skipped_samples
from mlaas4hep.samples.survey import survey
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.cache import BlockCache, versioned_hash
from mlaas4hep.stream.copied_columns import copied_types
from mlaas4hep.stream.event_blocks import EventBlocks
from mlaas4hep.stream.interleaving import plan_interleaving
from mlaas4hep.stream.labels import (
    SHUFFLED_COPIES,
    Labels,
    is_pattern,
    label_branches,
    labels_by_branch,
    labels_by_branches,
    labels_by_file,
    labels_of_files,
    targets_by_branches,
    targets_by_file,
)
from mlaas4hep.stream.reweighting import Binning, Reweighting, TrainingHistograms
from mlaas4hep.stream.sample_options import (
    check_inputs_without_labels,
    check_parts_of_samples,
    check_prediction_without_labels,
    check_task,
    files_as_labels,
    labels_of_readable,
    read_options,
    report_labels_as_features,
    report_weight_sources,
    split_of,
    wanted_labels,
)
from mlaas4hep.stream.sample_statistics import Composition, count_events, target_moments
from mlaas4hep.stream.shuffled_copies import shuffling_units
from mlaas4hep.stream.yields import Yield, yields_of

NOT_IN_KEY = (
    *("workers", "cache", "cache_gb", "timeout", "retries", "redirector", "friends", "verbose", "hist", "name"),
    *("checkpoint", "tensorboard", "tfaas", "trial_export", "epochs", "patience", "max_bad", "threads", "observers"),
)
"""Parameters that do not affect batch contents; the origins of the files contain the friends, wherever they are."""


class Sample:
    """Files, their labels and their specs; see the module's docstring and `DataGenerator` for the arguments.

    Attributes:
        fileset: the files, and the samples that they belong to.
        params: parameters for reading and splitting the events.
        split: the rule that assigns events to the training, validation and test sets.
        inputs: the input tensors of the model.
        plan: number of files to interleave, and number of entries per block.
        labels: the classes, and the class of each event.
        readers: readers of the files.
        survey: properties of the files.
        scales: factor of the event weights, by file.
        events: reads blocks of events.
    """

    def __init__(
        self,
        files: Files,
        labels: str | Sequence[object] | None,
        params: Params,
        specs: str | os.PathLike[str] | Specs | None = None,
        preproc: str | os.PathLike[str] | Preproc | None = None,
        fold: int = 0,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """Open the files, and make a first pass over the events unless specs are given.

        Args:
            fold: index of the fold that is the test set, if there are folds.
            left_out: see `survey`.
        """
        fileset = Fileset.of(files)
        wanted = wanted_labels(labels, fileset)
        of_files = files_as_labels(wanted, params, fileset)
        branches = label_branches(wanted, params.task)
        check_task(params, wanted if of_files is None else of_files.classes)
        check_parts_of_samples(params, fileset)
        check_inputs_without_labels(params, branches)
        by_file = wanted if isinstance(wanted, list) and not branches else None
        if by_file is not None and params.task == "classification":
            labels_by_file(by_file, fileset.files)  # reports mistakes before any file is opened
        self._all_files, self._all_labels = fileset, by_file
        self.params = params
        self.split = split_of(params, fold)
        self._binning = Binning.of(params.reweight)
        options = read_options(
            params,
            load_preproc(preproc) if isinstance(preproc, (str, os.PathLike)) else preproc,
            branches,
            {**self.split.derived, **(self._binning.derived if self._binning else {})},
            fileset,
        )
        given = Specs.load(os.fspath(specs)) if isinstance(specs, (str, os.PathLike)) else specs
        self.readers = SampleReaders(input_files(fileset, options, params), given)
        self.survey = survey(self.readers, params.workers, params.exclude_branches, params.verbose > 0, left_out)
        self.readers.set_specs(self.specs, self.survey.origins)
        self._check_events()
        self.fileset = fileset.select(self.survey.indices)
        self._check_samples()
        self._check_predictions()
        if by_file is not None:
            wanted = by_file = labels_of_readable(by_file, self.survey)
        report_labels_as_features(params, self.survey.extra)
        self.inputs = Inputs.of(self.specs, params.inputs, params.normalise)
        if wanted is None and of_files is None and params.inputs:
            raise ConfigError("events of several inputs need labels", hint="give --labels, or name no inputs")
        self.scales = sample_scales(self.fileset, self.readers, self.survey, params)
        by_class = labels_of_files(self.files) if of_files else None
        if by_file is not None and params.task == "classification":
            by_class = labels_by_file(by_file, self.files)
        groups = len(set(by_class.by_file or ())) if by_class else 1
        self.plan = plan_interleaving(self.inputs.width, groups, len(self.files))
        self.labels = by_class or self._labels_of_events(wanted, branches)
        self.events = self._events_with(self.labels)
        self._cache = self._open_cache()
        self._truncated: dict[tuple[int, int, int], Mapping[str, int]] = {}
        self._lock = threading.Lock()

    def for_fold(self, fold: int, specs: Specs) -> Sample:
        """Return the same sample with another fold as the test set, and with specs of the events outside this fold.

        The survey, the factors of the weights and the labels are shared, because they do not depend on the fold.

        Raises:
            ConfigError: there are no events outside the fold.
        """
        other = copy(self)
        for name in ("_counts", "reweighting", "shuffling_units"):
            vars(other).pop(name, None)
        other.split = replace(self.split, fold=fold)
        other.readers = SampleReaders(self.readers.inputs, specs)
        other.readers.damaged_clusters = self.readers.damaged_clusters
        with other.readers.borrow(0) as reader:
            other.survey = replace(self.survey, specs=reader.specs)
        other.readers.set_specs(other.specs, self.survey.origins)
        other._check_events()
        other.inputs = Inputs.of(other.specs, self.params.inputs, other.options.normalise)
        other.plan = plan_interleaving(other.inputs.width, len(set(self.groups)), len(self.files))
        other.events = other._events_with(self.labels)
        other._cache = other._open_cache()
        other._truncated = {}
        other._lock = threading.Lock()
        return other

    def _check_events(self) -> None:
        if not self.specs.events and not self.specs.legacy:
            why = "none passes the cuts" if self._has_cuts and any(self.entries) else "the files are empty"
            raise ConfigError(f"there are no events: {why}")

    def _check_predictions(self) -> None:
        """Check which branches predictions will need; see `sample_options`."""
        weights = {file.options.derived.get(WEIGHT, "") for file in self.readers.inputs}
        with self.readers.borrow(0) as reader:
            copied_types(reader, self.params.observers)
            check_prediction_without_labels(reader, reader.extra)
            for weight in sorted(weights):
                report_weight_sources(reader, weight)

    def _check_samples(self) -> None:
        """Raise FileUnreadable if all files of a sample were left out."""
        for index, name in enumerate(self.fileset.names):
            if index not in self.fileset.sample_of:
                reason = self.survey.left_out[0].reason
                raise FileUnreadable(f"none of the files of sample '{name}' can be read: {reason}")

    def _labels_of_events(self, wanted: str | Sequence[object] | None, branches: Sequence[str]) -> Labels:
        """Return the labels from branches, the targets of files, or the labels of shuffled copies."""
        if wanted is None:
            return SHUFFLED_COPIES
        extra, task = self.survey.extra, self.params.task
        if not branches:
            return targets_by_file(wanted, self.files, self.entries)
        if task == "multilabel":
            return Labels(extra, branches=extra, task="multilabel")
        if task == "regression":
            unscaled = targets_by_branches(extra, *np.ones((2, len(extra))).tolist())
            batches = self._events_with(unscaled).without_features(self.plan.rows, self.params.workers)
            centre, spread = target_moments(batches, len(extra))
            return targets_by_branches(extra, centre.tolist(), spread.tolist())
        if is_pattern(branches[0]):
            return labels_by_branches(extra)
        return labels_by_branch(branches[0], self.readers.distinct_values(branches[0]))

    def _events_with(self, labels: Labels) -> EventBlocks:
        return EventBlocks(self.readers, self.survey, labels, self.split, self.scales, self.fixed_parts, self._binning)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths, URLs or LFNs of the files that are read, in the order given."""
        return self.fileset.files

    @property
    def fixed_parts(self) -> list[str]:
        """The part to which all events of a file belong, by file; "": the split assigns them."""
        return [self.fileset.samples[sample].part for sample in self.fileset.sample_of]

    @property
    def _has_cuts(self) -> bool:
        return any(file.options.preproc is not None or bool(file.options.cut) for file in self.readers.inputs)

    @property
    def specs(self) -> Specs:
        """Specs of all files together."""
        return self.survey.specs

    @property
    def options(self) -> ReadOptions:
        """Options for reading the files; the tree, the cut and the weight may depend on the sample."""
        return self.readers.options

    @property
    def entries(self) -> list[int]:
        """Number of events to read of each file, before cuts."""
        return self.survey.entries

    @property
    def groups(self) -> Sequence[int]:
        """Group of each file, (files,); a queue of the interleaving has files of one group only."""
        return self.labels.by_file or [0] * len(self.files)

    @cached_property
    def _counts(self) -> tuple[Composition, TrainingHistograms | None]:
        batches, histograms = self.events.without_features(self.plan.rows, self.params.workers), None
        if self._binning is not None:
            histograms = TrainingHistograms(self._binning.size, len(self.labels.classes))
            batches = histograms.watch(batches)
        return count_events(batches, self.labels, self.fileset.sample_of), histograms

    @property
    def composition(self) -> Composition:
        """Numbers and weights of events by sample, class and part."""
        return self._counts[0]

    @cached_property
    def reweighting(self) -> Reweighting | None:
        """The reweighting of the training part; None if its events are not reweighted.

        Raises:
            ConfigError: see `reweighting_factors`.
        """
        composition, histograms = self._counts
        if self.params.reweight is None or histograms is None:
            return None
        return Reweighting.of(self.params.reweight, self.labels.classes, histograms, float(composition.weights[0]))

    @property
    def yields(self) -> list[Yield]:
        """Yields by sample and class; see `yields_of`."""
        return yields_of(self.composition, self.labels, self.fileset.names, self.fileset.sample_labels)

    @cached_property
    def shuffling_units(self) -> np.ndarray:
        """The group in which each column is shuffled; see `shuffled_copies.shuffling_units`."""
        return shuffling_units(self.specs, self.inputs.layout)

    def skipped_samples(self) -> dict[str, Any]:
        """Return the content of skipped.json; {} if no file was left out."""
        return skipped_samples(self._all_files, self.survey.left_out, self._all_labels)

    def renormalise(self, choice: NormalisationChoice) -> None:
        """Use another normalisation from now on."""
        self.readers.change_options(normalise=choice)
        self.inputs = Inputs.of(self.specs, self.params.inputs, choice)
        self._cache = self._open_cache()

    def load(self, file: int, start: int, stop: int, raw: bool = False) -> Batch:
        """Read a block of entries of a file, of all parts, in the order of the file.

        Args:
            raw: return unnormalised values, with NaN for missing values.

        Raises:
            FileUnreadable: the file cannot be read, or is damaged.
            ConfigError: a label, a weight or a split is invalid for an event.
        """
        block = self._cache.get(file, start, stop) if self._cache and not raw else None
        if block is None:
            block = self.events.read(file, start, stop, raw=raw)
            if self._cache and not raw:
                self._cache.put(file, start, stop, block)
        if not raw:
            with self._lock:
                self._truncated[file, start, stop] = block.truncated
        self.readers.damaged_clusters[file].update(block.skipped)
        return block.batch

    def _open_cache(self) -> BlockCache | None:
        """Return the cache of blocks, whose key covers everything that the blocks depend on."""
        preproc = self.options.preproc
        if not self.params.cache or (preproc is not None and not preproc.portable):
            return None
        params = self.params.model_dump(
            include={"branch", "identifier", "inputs", "kfold", "on_error", "split", "task", "weight"}
        )
        params["bins"] = self.params.reweight and self.params.reweight.by
        specs = [self.specs.to_json()["branches"], self.options.normalise, self.split.fold]
        key = versioned_hash([self.survey.origins, params, specs, self._content_key])
        return BlockCache.open(key, int(self.params.cache_gb * 1e9))

    @property
    def key(self) -> str:
        """Hash of the events and of how they are read, mixed and shuffled: the same key gives the same batches."""
        return self._key_without(*NOT_IN_KEY)

    @property
    def order_key(self) -> str:
        """Hash like `key`, but independent of the batch size: the same key gives the same order of events."""
        return self._key_without(*NOT_IN_KEY, "batch_size")

    def _key_without(self, *names: str) -> str:
        params = self.params.model_dump(exclude=set(names))
        contents = [origin[:2] for origin in self.survey.origins]  # without size and modification time
        return versioned_hash([contents, params, self.specs.to_json()["branches"], self.split.fold, self._content_key])

    @property
    def _content_key(self) -> object:
        """Labels, preprocessing, and what depends on the sample, as JSON values."""
        labels = [self.labels.classes, self.labels.by_file, self.labels.by_number, self.labels.branches]
        preproc = None if self.options.preproc is None else self.options.preproc.cache_key
        options = [file.options for file in self.readers.inputs]
        samples = [[one.branch, one.nevts, one.cut, one.derived.get(WEIGHT, "")] for one in options]
        return [labels, preproc, samples, self.scales, self.fixed_parts]

    @property
    def truncated(self) -> dict[str, int]:
        """Number of values and objects dropped in the blocks loaded so far; see `DataReader.truncated`."""
        with self._lock:
            counts = list(self._truncated.values())
        total: Counter[str] = Counter()
        for block in counts:
            total.update(block)
        return dict(total)

    def data_notices(self) -> list[str]:
        """Return notices about files that were left out, and about data missing from the blocks loaded so far."""
        return [
            *left_out_notices(self.survey.left_out),
            *dropped_data_notices(self.truncated, self.readers.skipped, self.specs),
            *non_finite_notices(self.specs),
        ]

    def close(self) -> None:
        """Close all files; they are opened again when a block is loaded."""
        self.readers.close()
