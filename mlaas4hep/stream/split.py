"""Split a sample into training, validation and test part.

    split = Split([0.7, 0.15, 0.15])
    parts = split.parts(identity_hash(chunk.ids, chunk.entries, reader.identity), chunk.extra)

A hash of the event's identity (run, luminosityBlock, event) decides which part an event belongs to. The hash does not
depend on the order, the number of workers, the names of files or the seed, so that an event of the test part stays
there, and copies of an event are in the same part. In files without identifiers, an event is identified by its file
(the UUID) and its entry number. Alternatively, expressions select the events of the validation and test parts. With k
folds, which the same hash defines, one fold is the test part, and the shares divide the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlaas4hep.errors import ConfigError

PARTS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)


@dataclass(frozen=True)
class Split:
    """The rule that splits a sample; see the module's docstring.

    Attributes:
        shares: shares of the training, validation and test part.
        expressions: expression that selects the events of a part, by part. If given, the shares are ignored, and all
            other events belong to the training part.
        folds: number of cross-validation folds; 0: none.
        fold: index of the fold that is the test part.
    """

    shares: Sequence[float] = (0.7, 0.15, 0.15)
    expressions: Mapping[str, str] = field(default_factory=dict)
    folds: int = 0
    fold: int = 0

    @property
    def training_share(self) -> float:
        """Approximate fraction of the events in the training part; 1 (an upper limit) if expressions select parts."""
        if self.folds:
            return (1 - 1 / self.folds) * self.shares[0] / (self.shares[0] + self.shares[1])
        return 1.0 if self.expressions else self.shares[0]

    @property
    def derived(self) -> dict[str, str]:
        """Expressions whose values `parts` needs, by name."""
        return {_expression_name(part): text for part, text in self.expressions.items()}

    def parts(self, hashed: np.ndarray, derived: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the index in PARTS of each event, int8 (events,).

        Args:
            hashed: hash of each event's identity, see `identity_hash`.
            derived: values of the expressions `self.derived`, (events,) each.

        Raises:
            ConfigError: an event belongs to two parts.
        """
        if self.expressions:
            return self._by_expression(derived, len(hashed))
        if self.folds:
            train, valid, _ = self.shares
            rest = part_of(_mix(hashed), [train / (train + valid), valid / (train + valid), 0.0])
            return np.where(fold_of(hashed, self.folds) == self.fold, np.int8(TEST), rest)
        return part_of(hashed, self.shares)

    def _by_expression(self, derived: Mapping[str, np.ndarray], events: int) -> np.ndarray:
        parts = np.full(events, TRAIN, np.int8)
        for part, text in self.expressions.items():
            chosen = derived[_expression_name(part)].astype(bool)
            if (parts[chosen] != TRAIN).any():
                other = next(expression for name, expression in self.expressions.items() if name != part)
                raise ConfigError(
                    f"split: '{other}' and '{text}' both select some events",
                    hint=f"exclude the events of one from the other in 'split' of the params: '({text}) & !({other})'",
                )
            parts[chosen] = PARTS.index(part)
        return parts


def identity_hash(ids: Mapping[str, np.ndarray], entries: np.ndarray, identity: str) -> np.ndarray:
    """Return a hash of each event's identity, uint64 (events,), uniform over its range."""
    columns = list(ids.values())
    if not columns:
        digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
        columns = [np.full(len(entries), int.from_bytes(digest, "little"), np.uint64), entries]
    hashed = np.zeros(len(entries), np.uint64)
    for column in columns:
        bits = _bits(column) if column.dtype.kind == "f" else column.astype(np.uint64)
        hashed = _mix(hashed ^ bits)
    return hashed


def _bits(numbers: np.ndarray) -> np.ndarray:
    """Return the bits of numbers as float64, uint64 (events,), the same bits for all NaN."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = numbers.astype(np.float64)
    wide[np.isnan(wide)] = np.nan
    return wide.view(np.uint64)


def part_of(hashed: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return the index in PARTS of each event, int8 (events,), given the shares of the parts, whose sum is 1."""
    edges = np.cumsum(shares)[:-1]
    return np.searchsorted(edges, hashed / 2.0**64, side="right").astype(np.int8)


def fold_of(hashed: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold of each event, int8 (events,), given the hashes of their identities."""
    return np.minimum(hashed / 2.0**64 * folds, folds - 1).astype(np.int8)


def _expression_name(part: str) -> str:
    return f"split: {part}"


def _mix(z: np.ndarray) -> np.ndarray:
    """Mix the bits of 64-bit integers: one step of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), a bijection."""
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
