"""Keras 3 models, in a model process.

    KerasModel(Path("model.keras"), channels=0).run(batch)

Keras chooses its backend itself, as in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, require
from mlaas4hep.protocol.limits import DEFAULTS, Limits
from mlaas4hep.serving.frameworks.keras_archive import checked_archive
from mlaas4hep.serving.models.tensor import Array, Tensor, describe_input, sizes


class KerasModel:
    """A `.keras` file with one input and one output.

    Raises:
        ConfigError: the file is not a Keras model, or has parts that are not allowed.
    """

    def __init__(self, path: Path, channels: int, limits: Limits = DEFAULTS) -> None:
        keras = require("keras", "keras", "running a Keras model")
        try:
            with checked_archive(path, limits.keras_config) as safe:
                self._model = keras.saving.load_model(safe, compile=False, safe_mode=True)
            inputs, outputs = self._model.inputs, self._model.outputs
        except MLaaS4HEPError:
            raise
        except Exception as error:  # Keras and its backends raise many types
            raise ConfigError(f"{path.name} is not a model that Keras {keras.__version__} can load") from error
        if len(inputs) != 1 or len(outputs) != 1 or not str(inputs[0].dtype).startswith("float"):
            raise ConfigError(f"{path.name} does not have one input of real numbers, and one output")
        self.layout = describe_input(str(inputs[0].name), inputs[0].shape, channels, path.name, limits.input_values)
        self.output = Tensor(str(outputs[0].name), sizes(outputs[0].shape[1:]))
        self.takes_one_row = inputs[0].shape[0] == 1

    def run(self, batch: Array) -> Any:
        return self._model.predict_on_batch(batch)
