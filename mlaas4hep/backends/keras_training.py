"""Default losses and optimizers of Keras models.

model.compile(default_optimizer(model, params), default_loss(task, outputs=1, output="logits"))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.backends.protocol import losses_by_name, ordered_outputs
from mlaas4hep.backends.task import Output, Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError

LEARNING_RATE = 1e-3
"""Default for Adam, if the model is not compiled and neither the model file nor the params set one."""


def check_params(file: ModelFile, params: Params) -> None:
    """Raise ConfigError if the params have settings that Keras models get from arguments of their optimizer."""
    for name, argument in (
        ("clip_norm", "global_clipnorm"),
        ("accumulate", "gradient_accumulation_steps"),
        ("ema", ""),
    ):
        if getattr(params, name) != Params.model_fields[name].default:
            raise ConfigError(
                f"'{name}' is not supported for the Keras model of {file.path}",
                hint=f"give the optimizer of the model file the argument {argument}" if argument else "leave it out",
            )


def default_optimizer(model: keras.Model, params: Params) -> keras.optimizers.Optimizer:
    """Return Adam, or AdamW if the params set a weight decay, which excludes biases and normalisation layers."""
    rate = params.learning_rate or LEARNING_RATE
    if params.weight_decay is None:
        return keras.optimizers.Adam(rate)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=params.weight_decay)
    optimizer.exclude_from_weight_decay([weight for weight in model.trainable_variables if len(weight.shape) < 2])
    return optimizer


def join_outputs(model: keras.Model, task: Task, where: Path) -> keras.Model:
    """Wrap a model that has one output per label or target; the result has one output (events, outputs).

    Raises:
        ConfigError: the outputs do not match the labels or targets, or the model is compiled.
    """
    if model.compiled:
        raise ConfigError(
            f"the model of {where} has several outputs and is compiled",
            hint='do not compile it; define `optimizer`, and `loss` as one loss or as a dict, {"NAME": "huber", ...}',
        )
    output = model.output
    if isinstance(output, (list, tuple)) and sorted(model.output_names) == sorted(task.classes):
        output = dict(zip(model.output_names, output, strict=True))  # layers have the names of the targets
    outputs = ordered_outputs(output, task, where)
    inputs = model.inputs if len(model.inputs) > 1 else model.inputs[0]
    return keras.Model(inputs, keras.layers.Concatenate(axis=-1)(outputs))


def loss_of(file: ModelFile, task: Task) -> Any:
    """Return the loss of the model file, if any; a dict of losses becomes their mean."""
    return _mean_loss(losses_by_name(file.loss, task, file.path)) if isinstance(file.loss, dict) else file.loss


def _mean_loss(losses: Sequence[Any]) -> Callable[[Any, Any], Any]:
    """Return a function that computes the mean of losses per event; each loss gets one column of output and target."""
    functions = [keras.losses.get(loss) for loss in losses]
    per_event = [getattr(function, "call", function) for function in functions]

    def loss(y: Any, output: Any) -> Any:
        columns = [slice(index, index + 1) for index in range(len(per_event))]
        values = [function(y[:, i], output[:, i]) for function, i in zip(per_event, columns, strict=True)]
        return keras.ops.mean(keras.ops.stack(values, axis=-1), axis=-1)

    return loss


def default_loss(task: Task, outputs: int, output: Output) -> Any:
    """Return the default loss for a model's outputs: cross-entropy, or the mean squared error for regression.

    Raises:
        ConfigError: the outputs are log-probabilities, for which Keras has no loss.
    """
    if task.name == "regression":
        return keras.losses.MeanSquaredError()
    if output == "log_probabilities":
        raise ConfigError(
            "the model returns log-probabilities, for which Keras has no loss",
            hint="end it with softmax, or without activation",
        )
    if outputs == 1 or task.name == "multilabel":
        return keras.losses.BinaryCrossentropy(from_logits=output == "logits")
    return keras.losses.SparseCategoricalCrossentropy(from_logits=output == "logits")


def wants_one_hot(loss: Any) -> bool:
    """Return whether a loss expects one-hot targets: losses of Keras that are not sparse do, custom losses do not."""
    if isinstance(loss, str):
        return not loss.lower().startswith("sparse")
    kinds = type(loss).__mro__ if isinstance(loss, keras.losses.Loss) else (loss,)
    names = [kind.__name__ for kind in kinds if getattr(kind, "__module__", "").startswith("keras.")]
    return bool(names) and not names[0].startswith(("Loss", "Sparse", "sparse"))
