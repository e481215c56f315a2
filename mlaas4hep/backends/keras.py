"""Keras 3 models. A compiled model keeps its loss and its optimizer.

Models that train in half precision (policies mixed_float16 and mixed_bfloat16) predict in float32, as their ONNX graphs
do, with a float32 copy of the layers. The environment variable KERAS_BACKEND (tensorflow, torch) selects Keras's own
backend.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mlaas4hep.backends.keras_aux_loss import AuxLoss
from mlaas4hep.backends.keras_precision import float32_copy
from mlaas4hep.backends.keras_state import arrays_of, packed, random_states, set_random_states, unpack
from mlaas4hep.backends.keras_training import (
    check_params,
    default_loss,
    default_optimizer,
    join_outputs,
    loss_of,
    wants_one_hot,
)
from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.backends.model_settings import check_default_optimizer
from mlaas4hep.backends.protocol import (
    Shapes,
    array_shapes,
    choose_inputs,
    explain_rejection,
    probe_inputs,
    schedule_error,
    single_output_error,
    training_only,
)
from mlaas4hep.backends.schedule import make_schedule
from mlaas4hep.backends.task import Output, Task
from mlaas4hep.config import Params
from mlaas4hep.console import filtered_stderr
from mlaas4hep.errors import ConfigError, require
from mlaas4hep.stream import Batch

NOT_CALLED = ("fit", "predict_step")
"""Methods that are never called."""

ONLY_FUNCTIONAL = ("train_step", "compute_loss", "train_on_batch")
"""Methods that are called only if the model is functional, because subclassed models are wrapped."""


class KerasBackend:
    """A Keras model; see `Backend`."""

    framework = "keras"
    round_noun = "epoch"
    normalised = True
    native_file = "model.keras"
    exporters: tuple[str, ...] = ("keras",)

    def __init__(
        self, model: keras.Model, file: ModelFile, shapes: Shapes, task: Task, params: Params, batches: int = 0
    ) -> None:
        """Prepare a model; `batches` is the number of batches per epoch, on which schedules depend."""
        if file.training_step is not None:
            raise ConfigError(
                f"{file.path} defines training_step, which only PyTorch models support",
                hint="for Keras, override train_step of the model",
            )
        _check_own_methods(model, file, NOT_CALLED, "remove it; train_step of a functional model is called")
        self.task = task
        self._shapes = shapes
        self._file = file
        if isinstance(model, keras.Sequential) and not model.built and "x" in shapes:
            model.build((None, *shapes["x"]))
        self.model = model = model if getattr(model, "inputs", None) else _functional_model(model, file, shapes)
        if len(model.outputs) > 1 and task.name != "classification":
            self.model = model = join_outputs(model, task, file.path)
        self._float32_model, self._float32_outdated = float32_copy(model, file), False
        self.takes = choose_inputs([tensor.name for tensor in model.inputs], shapes, f"the model of {file.path}")
        with explain_rejection(file.path, shapes, Exception):  # backends of Keras raise errors of different types
            output = self._probe_output()
        self.outputs, self._output = task.probe(output, self._perturbed_output, file.path)
        self._aux_loss = None
        if file.loss_takes_aux:
            if model.compiled:
                raise ConfigError(
                    f"the model of {file.path} is compiled, so `loss` is not used", hint="do not compile it"
                )
            self._aux_loss = AuxLoss(file.loss, task.name == "classification" and self.outputs > 1)
        check_params(file, params)
        check_default_optimizer(file, params, model.compiled or file.optimizer is not None)
        self.reads: tuple[str, ...] = ("lr_schedule", "lr_warmup", *(() if model.compiled else ("loss", "optimizer")))
        if not model.compiled:
            model.compile(
                optimizer=file.optimizer or default_optimizer(model, params),
                loss=self._aux_loss or loss_of(file, task) or default_loss(task, self.outputs, self._output),
            )
        accumulated = getattr(model.optimizer, "gradient_accumulation_steps", None) or 1
        self._schedule = make_schedule(params, -(-batches // accumulated)) if batches else None
        self._first_rate = self.learning_rate
        self.has_schedule = bool(self._schedule) or self._has_own_schedule
        if self._has_own_schedule and (self._schedule or params.lr_patience):
            raise schedule_error(file.path)
        self._loss_is_sum = self._reduction() == "sum"
        self._supports_weights = False  # checked at the first batch with weights
        self._one_hot = task.name == "classification" and self.outputs > 1 and wants_one_hot(model.loss)
        self._scores = _with_activation(self._float32_model, task, self.outputs, self._output)

    def _probe_output(self) -> np.ndarray:
        output = self._updated_float32_model()(self._model_inputs(probe_inputs(self._shapes)), training=False)
        if isinstance(output, (list, tuple, dict)):
            raise single_output_error(self._file.path, output)
        return np.asarray(keras.ops.convert_to_numpy(output))

    def _perturbed_output(self) -> np.ndarray:
        """Return the output of the model with noise added to its weights."""
        before, rng = self.snapshot(), np.random.default_rng(0)
        for weight in self.model.trainable_variables:
            weight.assign_add(rng.normal(size=weight.shape).astype(np.float32))
        self._float32_outdated = True
        output = self._probe_output()
        self.restore(before)
        return output

    def _updated_float32_model(self) -> keras.Model:
        """Return the float32 model with the current weights."""
        if self._float32_outdated and self._float32_model is not self.model:
            for weight, trained in zip(self._float32_model.weights, self.model.weights, strict=True):
                weight.assign(trained)
        self._float32_outdated = False
        return self._float32_model

    def _reduction(self) -> str:
        """Return Keras's name of the reduction; raise ConfigError for 'none': Keras's backends differ or fail."""
        reduction = getattr(self.model.loss, "reduction", "sum_over_batch_size")
        if reduction in (None, "none"):
            raise ConfigError(
                f"the loss of {self._file.path} has reduction='none', but Keras needs one number per batch",
                hint="leave out the reduction; event weights are still used",
            )
        if reduction == "mean_with_sample_weight":  # divides by the signed sum of weights, `steps` by the absolute sum
            self.model.loss.reduction = reduction = "sum_over_batch_size"
        return str(reduction)

    def _model_inputs(self, inputs: Mapping[str, np.ndarray]) -> Any:
        arrays = [np.asarray(inputs[name], np.float32) for name in self.takes]
        return arrays if len(arrays) > 1 else arrays[0]

    def steps(self, batches: Iterable[Batch]) -> Iterator[tuple[float, float]]:
        """Train one step on each batch; yield the loss and the sum of the absolute weights of each batch."""
        for batch in batches:
            size = float(np.abs(batch.weight).sum(dtype=np.float64))
            if not size:  # skipped, because momentum or weight decay would still change the weights
                yield 0.0, 0.0
                continue
            y = self.task.target(batch.y, self.outputs)
            y = np.eye(self.outputs, dtype=np.float32)[y] if self._one_hot else y
            inputs = self._model_inputs(batch.inputs)
            if self._aux_loss is not None:
                yield self._train_on(inputs, self._packed(self._aux_loss, batch)), size
                continue
            if not self._supports_weights and (batch.weight != 1).any():
                self._check_loss(inputs, y)
            scale = 1.0 if self._loss_is_sum else len(batch) / size  # Keras divides by the number of events
            weight = (batch.weight * scale).astype(np.float32)
            yield self._train_on(inputs, y, weight), size

    def _packed(self, loss: AuxLoss, batch: Batch) -> np.ndarray:
        y = self.task.target(batch.y, self.outputs)
        return loss.pack(y, batch.weight, training_only(batch.inputs, self._shapes))

    def batch_loss(self, batch: Batch) -> float | None:
        """Return the loss of the model file for a batch; None unless it takes weights and training-only inputs."""
        if self._aux_loss is None:
            return None
        outputs = self.model(self._model_inputs(batch.inputs), training=False)
        return float(self._aux_loss(keras.ops.convert_to_tensor(self._packed(self._aux_loss, batch)), outputs))

    def _train_on(self, inputs: Any, y: np.ndarray, weight: np.ndarray | None = None) -> float:
        """Train one step; return the loss."""
        self.model.reset_metrics()
        self._float32_outdated = True
        if self._schedule:
            step = int(self.model.optimizer.iterations)
            self.model.optimizer.learning_rate = self._first_rate * self._schedule.factor(step)
        return float(self.model.train_on_batch(inputs, y, sample_weight=weight, return_dict=True)["loss"])

    def _check_loss(self, inputs: Any, y: np.ndarray) -> None:
        """Raise ConfigError if the loss returns one number per batch, which cannot be weighted."""
        loss = self.model.loss
        per_event = getattr(loss, "call", loss)  # `call` of a keras.losses.Loss does not reduce
        if callable(per_event):
            values = per_event(keras.ops.convert_to_tensor(y), self.model(inputs, training=False))
            if not len(values.shape):
                raise ConfigError(
                    f"the loss of {self._file.path} returns one number per batch, so that weights cannot be applied",
                    hint="let it return one number per event, for example by keras.ops.mean(..., axis=-1)",
                )
        self._supports_weights = True

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores, float32 (events, outputs)."""
        self._updated_float32_model()
        return np.asarray(self._scores.predict_on_batch(self._model_inputs(inputs)), np.float32)

    @property
    def _has_own_schedule(self) -> bool:
        schedule = keras.optimizers.schedules.LearningRateSchedule
        return isinstance(getattr(self.model.optimizer, "_learning_rate", None), schedule)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the optimizer."""
        return float(self.model.optimizer.learning_rate)

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate by a factor."""
        self.model.optimizer.learning_rate = self.learning_rate * factor

    def snapshot(self) -> bytes:
        """Return the weights."""
        return packed(arrays_of(self.model.weights))

    def restore(self, weights: bytes) -> None:
        """Set the weights to those of a `snapshot`."""
        unpack(weights, self.model.weights)
        self._float32_outdated = True

    def state(self) -> bytes:
        """Return weights, optimizer state and random number generator states."""
        return packed([*arrays_of(self._variables), *random_states()])

    def load_state(self, state: bytes) -> None:
        """Restore the model and its optimizer from a `state`."""
        set_random_states(unpack(state, self._variables))
        self._float32_outdated = True

    @property
    def _variables(self) -> list[Any]:
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        return [*self.model.variables, *self.model.optimizer.variables]

    def size(self) -> str:
        """Return the number of trainable weights, as in "4,801 weights"."""
        return f"{int(sum(np.prod(weight.shape) for weight in self.model.trainable_weights)):,} weights"

    def save(self, folder: Path) -> str:
        """Write model.keras; `keras.saving.load_model(path, compile=False)` reads it."""
        model = self._updated_float32_model()
        before = getattr(model, "optimizer", None), model.compiled
        model.optimizer, model.compiled = None, False  # otherwise the file contains the optimizer state
        try:
            model.save(folder / self.native_file)
        finally:
            model.optimizer, model.compiled = before
        return self.native_file

    def load(self, folder: Path) -> None:
        """Read the weights in model.keras for predictions."""
        self._float32_model.load_weights(folder / self.native_file)
        self._float32_outdated = False

    def export(self, path: Path, exporter: str = "") -> None:
        """Write an ONNX graph from the model's inputs to scores."""
        if keras.backend.backend() != "torch":
            require("tf2onnx", "keras", "writing a Keras model as ONNX")
        self._updated_float32_model()
        shapes = array_shapes(self._shapes)
        spec = [keras.InputSpec(shape=(None, *shapes[name]), dtype="float32", name=name) for name in self.takes]
        stdout = contextlib.redirect_stdout(io.StringIO())
        stderr = filtered_stderr("")  # errors are raised, the output is not needed
        with stdout, warnings.catch_warnings(), stderr, _frequent_garbage_collection():
            warnings.simplefilter("ignore")
            self._scores.export(path, format="onnx", input_signature=[spec] if len(spec) > 1 else spec, verbose=False)
        onnx = require("onnx", "keras", "writing a Keras model as ONNX")
        model = onnx.load(str(path))
        _replace_unknown_ops(model)
        onnx.save(model, str(path))


