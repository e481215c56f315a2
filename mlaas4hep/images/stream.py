"""Stream the images of a folder as batches: decoded, resized, shuffled and augmented during training.

    stream = ImageStream(read_folder("hep_images", "labels.csv"), (64, 64, 3), Params.parse({"batch_size": 32}))
    for batch in stream.batches("train", epoch=0):
        step(batch.inputs["images"], batch.y)                   # uint8 (n, 64, 64, 3), int64 (n,)

Only prefetched batches are in memory. The content and augmentation of a batch depend only on the images, the
parameters, the seed and the epoch, not on threads or timing. See `BatchSource`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.images.augment import augment
from mlaas4hep.images.decode import decode
from mlaas4hep.images.folder import ImageFolder
from mlaas4hep.io.prefetch import map_ordered, prefetch
from mlaas4hep.stream import PARTS, Batch
from mlaas4hep.stream.cache import versioned_hash
from mlaas4hep.stream.labels import Labels
from mlaas4hep.stream.sample_statistics import Composition

IMAGES = "images"
"""Name of the model's input."""

PREFETCH = 4
"""Number of prefetched batches."""

_IMAGE_PARAMS = {
    "name", "epochs", "batch_size", "shuffle", "balance", "split", "seed", "patience", "lr_patience", "lr_factor",
    "checkpoint", "tfaas", "tensorboard", "workers",
}  # fmt: skip
_NOT_IN_KEY = {"checkpoint", "tensorboard", "workers"}

_MAX_EXAMPLES = 32
_ORDER, _AUGMENTATION = range(2)  # independent streams of random numbers


class ImageStream:
    """Labelled images, split class by class into training, validation and test set.

    Attributes:
        shares: fractions of the training, validation and test set.
        part: int8 (images,), index in PARTS of each image's part.
    """

    def __init__(
        self, images: ImageFolder, shape: tuple[int, int, int], params: Params, augmented: bool = False
    ) -> None:
        """Split the images.

        Args:
            shape: height, width and channels of the model's input.
            augmented: augment training images in each epoch, see `augment`.

        Raises:
            ConfigError: a parameter applies to events only.
        """
        if isinstance(params.split, dict) or params.kfold or params.balance == "sampling" or params.reweight:
            raise ConfigError(
                "images do not support 'kfold', 'reweight', \"balance\": \"sampling\", or expressions in 'split'"
            )
        self.images, self.params, self.shares = images, params, params.split
        self._shape, self._augmented = shape, augmented
        self.part = _split(images, self.shares)

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
        """Number of images by part and class."""
        events = np.zeros((len(PARTS), len(self.images.classes)), np.int64)
        np.add.at(events, (self.part, self.images.y), 1)
        totals = events.sum(axis=1)
        return Composition(events, events.astype(np.float64), totals, totals.astype(np.float64), np.zeros_like(totals))

    def mean_training_weight(self) -> float:
        """Return the mean weight of the training images, after balancing."""
        return self.composition.mean_training_weight(self.params.balance)

    def mean_training_events(self) -> float:
        """Return the mean number of training images in an epoch, after balancing."""
        return self.composition.mean_training_events(self.params.balance)

    @property
    def training_entries(self) -> int:
        """Number of training images."""
        return int(self.composition.totals[0])

    @property
    def key(self) -> str:
        """Hash of the images, their shape and augmentation, and the parameters that affect the result."""
        names = hashlib.blake2b(self.images.names.tobytes() + self.images.y.tobytes()).hexdigest()
        params = {name: value for name, value in self.image_params.items() if name not in _NOT_IN_KEY}
        return versioned_hash([names, self.images.classes, self._shape, self._augmented, params])

    @property
    def image_params(self) -> dict[str, Any]:
        """The parameters that apply to images, by name; `Params` also has those of events."""
        return self.params.model_dump(include=_IMAGE_PARAMS)

    def disable_normalisation(self) -> None:
        """Do nothing: the model itself scales images."""

    def batches(
        self,
        part: str | None = None,
        epoch: int = 0,
        shuffle: bool | None = None,
        *,
        skip: int = 0,
        balanced: bool = True,
    ) -> Iterator[Batch]:
        """Yield each image of a part once, in batches; see `DataGenerator.batches`.

        Raises:
            FileUnreadable: an image can no longer be read.
        """
        shuffle = self.params.shuffle if shuffle is None else shuffle
        order = self._order(part, epoch, shuffle)
        size = self.params.batch_size
        numbers = range(skip, -(-len(order) // size))
        factors = self.composition.factors(self.params.balance) if balanced and part != "test" else None

        def load(number: int) -> Batch:
            batch = self.load(order[number * size : (number + 1) * size])
            if self._augmented and part == "train" and shuffle:
                pixels = augment(batch.inputs[IMAGES], self._rng(_AUGMENTATION, epoch, number))
                batch = replace(batch, inputs={IMAGES: pixels})
            if factors is not None:
                batch = replace(batch, weight=factors[batch.y].astype(np.float32))
            return batch

        return prefetch(map_ordered(load, numbers, self.params.workers), PREFETCH)

    def examples(self, count: int, part: str | None = "test") -> Batch:
        """Return up to `count` images, at most 32, evenly spread over a part or over all images."""
        indices = self._order(part, 0, shuffle=False)
        count = min(count, len(indices), _MAX_EXAMPLES)
        return self.load(indices[np.linspace(0, len(indices) - 1, count).astype(np.int64)])

    def _order(self, part: str | None, epoch: int, shuffle: bool) -> np.ndarray:
        indices = np.arange(len(self.images)) if part is None else np.flatnonzero(self.part == PARTS.index(part))
        return self._rng(_ORDER, epoch).permutation(indices) if shuffle else indices

    def load(self, chosen: np.ndarray) -> Batch:
        """Return the images with these indices as one batch."""
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


def _split(images: ImageFolder, shares: list[float]) -> np.ndarray:
    """Assign the images of each class to parts, in the order of a hash of their names."""
    part = np.zeros(len(images), np.int8)
    hashes = [hashlib.blake2b(name, digest_size=8).digest() for name in images.names.tolist()]
    hashed = np.frombuffer(b"".join(hashes), "<u8")
    for label in range(len(images.classes)):
        members = np.flatnonzero(images.y == label)
        members = members[np.argsort(hashed[members], kind="stable")]
        test = max(1, round(len(members) * shares[2]))
        valid = min(round(len(members) * shares[1]), len(members) - test - 1)
        part[members[:test]] = PARTS.index("test")
        part[members[test : test + valid]] = PARTS.index("valid")
    return part
