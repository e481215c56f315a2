"""Keras 3 models: from inputs, and masks if there are inputs for them, to scores. A compiled one keeps its loss.

One that trains in half precision (policies mixed_float16 and mixed_bfloat16) gives its scores in float32, as its graph
does, by the same layers with the same weights. What Keras computes with (TensorFlow, PyTorch) is its own business:
`KERAS_BACKEND=torch workflow.py ...`.
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

from mlaas4hep.console import filtered_stderr
from mlaas4hep.errors import ConfigError, require, said
from mlaas4hep.stream import Batch
from mlaas4hep.training.backend import (
    Shapes,
    array_shapes,
    choose,
    describe_shapes,
    no_single_output,
    own_schedule,
    probe_inputs,
)
from mlaas4hep.training.model_file import ModelFile
from mlaas4hep.training.task import Output, Task

LEARNING_RATE = 1e-3
"""Of Adam, where the model is not compiled and the model file defines no `optimizer`."""


class KerasBackend:
    """A Keras model; see `Backend`."""

    framework = "keras"
    normalised = True

    def __init__(self, model: keras.Model, file: ModelFile, shapes: Shapes, task: Task) -> None:
        if file.training_step is not None:
            raise ConfigError(
                f"{file.path} defines training_step, which is for PyTorch",
                hint="in Keras, give the model a method train_step",
            )
        self.task = task
        self._shapes = shapes
        self._file = file
        if isinstance(model, keras.Sequential) and not model.built and "x" in shapes:
            model.build((None, *shapes["x"]))
        self.model = model = model if getattr(model, "inputs", None) else _with_inputs(model, file, shapes)
        self._precise, self._trained_on = _in_float32(model, file), False
        self.takes = choose([tensor.name for tensor in model.inputs], shapes, f"the model of {file.path}")
        self.outputs, self._output = self._probe()
        if not model.compiled:
            model.compile(
                optimizer=file.optimizer or keras.optimizers.Adam(LEARNING_RATE),
                loss=file.loss or default_loss(task, self.outputs, self._output),
            )
        self._sums = self._reduction() == "sum"
        self._weights_count = False  # not known yet
        self._one_hot = task.name == "classification" and self.outputs > 1 and _wants_one_hot(model.loss)
        self._scores = _with_activation(self._precise, task, self.outputs, self._output)

    def _probe(self) -> tuple[int, Output]:
        try:
            output = self._probe_output()
        except ConfigError:
            raise
        except Exception as error:  # TensorFlow, torch and Keras raise kinds of their own for a wrong shape
            wanted = describe_shapes(self._shapes)
            raise ConfigError(f"the model of {self._file.path} does not take {wanted}: {said(error)}") from error
        return self.task.probe(output, self._shaken_output, self._file.path)

    def _probe_output(self) -> np.ndarray:
        output = self._model_of_scores()(self._given(probe_inputs(self._shapes)), training=False)
        if isinstance(output, (list, tuple, dict)):
            raise no_single_output(self._file.path, output)
        return np.asarray(keras.ops.convert_to_numpy(output))

    def _shaken_output(self) -> np.ndarray:
        """Return what the model says with noise added to its weights."""
        before, rng = self.snapshot(), np.random.default_rng(0)
        for weight in self.model.trainable_variables:
            weight.assign_add(rng.normal(size=weight.shape).astype(np.float32))
        self._trained_on = True
        output = self._probe_output()
        self.restore(before)
        return output

    def _model_of_scores(self) -> keras.Model:
        """Return the model that computes in float32, with the weights as they are now."""
        if self._trained_on and self._precise is not self.model:
            for weight, trained in zip(self._precise.weights, self.model.weights, strict=True):
                weight.assign(trained)
        self._trained_on = False
        return self._precise

    def _reduction(self) -> str:
        """Return how the loss makes one number of those of the events, as Keras calls it.

        Raises:
            ConfigError: it does not, and gradients would be of sums in one of Keras's backends, and fail in another.
        """
        found = getattr(self.model.loss, "reduction", "sum_over_batch_size")
        if found in (None, "none"):
            raise ConfigError(
                f"the loss of {self._file.path} has reduction='none', and Keras needs one number to train with",
                hint="leave reduction out; weights count all the same",
            )
        if found == "mean_with_sample_weight":  # it divides by the signed sum of weights, and `steps` by their sizes
            self.model.loss.reduction = found = "sum_over_batch_size"
        return str(found)

    def _given(self, inputs: Mapping[str, np.ndarray]) -> Any:
        given = [np.asarray(inputs[name], np.float32) for name in self.takes]
        return given if len(given) > 1 else given[0]

    def steps(self, batches: Iterable[Batch]) -> Iterator[tuple[float, float]]:
        """Train on batches, one step each; yield loss and sum of the sizes of weights."""
        for batch in batches:
            size = float(np.abs(batch.weight).sum(dtype=np.float64))
            if not size:  # nothing is to be learnt, and momentum or decay would move the weights
                yield 0.0, 0.0
                continue
            y = self.task.target(batch.y, self.outputs)
            y = np.eye(self.outputs, dtype=np.float32)[y] if self._one_hot else y
            given = self._given(batch.inputs)
            if not self._weights_count and (batch.weight != 1).any():
                self._check_loss(given, y)
            weight = batch.weight * (1.0 if self._sums else len(batch) / size)  # Keras divides by the number of events
            self.model.reset_metrics()
            self._trained_on = True
            logs = self.model.train_on_batch(given, y, sample_weight=weight.astype(np.float32), return_dict=True)
            yield float(logs["loss"]), size

    def _check_loss(self, given: Any, y: np.ndarray) -> None:
        """Raise ConfigError if the loss is one number for all events, in which their weights cannot count."""
        loss = self.model.loss
        each = getattr(loss, "call", loss)  # of keras.losses.Loss, what comes before the mean
        if callable(each) and not len(each(keras.ops.convert_to_tensor(y), self.model(given, training=False)).shape):
            raise ConfigError(
                f"the loss of {self._file.path} is one number for all events, in which their weights cannot count",
                hint="let it return one number an event, as with keras.ops.mean(..., axis=-1)",
            )
        self._weights_count = True

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores, float32 (events, outputs)."""
        self._model_of_scores()
        return np.asarray(self._scores.predict_on_batch(self._given(inputs)), np.float32)

    def scale_learning_rate(self, factor: float) -> float:
        """Multiply the learning rate of the optimizer; return what it is then."""
        optimizer = self.model.optimizer
        if isinstance(getattr(optimizer, "_learning_rate", None), keras.optimizers.schedules.LearningRateSchedule):
            raise own_schedule(self._file.path)
        rate = float(optimizer.learning_rate)
        if factor != 1:
            optimizer.learning_rate = rate = rate * factor
        return rate

    def snapshot(self) -> bytes:
        """Return the weights."""
        return _packed(_arrays(self.model.weights))

    def restore(self, weights: bytes) -> None:
        """Set the weights to what `snapshot` returned."""
        _unpack(weights, self.model.weights)
        self._trained_on = True

    def state(self) -> bytes:
        """Return weights, state of the optimizer and of the random numbers."""
        return _packed([*_arrays(self._variables), *_random_states()])

    def load_state(self, state: bytes) -> None:
        """Go on from what `state` returned."""
        _set_random_states(_unpack(state, self._variables))
        self._trained_on = True

    @property
    def _variables(self) -> list[Any]:
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        return [*self.model.variables, *self.model.optimizer.variables]

    def size(self) -> str:
        """Return how many weights are trained, in words."""
        return f"{int(sum(np.prod(weight.shape) for weight in self.model.trainable_weights)):,} weights"

    def save(self, folder: Path) -> str:
        """Write the model in Keras's own format; `keras.saving.load_model(path, compile=False)` reads it."""
        model = self._model_of_scores()
        before = getattr(model, "optimizer", None), model.compiled
        model.optimizer, model.compiled = None, False  # a .keras file would have its state, as large as the model
        try:
            model.save(folder / "model.keras")
        finally:
            model.optimizer, model.compiled = before
        return "model.keras"

    def export(self, path: Path) -> None:
        """Write an ONNX graph from what the model takes to scores."""
        if keras.backend.backend() != "torch":
            require("tf2onnx", "keras", "writing a Keras model as ONNX")
        self._model_of_scores()
        shapes = array_shapes(self._shapes)
        spec = [keras.InputSpec(shape=(None, *shapes[name]), dtype="float32", name=name) for name in self.takes]
        silent = contextlib.redirect_stdout(io.StringIO())
        chatter = filtered_stderr("")  # what goes wrong is raised
        with silent, warnings.catch_warnings(), chatter, _swept():
            warnings.simplefilter("ignore")
            self._scores.export(path, format="onnx", input_signature=[spec] if len(spec) > 1 else spec, verbose=False)
        onnx = require("onnx", "keras", "writing a Keras model as ONNX")
        model = onnx.load(str(path))
        _replace_unknown_ops(model)
        onnx.save(model, str(path))