@contextlib.contextmanager
def _frequent_garbage_collection() -> Iterator[None]:
    """Collect garbage every 0.2 s.

    tf2onnx copies the whole graph in each of its two dozen passes. The copies are reference cycles, and too few objects
    to trigger Python's garbage collection: for resnet152 they took 18 GB.
    """
    finished = threading.Event()

    def collect() -> None:
        while not finished.wait(0.2):
            gc.collect()

    gc.freeze()  # existing objects need not be searched
    thread = threading.Thread(target=collect, name="garbage collection")
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        gc.unfreeze()
        gc.collect()


def _check_own_methods(model: keras.Model, file: ModelFile, methods: Sequence[str], hint: str) -> None:
    """Raise ConfigError if a model overrides one of some methods, which would not be called."""
    for method in methods:
        owner = next(one for one in type(model).__mro__ if method in vars(one))
        if owner.__module__.partition(".")[0] != "keras":
            why = "but is not a functional model" if methods is ONLY_FUNCTIONAL else "which is not called"
            raise ConfigError(f"the model of {file.path} overrides {method}, {why}", hint=hint)


def _functional_model(model: keras.Model, file: ModelFile, shapes: Shapes) -> keras.Model:
    """Return a functional model around a subclassed one; the arguments of `call` determine its inputs."""
    _check_own_methods(
        model, file, ONLY_FUNCTIONAL, "call super().__init__(inputs, outputs) instead of defining a method call"
    )
    available = array_shapes(shapes)
    arguments = [
        one.name
        for one in inspect.signature(model.call).parameters.values()
        if one.kind is one.POSITIONAL_OR_KEYWORD
        and (one.default is one.empty or (one.name in available and "x" not in shapes))
        and one.name != "training"
    ]
    takes = choose_inputs(arguments, shapes, f"call of the model of {file.path}")
    inputs = [keras.Input(available[name], name=name) for name in takes]
    first, *others = inputs
    with explain_rejection(file.path, shapes, Exception):
        output = model(first, **dict(zip(arguments[1:], others, strict=True)))
    functional = keras.Model(inputs if others else first, output)
    if model.compiled:
        functional.compile(model.optimizer, model.loss, run_eagerly=model.run_eagerly)
    return functional


