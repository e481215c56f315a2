"""The part of the training (training, validation or test set) to which an event belonged.

    parts = TrainingParts(read_description(Path("bundle")))
    file = parts.find(reader.identity, reader.identifier, sample="ggH")
    parts.of(file, ids, entries, derived, reader.identity)      # int8 (events,): index in PARTS, or UNSEEN

An event belonged to a part if the training has read its file. Files are recognised by their content (for ROOT files,
the UUID and the path of the tree), not by their name. If events have the identifiers of the training, files of a sample
with the same name as a sample of the training also count, because the hash of an event does not depend on its file. All
other events are unseen. With folds, each event of the training is scored by the model that was tested on it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from mlaas4hep.expressions.derived import DerivedColumns
from mlaas4hep.stream.sample_options import split_of
from mlaas4hep.stream.split import PARTS, TEST, identity_hash
from mlaas4hep.training.bundle_description import BundleDescription, TrainingFile

UNSEEN = -1
"""The part of events that the training did not read."""


class TrainingParts:
    """Assigns events to the parts of the training; see the module's docstring.

    Attributes:
        known: whether the bundle lists the files that the training has read; bundles of older versions do not.
        derived: the expressions of the split, if it has any.
    """

    def __init__(self, training: BundleDescription) -> None:
        self._training = training
        self._split = split_of(training.params)
        self._by_identity = {file.identity: file for file in training.files}
        self.known = bool(training.files) and "" not in self._by_identity
        self.derived = DerivedColumns(self._split.derived)

    def find(self, identity: str, identifier: Sequence[str], sample: str) -> TrainingFile | None:
        """Return the file of the training that matches a file to score; None: its events are unseen.

        Args:
            identity, identifier: see `DataReader`.
            sample: name of its sample.
        """
        found, same_identifier = self._by_identity.get(identity), [*identifier] == self._training.identifier
        if found is None and identifier and same_identifier and sample in self._training.samples:
            part = self._training.samples[sample].part
            return TrainingFile(identity=identity, entries=sys.maxsize, part=part)
        return found

    def of(
        self,
        file: TrainingFile | None,
        ids: Mapping[str, np.ndarray],
        entries: np.ndarray,
        derived: Mapping[str, np.ndarray],
        identity: str,
    ) -> np.ndarray:
        """Return the index in PARTS of each event, or UNSEEN, int8 (events,).

        Args:
            file: what `find` returned.
            ids, entries, identity: see `identity_hash`.
            derived: values of the expressions of the split.
        """
        if file is None:
            return np.full(len(entries), UNSEEN, np.int8)
        if self._training.folds:
            parts = np.full(len(entries), TEST, np.int8)
        elif file.part:
            parts = np.full(len(entries), PARTS.index(file.part), np.int8)
        else:
            parts = self._split.parts(identity_hash(ids, entries, identity), derived)
        return np.where(entries < file.entries, parts, np.int8(UNSEEN))