@contextlib.contextmanager
def _swept() -> Iterator[None]:
    """Collect garbage all the time.

    tf2onnx copies the whole graph for each of its two dozen passes. The copies refer to themselves, and are too few for
    Python to look for them: of resnet152 there were 18 GB.
    """
    over = threading.Event()

    def sweep() -> None:
        while not over.wait(0.2):
            gc.collect()

    gc.freeze()  # what is there now is no garbage, and need not be looked through
    thread = threading.Thread(target=sweep, name="sweep")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        gc.unfreeze()
        gc.collect()


def _with_inputs(model: keras.Model, file: ModelFile, shapes: Shapes) -> keras.Model:
    """Return a model with inputs, around one that has but a method `call`; its arguments say which.

    Raises:
        ConfigError: there are no such inputs, or it cannot do with them.
    """
    if type(model).train_step is not keras.Model.train_step:
        raise ConfigError(
            f"the model of {file.path} has a train_step of its own, and no inputs",
            hint="give it them: super().__init__(inputs, outputs), in place of a method call",
        )
    known = array_shapes(shapes)
    arguments = [
        one.name
        for one in inspect.signature(model.call).parameters.values()
        if one.kind is one.POSITIONAL_OR_KEYWORD
        and (one.default is one.empty or (one.name in known and "x" not in shapes))
        and one.name != "training"
    ]
    takes = choose(arguments, shapes, f"call of the model of {file.path}")
    inputs = [keras.Input(known[name], name=name) for name in takes]
    first, *others = inputs
    try:
        output = model(first, **dict(zip(arguments[1:], others, strict=True)))
    except Exception as error:  # TensorFlow, torch and Keras raise kinds of their own
        wanted = describe_shapes(shapes)
        raise ConfigError(f"the model of {file.path} does not take {wanted}: {said(error)}") from error
    whole = keras.Model(inputs if others else first, output)
    if model.compiled:
        whole.compile(model.optimizer, model.loss, run_eagerly=model.run_eagerly)
    return whole