def _replace_unknown_ops(model: Any) -> None:
    """Replace TensorFlow ops that tf2onnx (1.17) leaves in the graph by ONNX ops."""
    from onnx import helper, numpy_helper

    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type not in ("Erfc", "Expm1", "Log1p") or node.domain:
            nodes.append(node)
            continue
        (source,), (output,) = node.input, node.output
        inner, one = f"{output}/inner", "mlaas4hep/one"
        if node.op_type == "Log1p":
            nodes += [helper.make_node("Add", [source, one], [inner]), helper.make_node("Log", [inner], [output])]
        else:
            second, first = ("Erf", [one, inner]) if node.op_type == "Erfc" else ("Exp", [inner, one])
            nodes += [helper.make_node(second, [source], [inner]), helper.make_node("Sub", first, [output])]
    if len(nodes) != len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "mlaas4hep/one"))


def _with_activation(model: keras.Model, task: Task, outputs: int, output: Output) -> keras.Model:
    """Return a model that shares the weights and returns scores."""
    if output == "probabilities":
        return model
    inputs = [keras.Input(tensor.shape[1:], dtype=tensor.dtype) for tensor in model.inputs]
    inputs = inputs if len(inputs) > 1 else inputs[0]
    raw = model(inputs)
    if output == "numbers":
        return keras.Model(inputs, raw * np.array(task.spread, np.float32) + np.array(task.centre, np.float32))
    softmax = outputs > 1 and task.name == "classification"
    return keras.Model(inputs, keras.layers.Activation("softmax" if softmax else "sigmoid", dtype="float32")(raw))
