"""Blocks of events of a sample, with labels, weights and parts.

events = EventBlocks(readers, found, labels, split, scales=[0.37, 0.012])
events.read(file=0, start=0, stop=1000).batch
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mlaas4hep import console
from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Columns
from mlaas4hep.io.prefetch import map_ordered
from mlaas4hep.reader.chunk import Chunk
from mlaas4hep.samples.input_files import WEIGHT
from mlaas4hep.samples.readers import SampleReaders
from mlaas4hep.samples.survey import Survey, convert_identifier
from mlaas4hep.specs.specs import FLOAT32_MAX
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.cache import CachedBlock
from mlaas4hep.stream.labels import Labels
from mlaas4hep.stream.reweighting import Binning
from mlaas4hep.stream.split import PARTS, Split, identity_hash

FLOAT32_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class EventBlocks:
    """Reads blocks of events.

    Attributes:
        readers: readers of the files.
        survey: properties of the files.
        labels: the rule that assigns labels to events.
        split: the rule that assigns events to parts.
        scales: factor of the event weights, by file.
        fixed_parts: the part to which all events of a file belong, by file; "": the split assigns them.
        binning: bins for reweighting; None: events are not reweighted.
    """

    readers: SampleReaders
    survey: Survey
    labels: Labels
    split: Split
    scales: Sequence[float]
    fixed_parts: Sequence[str]
    binning: Binning | None = None

    def read(self, file: int, start: int, stop: int, raw: bool = False, features: bool = True) -> CachedBlock:
        """Read the entries start <= i < stop of a file that pass the cuts, in the order of the file.

        Args:
            raw: return rows of unnormalised values, with NaN for missing values.
            features: if False, read labels, weights and identifiers only.

        Raises:
            FileUnreadable: the file cannot be read, or is damaged.
            ConfigError: the label, weight or part of an event is invalid.
        """
        with self.readers.borrow(file) as reader:
            chunk = reader.read_block(start, stop, raw, pad=False, features=features)
            truncated = dict(reader.truncated)
            reader.truncated.clear()
            skipped = {span: reason for span, reason in reader.skipped.items() if span[0] < stop and start < span[1]}
        hashed = self.hashes(chunk.ids, chunk.entries, reader.identity)
        weight = self._weights(file, chunk)
        batch = Batch(
            chunk.inputs,
            self.labels.encode(file, len(chunk), chunk.extra),
            weight.astype(np.float32),
            {name: convert_identifier(values, self.survey.id_types[name], name) for name, values in chunk.ids.items()},
            self._parts(file, chunk, hashed),
            np.full(len(chunk), file, np.int32),
            chunk.entries,
            None if self.binning is None else self.binning.index(chunk.extra, len(chunk)),
        )
        return CachedBlock(batch, truncated, skipped)

    def _parts(self, file: int, chunk: Chunk, hashed: np.ndarray) -> np.ndarray:
        """Return the index in PARTS of each event, int8 (events,)."""
        if self.fixed_parts[file]:
            return np.full(len(chunk), PARTS.index(self.fixed_parts[file]), np.int8)
        return self.split.parts(hashed, chunk.extra)

    def _weights(self, file: int, chunk: Chunk) -> np.ndarray:
        """Return the scaled weights of events, float64 (events,)."""
        text = self.readers.inputs[file].options.derived.get(WEIGHT, "")
        weight = self.scales[file] * (chunk.extra[WEIGHT] if text else np.ones(len(chunk)))
        size = np.abs(weight)
        invalid = ~(size <= FLOAT32_MAX) | ((size > 0) & (size < FLOAT32_TINY))
        if invalid.any():
            first = int(np.argmax(invalid))
            place = "the samples file" if self.readers.inputs[file].sample else "the params"
            scaled = "" if self.scales[file] == 1 else f", scaled by {self.scales[file]:.6g},"
            raise ConfigError(
                f"weight: '{text}'{scaled} is {weight[first]} for entry {chunk.entries[first]} of"
                f" {self.readers.inputs[file]}; weights must be finite float32 numbers",
                hint=f"change 'weight' in {place}, or remove such events with a cut (--preproc)",
            )
        return weight

    def without_features(self, rows: int, workers: int) -> Iterator[Batch]:
        """Yield labels, weights, identifiers and parts of all events, in blocks of about `rows` entries."""
        files = range(len(self.readers.inputs))
        blocks = [(file, *block) for file in files for block in self.survey.blocks(file, rows)]
        with console.progress("labels and weights", sum(stop - start for _, start, stop in blocks)) as bar:
            batches = map_ordered(lambda block: self.read(*block, features=False).batch, blocks, workers)
            for (_, start, stop), batch in zip(blocks, batches, strict=True):
                yield batch
                bar.advance(stop - start)

    def hashes(self, values: Columns, entries: np.ndarray, identity: str) -> np.ndarray:
        """Return the hash of each event's identity, uint64 (events,); see `identity_hash`."""
        return identity_hash({name: np.asarray(values[name]) for name in self.survey.identifier}, entries, identity)
