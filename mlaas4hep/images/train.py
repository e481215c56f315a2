"""Train an image classifier: from a folder of images to a bundle.

    train_images(ImageOptions("hep_images", "labels.csv"), Network("resnet18"), params, mdir="models")

Training loop, checkpoints, log, bundle and report are shared with the training on events.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep.backends.model_file import ModelFile, quiet_import
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.images.check import check_images
from mlaas4hep.images.content import ImageContent
from mlaas4hep.images.folder import check_classes, read_folder
from mlaas4hep.images.stream import IMAGES, ImageStream
from mlaas4hep.stream.cache import versioned_hash
from mlaas4hep.training.callbacks import Callbacks
from mlaas4hep.training.run import open_run
from mlaas4hep.training.trained import TrainedModel

NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
MIN_SIZE, MAX_SIZE = 8, 2048
"""Allowed height and width of images, in pixels."""

_SOURCE = '''\
"""{name}, trained by hep_resnet.py."""

from mlaas4hep.images.resnet import resnet


def model(shapes, classes):
    return resnet("{name}", shapes["images"], classes)
'''


@dataclass(frozen=True)
class Network:
    """A residual network and its optimizer.

    Attributes:
        name: one of NETWORKS.
        optimizer: one of OPTIMIZERS.
        learning_rate: initial learning rate; 0: the default of the optimizer.
        precision: one of PRECISIONS, Keras's dtype policies for training; "auto": see `policy`.
    """

    name: str = "resnet18"
    optimizer: str = "adam"
    learning_rate: float = 0.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Raise a ConfigError if a value is invalid."""
        for what, value, allowed in (
            ("network", self.name, NETWORKS),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in allowed:
                hint = f"available: {', '.join(allowed)}"
                raise ConfigError(f"unknown {what} '{value}'", nearest=nearest(value, allowed), hint=hint)
        if not 0 <= self.learning_rate < math.inf:
            raise ConfigError(f"invalid learning rate {self.learning_rate:g}", hint="use a positive number, as 0.001")

    def as_model_file(self) -> ModelFile:
        """Return a generated model file that builds this network."""
        path, source = Path(f"{self.name}.py"), _SOURCE.format(name=self.name)
        return ModelFile(path, source, self.build, optimizer=self.make_optimizer())

    def policy(self) -> str:
        """Return Keras's dtype policy for training: mixed precision on GPUs that support it, else float32.

        GPUs accelerate float16 from compute capability 7.0 (V100, T4), and bfloat16, which has the range of float32,
        from 8.0 (A100, H100).
        """
        if self.precision != "auto":
            return self.precision
        capability = _compute_capability()
        return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16" if capability >= (7, 0) else "float32"

    def build(self, shapes: Mapping[str, tuple[int, ...]], classes: int) -> Any:
        """Return the untrained network; see `resnet`."""
        keras = _keras()
        from mlaas4hep.images.resnet import resnet

        height, width, channels = shapes[IMAGES]
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.policy())
        try:
            return resnet(self.name, (height, width, channels), classes)
        finally:
            keras.config.set_dtype_policy(before)

    def make_optimizer(self) -> Any:
        """Return the optimizer."""
        keras = _keras()
        classes = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "rmsprop": keras.optimizers.RMSprop}
        if self.optimizer == "sgd":
            return keras.optimizers.SGD(self.learning_rate or 0.05, momentum=0.9, nesterov=True)
        return classes[self.optimizer](self.learning_rate or 1e-3)


def _keras() -> Any:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # makes convolutions more than twice as fast
    with quiet_import():
        import keras
    return keras


def _compute_capability() -> tuple[int, int]:
    """Return the lowest compute capability of TensorFlow's GPUs; (0, 0) if there are none."""
    if _keras().backend.backend() != "tensorflow":
        return 0, 0
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return min((gpu_details.get("compute_capability", (0, 0)) for gpu_details in details), default=(0, 0))


@dataclass(frozen=True)
class ImageOptions:
    """The images of a run and how they are read.

    Attributes:
        folder, labels, ext: see `read_folder`.
        height, width: size of the model's input in pixels; 0: the most frequent size of the images.
        channels: 1 or 3; 0: 1 if all images are grey, else 3.
        augmented: augment training images.
        skip_bad: leave out images that cannot be decoded.
    """

    folder: str
    labels: str | None = None
    ext: str = "png"
    height: int = 0
    width: int = 0
    channels: int = 0
    augmented: bool = False
    skip_bad: bool = False


def train_images(
    images: ImageOptions,
    network: Network,
    params: Params,
    *,
    mdir: str | os.PathLike[str],
    quantised: bool = False,
    callbacks: Callbacks | None = None,
    resume: bool = False,
    sign: str = "",
) -> TrainedModel:
    """Train a network on images and write the bundle.

    Args:
        mdir: folder of the bundle. During training, a checkpoint and a table of epochs are written beside it.
        quantised: also write an 8-bit model.
        callbacks, resume, sign: see `train_model`.

    Raises:
        AlreadyTrained, Stopped, MLaaS4HEPError: see `train_model`.
    """
    with open_run(Path(mdir), params, callbacks, resume, sign) as run:
        labelled = read_folder(images.folder, images.labels, images.ext)
        check_classes(labelled)
        checked = check_images(labelled, images.skip_bad)
        check_classes(checked.images)
        shape = (images.height or checked.height, images.width or checked.width, images.channels or checked.channels)
        if not all(MIN_SIZE <= size <= MAX_SIZE for size in shape[:2]):
            raise ConfigError(
                f"images of {shape[0]} x {shape[1]} pixels are too {'small' if min(shape[:2]) < MIN_SIZE else 'large'}",
                hint=f"resize them to {MIN_SIZE} to {MAX_SIZE} pixels per side, as in --image_size=64",
            )
        stream = ImageStream(checked.images, shape, params, images.augmented)
        _check_parts(stream)
        run.begin(versioned_hash([stream.key, checked.digest, network]))
        file = network.as_model_file()
        content = ImageContent(stream, checked.bad, images.labels or "folders", quantised)
        fit = run.fit(stream, file, content)
        return run.finish(file, stream, content, [fit])


def _check_parts(stream: ImageStream) -> None:
    for part, count in zip(("training", "validation", "test"), stream.composition.totals.tolist(), strict=True):
        if not count:
            raise ConfigError(f"the {part} set has no images", hint="add images, or increase its share in --split")
