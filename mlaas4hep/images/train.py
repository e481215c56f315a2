"""A whole run: a folder of images in, a bundle out.

    train_images("hep_images", "labels.csv", Network("resnet18"), params, mdir="models")

All but the images is as for events: the loop, checkpoints, the log, the bundle and its report. Printing is left to the
script.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.images.check import check_images
from mlaas4hep.images.content import ImageContent
from mlaas4hep.images.folder import check_classes, read_folder
from mlaas4hep.images.stream import IMAGES, ImageStream
from mlaas4hep.stream.cache import key_of
from mlaas4hep.training.bundle import Trained
from mlaas4hep.training.model_file import ModelFile, quiet_import
from mlaas4hep.training.run import Watch, open_run

NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
SMALLEST, LARGEST = 8, 2048
"""Pixels along an edge of the images that a network takes."""

_SOURCE = '''\
"""{name} for images, as hep_resnet.py trains it."""

from mlaas4hep.images.resnet import resnet


def model(shapes, classes):
    return resnet("{name}", shapes["images"], classes)
'''


@dataclass(frozen=True)
class Network:
    """What is trained.

    Attributes:
        name: one of NETWORKS.
        optimizer: one of OPTIMIZERS.
        learning_rate: of the optimizer, to begin with; 0: what is usual for it.
        precision: one of PRECISIONS, Keras's policies of what training computes in; "auto": see `policy`.
    """

    name: str = "resnet18"
    optimizer: str = "adam"
    learning_rate: float = 0.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Raise ConfigError if there is no such network, optimizer, precision or learning rate."""
        for what, given, known in (
            ("network", self.name, NETWORKS),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("precision", self.precision, PRECISIONS),
        ):
            if given not in known:
                hint = f"there are {', '.join(known)}"
                raise ConfigError(f"there is no {what} '{given}'", nearest=nearest(given, known), hint=hint)
        if not 0 <= self.learning_rate < math.inf:
            raise ConfigError(f"the learning rate is {self.learning_rate:g}", hint="take one above 0, as 0.001")

    def as_model_file(self) -> ModelFile:
        """Return it as a model file, which a bundle keeps."""
        return ModelFile(
            Path(f"{self.name}.py"), _SOURCE.format(name=self.name), self.build, optimizer=self.make_optimizer()
        )

    def policy(self) -> str:
        """Return the policy that training computes by: float32, or half of it where a GPU is faster with that.

        GPUs compute convolutions in float16 from compute capability 7.0 on (V100, T4), and in bfloat16, in which
        nothing under- or overflows, from 8.0 on (A100, H100).
        """
        if self.precision != "auto":
            return self.precision
        able = _capability()
        return "mixed_bfloat16" if able >= (8, 0) else "mixed_float16" if able >= (7, 0) else "float32"

    def build(self, shapes: Mapping[str, tuple[int, ...]], classes: int) -> Any:
        """Return the network, untrained; see `resnet`."""
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
        kinds = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "rmsprop": keras.optimizers.RMSprop}
        if self.optimizer == "sgd":
            return keras.optimizers.SGD(self.learning_rate or 0.05, momentum=0.9, nesterov=True)
        return kinds[self.optimizer](self.learning_rate or 1e-3)


def _keras() -> Any:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # convolutions take less than half of the time
    with quiet_import():
        import keras
    return keras


def _capability() -> tuple[int, int]:
    """Return the compute capability of the weakest GPU that TensorFlow uses; (0, 0): there is none."""
    if _keras().backend.backend() != "tensorflow":
        return 0, 0
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return min((found.get("compute_capability", (0, 0)) for found in details), default=(0, 0))


@dataclass(frozen=True)
class Images:
    """Which images, and how the network is given them.

    Attributes:
        folder, labels, ext: see `read_folder`.
        height, width: in pixels, as the network takes them; 0: as most of the images are.
        channels: 1 or 3; 0: 3, unless all are grey.
        augmented: show other views of the images in each epoch.
        skip_bad: leave out those that cannot be decoded.
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
    images: Images,
    network: Network,
    params: Params,
    *,
    mdir: str | os.PathLike[str],
    quantised: bool = False,
    watch: Watch | None = None,
    sign: str = "",
) -> Trained:
    """Train a network on images, and write the bundle.

    Args:
        mdir: folder of the bundle. Beside it lie, until it is written, a checkpoint and a table of epochs.
        quantised: write also a model of 8 bits.
        sign: file of the private key that signs the ONNX files; "": they are not signed.

    Raises:
        AlreadyTrained: the run was to be resumed, and has its bundle.
        Stopped: it was asked to stop.
        MLaaS4HEPError: something of the above is not as it must be; the message says what to change.
    """
    with open_run(Path(mdir), params, watch or Watch(), sign) as run:
        found = read_folder(images.folder, images.labels, images.ext)
        check_classes(found)
        checked = check_images(found, images.skip_bad)
        check_classes(checked.images)
        shape = (images.height or checked.height, images.width or checked.width, images.channels or checked.channels)
        if not all(SMALLEST <= size <= LARGEST for size in shape[:2]):
            raise ConfigError(
                f"images of {shape[0]} x {shape[1]} pixels are too {'small' if min(shape[:2]) < SMALLEST else 'large'}",
                hint=f"resize them to {SMALLEST} to {LARGEST} pixels, as in --image_size=64",
            )
        stream = ImageStream(checked.images, shape, params, images.augmented)
        _check_parts(stream)
        run.begin(key_of([stream.key, checked.digest, network]))
        file = network.as_model_file()
        fit = run.fit(stream, file)
        content = ImageContent(stream, checked.bad, images.labels or "folders", quantised)
        return run.finish(file, stream, content, [fit])


def _check_parts(stream: ImageStream) -> None:
    for what, count in zip(("training", "validation", "the test"), stream.composition.totals.tolist(), strict=True):
        if not count:
            raise ConfigError(f"no image is left for {what}", hint="give more images, or a larger share in --split")
