"""Float32 copies of Keras models that train in half precision; the copies predict and are served."""

from __future__ import annotations

from typing import Any

import keras

from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.errors import ConfigError, error_text


def float32_copy(model: keras.Model, file: ModelFile) -> keras.Model:
    """Return a float32 copy of a model with half-precision layers; return any other model itself.

    Raises:
        ConfigError: a layer cannot be copied, or not to float32.
    """
    if not _uses_half_precision(model):
        return model

    def copy_layer(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config(_with_float32_policy(layer.get_config()))

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # for nested layers
    try:
        copy = keras.models.clone_model(model, clone_function=copy_layer, recursive=True)
        copy.set_weights(model.get_weights())
        problem = "nested layers set a dtype of their own" if _uses_half_precision(copy) else ""
    except Exception as error:  # layers raise errors of any type
        problem = error_text(error)
    finally:
        keras.config.set_dtype_policy(policy)
    if problem:
        raise ConfigError(
            f"the model of {file.path} cannot be converted to float32, in which it is served: {problem}",
            hint="let all layers implement get_config and use Keras's dtype policy, or train in float32",
        )
    return copy


def _uses_half_precision(model: keras.Model) -> bool:
    """Return whether a layer, or a nested layer, computes in float16 or bfloat16."""
    return any("16" in str(layer.compute_dtype) for layer in model._flatten_layers(include_self=False))


def _with_float32_policy(config: Any) -> Any:
    """Return the configuration of a layer and its nested layers with the dtype policy float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {"name": "float32"}}
        return {key: _with_float32_policy(value) for key, value in config.items()}
    return [_with_float32_policy(one) for one in config] if isinstance(config, list) else config