def _in_float32(model: keras.Model, file: ModelFile) -> keras.Model:
    """Return a copy that computes in float32 where the model does in half precision, or else the model itself.

    Raises:
        ConfigError: a layer cannot be had again, or not in float32.
    """
    if not _is_half(model):
        return model

    def copied(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config(_in_full(layer.get_config()))

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # of layers within layers
    try:
        whole = keras.models.clone_model(model, clone_function=copied, recursive=True)
        whole.set_weights(model.get_weights())
        problem = "layers within layers are told another dtype" if _is_half(whole) else ""
    except Exception as error:  # layers raise kinds of their own
        problem = said(error)
    finally:
        keras.config.set_dtype_policy(policy)
    if problem:
        raise ConfigError(
            f"the model of {file.path} cannot be had in float32, in which it is served: {problem}",
            hint="let all its layers have get_config and go by Keras's policy, or train in float32",
        )
    return whole


def _is_half(model: keras.Model) -> bool:
    """Say whether a layer, or one within it, computes in float16 or bfloat16."""
    return any("16" in str(layer.compute_dtype) for layer in model._flatten_layers(include_self=False))


def _in_full(config: Any) -> Any:
    """Return the configuration of a layer, and of what is within it, with another policy."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {"name": "float32"}}
        return {key: _in_full(value) for key, value in config.items()}
    return [_in_full(one) for one in config] if isinstance(config, list) else config


def _replace_unknown_ops(model: Any) -> None:
    """Write what tf2onnx (1.17) calls by TensorFlow's names, and ONNX does not know, in ops that it knows."""
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


def _arrays(variables: Iterable[Any]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable.value) for variable in variables]


