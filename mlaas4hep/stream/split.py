"""Which part of the sample an event belongs to: training, validation or test.

    split = Split([0.7, 0.15, 0.15])
    parts = split.parts(identity_hash(chunk.ids, chunk.entries, reader.identity), chunk.extra)

The rule is a hash of the event's identity (run, luminosityBlock, event). It depends on nothing else: not on the order,
the number of workers, the names of files or the seed, so that an event that was in the test part stays there, and
copies of an event fall into the same part. Where a file has no identifiers, the identity is the file's own (its UUID)
and the number of the entry. Instead, expressions may say which events are for validation and which for the test. Of k
folds, by the same hash, one is the test part, and the shares divide the others.
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
    """The rule; see the module's docstring.

    Attributes:
        shares: of training, validation and test part.
        expressions: by part, which events belong to it; then the shares do not count, and the rest is for training.
        folds: into how many folds the events are divided; 0: none.
        fold: which of them is the test part.
    """

    shares: Sequence[float] = (0.7, 0.15, 0.15)
    expressions: Mapping[str, str] = field(default_factory=dict)
    folds: int = 0
    fold: int = 0

    @property
    def share_of_training(self) -> float:
        """About how much of the sample is for training; all of it where only the events know."""
        if self.folds:
            return (1 - 1 / self.folds) * self.shares[0] / (self.shares[0] + self.shares[1])
        return 1.0 if self.expressions else self.shares[0]

    @property
    def derived(self) -> dict[str, str]:
        """The expressions that `parts` wants to be evaluated."""
        return {_purpose(part): text for part, text in self.expressions.items()}

    def parts(self, hashed: np.ndarray, derived: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the index in PARTS of each event, int8 (events,).

        Args:
            hashed: of the events' identities, see `identity_hash`.
            derived: what came of the expressions, (events,) each.

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
            chosen = derived[_purpose(part)].astype(bool)
            if (parts[chosen] != TRAIN).any():
                other = next(its for name, its in self.expressions.items() if name != part)
                raise ConfigError(
                    f"split: '{other}' and '{text}' both choose some events",
                    hint=f"let one leave out the other's in 'split' of the params: '({text}) & !({other})'",
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
        bits = column.astype(np.float64).view(np.uint64) if column.dtype.kind == "f" else column.astype(np.uint64)
        hashed = _mix(hashed ^ bits)
    return hashed


def part_of(hashed: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return the index in PARTS of each event, int8 (events,), given the shares of the parts (sum 1)."""
    edges = np.cumsum(shares)[:-1]
    return np.searchsorted(edges, hashed / 2.0**64, side="right").astype(np.int8)


def fold_of(hashed: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold of each event, int8 (events,), given the hashes of their identities."""
    return np.minimum(hashed / 2.0**64 * folds, folds - 1).astype(np.int8)


def _purpose(part: str) -> str:
    return f"split: {part}"


def _mix(z: np.ndarray) -> np.ndarray:
    """One step of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection of 64 bits that leaves no pattern."""
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed
