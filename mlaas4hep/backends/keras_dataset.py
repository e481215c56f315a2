"""Events as a tf.data.Dataset, for `fit` of a Keras model.

with DataGenerator(["ggH.root", "VBF.root"], ["ggH", "VBF"]) as generator:
    model.fit(event_dataset(generator), validation_data=event_dataset(generator, "valid"), epochs=10)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from mlaas4hep.backends.protocol import array_shapes, choose_inputs
from mlaas4hep.backends.task import Task
from mlaas4hep.errors import require
from mlaas4hep.reader.inputs import VECTOR
from mlaas4hep.stream import PARTS, DataGenerator


def event_dataset(generator: DataGenerator, part: str = "train", takes: Sequence[str] = (VECTOR,)) -> Any:
    """Return a tf.data.Dataset of (inputs, y, weight); each pass over it is the next epoch.

    Args:
        part: "train", "valid" or "test".
        takes: names of the inputs and masks of the model. A single one is a tensor, several are a dict of tensors.

    Raises:
        ConfigError: an input does not exist.
        PackageMissing: TensorFlow is not installed.
    """
    tf = require("tensorflow", "keras", "a tf.data.Dataset")
    names = choose_inputs(takes, generator.shapes, "the model") if VECTOR not in generator.shapes else tuple(takes)
    shapes = array_shapes(generator.shapes)
    shapes |= {"mask": shapes[VECTOR]} if VECTOR in shapes else {}
    task = Task.of(generator.sample.labels)
    width = len(task.classes)
    epochs = count()

    def one_or_all(arrays: dict[str, Any]) -> Any:
        return arrays if len(names) > 1 else arrays[names[0]]

    def batches() -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        epoch = next(epochs) if part == "train" else 0
        for batch in generator.batches(part, epoch):
            yield one_or_all({name: batch.inputs[name].astype(np.float32) for name in names}), batch.y, batch.weight

    inputs = one_or_all({name: tf.TensorSpec((None, *shapes[name]), tf.float32) for name in names})
    y = tf.TensorSpec((None,), tf.int64) if task.name == "classification" else tf.TensorSpec((None, width), tf.float32)
    signature = (inputs, y, tf.TensorSpec((None,), tf.float32))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    if not generator.params.samples_events or part != "train":  # otherwise epochs differ in length
        sample = generator.sample
        events = int(sample.composition.totals[PARTS.index(part)]) * (1 + sample.labels.uses_shuffled_copies)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(-(-events // generator.params.batch_size)))
    return dataset.prefetch(1)
