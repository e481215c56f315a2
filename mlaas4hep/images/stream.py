"""The images of a folder as batches: decoded, resized, shuffled and augmented while the model trains.

    stream = ImageStream(read_folder("hep_images", "labels.csv"), (64, 64, 3), Params.parse({"batch_size": 32}))
    for batch in stream.batches("train", epoch=0):
        step(batch.inputs["images"], batch.y)                   # uint8 (n, 64, 64, 3), int64 (n,)

Only the batches that are under way are in memory. Which images a batch holds, and how they are augmented, depends on
their names, the parameters, the seed and the epoch, never on threads or timing. See `BatchSource`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.images.augment import augment
from mlaas4hep.images.decode import decode
from mlaas4hep.images.folder import ImageFolder
from mlaas4hep.io.ahead import ahead, in_background
from mlaas4hep.stream import PARTS, Batch
from mlaas4hep.stream.cache import key_of
from mlaas4hep.stream.census import Composition
from mlaas4hep.stream.labels import Labels

IMAGES = "images"
"""Name of the model's input."""

AHEAD = 4
"""Batches that wait for the model."""

_MOST_EXAMPLES = 32
_ORDER, _AUGMENTED = range(2)  # streams of random numbers, so that none depends on how much another has drawn


class ImageStream:
    """Labelled images in three parts, each class divided by the same shares.

    Attributes:
        images: all of them.
        params: how to mix and train.
        shares: of the parts, in each class.
        part: int8 (images,), the index in PARTS of the part that each belongs to.
    """

    def __init__(
        self, images: ImageFolder, shape: tuple[int, int, int], params: Params, augmented: bool = False
    ) -> None:
        """Divide images.

        Args:
            shape: height, width and channels that the model takes.
            augmented: show the model other views of the training images in each epoch; see `augment`.

        Raises:
            ConfigError: the params ask for what is for events alone.
        """
        if isinstance(params.split, dict) or params.kfold or params.balance == "sampling":
            raise ConfigError("images are divided by shares, and there is no kfold and no balance by sampling for them")
        self.images, self.params, self.shares = images, params, params.split
        self._shape, self._augmented = shape, augmented
        self.part = _divide(images, self.shares)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of an image."""
        return {IMAGES: self._shape}

    @property
    def labels(self) -> Labels:
        """The classes."""
        return Labels(self.images.classes, by_file=())

    @cached_property
    def composition(self) -> Composition:
        """How many images there are of what class in which part."""
        events = np.zeros((len(PARTS), len(self.images.classes)), np.int64)
        np.add.at(events, (self.part, self.images.y), 1)
        totals = events.sum(axis=1)
        return Composition(events, events.astype(np.float64), totals, totals.astype(np.float64), np.zeros_like(totals))

    @property
    def training_entries(self) -> int:
        """How many images are for training."""
        return int(self.composition.totals[0])

    @property
    def key(self) -> str:
        """Names the images, what is made of them, and the parameters that matter for that."""
        names = hashlib.blake2b(self.images.names.tobytes() + self.images.y.tobytes()).hexdigest()
        told = self.params.model_dump(exclude={"verbose", "checkpoint", "workers", "tensorboard"})
        return key_of([names, self.images.classes, self._shape, self._augmented, told])

    def leave_raw(self) -> None:
        """Do nothing: images are scaled in the model."""

    def batches(
        self,
        part: str | None = None,
        epoch: int = 0,
        shuffle: bool | None = None,
        *,
        skip: int = 0,
        balanced: bool = True,
    ) -> Iterator[Batch]:
        """Yield batches until every image of a part was delivered once; see `DataGenerator.batches`.

        Raises:
            FileUnreadable: an image cannot be read any more.
        """
        shuffle = self.params.shuffle if shuffle is None else shuffle
        order = self._order(part, epoch, shuffle)
        size = self.params.batch_size
        numbers = range(skip, -(-len(order) // size))
        factors = self.composition.factors(self.params.balance) if balanced and part != "test" else None

        def load(number: int) -> Batch:
            batch = self.load(order[number * size : (number + 1) * size])
            if self._augmented and part == "train" and shuffle:
                pixels = augment(batch.inputs[IMAGES], self._rng(_AUGMENTED, epoch, number))
                batch = replace(batch, inputs={IMAGES: pixels})
            if factors is not None:
                batch = replace(batch, weight=factors[batch.y].astype(np.float32))
            return batch

        return in_background(ahead(load, numbers, self.params.workers), AHEAD)

    def examples(self, count: int, part: str | None = "test") -> Batch:
        """Return up to `count` images of a part, or of all, and no more than 32: spread over the part."""
        there = self._order(part, 0, shuffle=False)
        count = min(count, len(there), _MOST_EXAMPLES)
        return self.load(there[np.linspace(0, len(there) - 1, count).astype(np.int64)])

    def _order(self, part: str | None, epoch: int, shuffle: bool) -> np.ndarray:
        there = np.arange(len(self.images)) if part is None else np.flatnonzero(self.part == PARTS.index(part))
        return self._rng(_ORDER, epoch).permutation(there) if shuffle else there

    def load(self, chosen: np.ndarray) -> Batch:
        """Return some images, by their indices."""
        pixels = np.empty((len(chosen), *self._shape), np.uint8)
        for row, index in enumerate(chosen.tolist()):
            pixels[row] = self._read(index)
        return Batch(
            inputs={IMAGES: pixels},
            y=self.images.y[chosen],
            weight=np.ones(len(chosen), np.float32),
            ids={},
            part=self.part[chosen],
            file=np.zeros(len(chosen), np.int32),
            entry=chosen,
        )

    def _read(self, index: int) -> np.ndarray:
        path = self.images.path(index)
        try:
            with open(path, "rb") as file:
                return decode(file, *self._shape)
        except OSError as error:
            raise FileUnreadable(f"cannot read {path}: {error.strerror}") from error
        except ConfigError as error:
            raise FileUnreadable(f"cannot read {path}: {error.what}") from error

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.params.seed, *stream])


def _divide(images: ImageFolder, shares: list[float]) -> np.ndarray:
    """Give each class's images to the parts, in the order of a hash of their names."""
    part = np.zeros(len(images), np.int8)
    hashed = np.array([_hash(name) for name in images.names.tolist()], np.uint64)
    for label in range(len(images.classes)):
        mine = np.flatnonzero(images.y == label)
        mine = mine[np.argsort(hashed[mine], kind="stable")]
        test = max(1, round(len(mine) * shares[2]))
        valid = min(round(len(mine) * shares[1]), len(mine) - test - 1)
        part[mine[:test]] = PARTS.index("test")
        part[mine[test : test + valid]] = PARTS.index("valid")
    return part


def _hash(name: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