def _packed(arrays: Sequence[np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez(content, *arrays)
    return content.getvalue()


def _unpack(content: bytes, variables: Sequence[Any]) -> list[np.ndarray]:
    """Set variables; return the arrays that are left."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = [stored[name] for name in stored.files]
    for variable, array in zip(variables, arrays, strict=False):
        variable.assign(array)
    return arrays[len(variables) :]


def _random_states() -> list[np.ndarray]:
    """Return the state of random numbers that are no variables of the model: PyTorch's own, where that computes."""
    if keras.backend.backend() != "torch":
        return []
    import torch

    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [state.numpy() for state in (torch.get_rng_state(), *on_devices)]


def _set_random_states(states: Sequence[np.ndarray]) -> None:
    if keras.backend.backend() != "torch":
        return
    import torch

    first, *on_devices = map(torch.from_numpy, states)
    torch.set_rng_state(first)
    if on_devices and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(on_devices)


def default_loss(task: Task, outputs: int, output: Output) -> Any:
    """Return the loss that fits a model's outputs: cross-entropy or, of numbers to be estimated, the square error.

    Raises:
        ConfigError: the outputs are logarithms, which Keras has no loss for.
    """
    if task.name == "regression":
        return keras.losses.MeanSquaredError()
    if output == "log_probabilities":
        raise ConfigError("the model gives logarithms of probabilities", hint="end it with softmax, or with nothing")
    if outputs == 1 or task.name == "multilabel":
        return keras.losses.BinaryCrossentropy(from_logits=output == "logits")
    return keras.losses.SparseCategoricalCrossentropy(from_logits=output == "logits")


def _wants_one_hot(loss: Any) -> bool:
    """Whether a loss compares outputs with as many numbers: all of Keras's own do, but sparse ones take a class."""
    if isinstance(loss, str):
        return not loss.lower().startswith("sparse")
    kinds = type(loss).__mro__ if isinstance(loss, keras.losses.Loss) else (loss,)
    names = [kind.__name__ for kind in kinds if getattr(kind, "__module__", "").startswith("keras.")]
    return bool(names) and not names[0].startswith(("Loss", "Sparse", "sparse"))


def _with_activation(model: keras.Model, task: Task, outputs: int, output: Output) -> keras.Model:
    """Return a model that shares the weights and gives scores."""
    if output == "probabilities":
        return model
    inputs = [keras.Input(tensor.shape[1:], dtype=tensor.dtype) for tensor in model.inputs]
    inputs = inputs if len(inputs) > 1 else inputs[0]
    raw = model(inputs)
    if output == "numbers":
        return keras.Model(inputs, raw * np.array(task.spread, np.float32) + np.array(task.centre, np.float32))
    softmax = outputs > 1 and task.name == "classification"
    return keras.Model(inputs, keras.layers.Activation("softmax" if softmax else "sigmoid", dtype="float32")(raw))
