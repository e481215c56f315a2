"""Checks of untrusted `.keras` files against lists of allowed layers and operations.

    with checked_archive(Path("model.keras")) as path:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)

Keras's safe_mode has been bypassed repeatedly: by code in config.json (CVE-2024-3660, CVE-2025-1550, CVE-2025-8747,
CVE-2025-9906), by lookup layers that read files and URLs (CVE-2025-12058), and by weights in other files or larger than
memory (CVE-2026-1669, CVE-2026-0897). Therefore Keras gets a rewritten file that has only layers and operations listed
here, weights that are plain numbers in the file, and no losses, optimizers or assets.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlaas4hep.errors import ConfigError, require
from mlaas4hep.protocol.limits import DEFAULTS, format_size

_CONFIG, _WEIGHTS, _METADATA = "config.json", "model.weights.h5", "metadata.json"
_MODELS = {"Functional", "Model", "Sequential"}
_LAYERS = {
    "Activation", "ActivityRegularization", "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D",
    "AdaptiveAveragePooling3D", "AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D", "Add",
    "AdditiveAttention", "AlphaDropout", "Attention", "Average", "AveragePooling1D", "AveragePooling2D",
    "AveragePooling3D", "BatchNormalization", "Bidirectional", "CategoryEncoding", "CenterCrop", "Concatenate",
    "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D", "Conv3DTranspose", "ConvLSTM1D", "ConvLSTM2D",
    "ConvLSTM3D", "Cropping1D", "Cropping2D", "Cropping3D", "Dense", "DepthwiseConv1D", "DepthwiseConv2D",
    "Discretization", "Dot", "Dropout", "ELU", "EinsumDense", "Embedding", "Flatten", "GRU", "GRUCell",
    "GaussianDropout", "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D", "GroupNormalization", "GroupQueryAttention",
    "Identity", "InputLayer", "LSTM", "LSTMCell", "LayerNormalization", "LeakyReLU", "Masking", "MaxPooling1D",
    "MaxPooling2D", "MaxPooling3D", "Maximum", "Minimum", "MultiHeadAttention", "Multiply", "Normalization", "PReLU",
    "Permute", "RMSNormalization", "RNN", "RandomBrightness", "RandomContrast", "RandomCrop", "RandomFlip",
    "RandomRotation", "RandomTranslation", "RandomZoom", "ReLU", "RepeatVector", "Rescaling", "Reshape", "Resizing",
    "SeparableConv1D", "SeparableConv2D", "SimpleRNN", "SimpleRNNCell", "Softmax", "SpatialDropout1D",
    "SpatialDropout2D", "SpatialDropout3D", "SpectralNormalization", "StackedRNNCells", "Subtract", "TimeDistributed",
    "UnitNormalization", "UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D",
    "ZeroPadding3D",
}  # fmt: skip
_CORE_OPERATIONS = {
    "Cast", "ConvertToTensor", "SaturateCast", "Scatter", "ScatterUpdate", "Slice", "SliceUpdate", "StopGradient",
    "Unstack",
}  # fmt: skip
_ACTIVATIONS = {
    "celu", "elu", "exponential", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh",
    "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
    "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus",
    "swish", "tanh", "tanh_shrink", "threshold",
}  # fmt: skip
_CLASS = re.compile(r"[A-Z][A-Za-z0-9]*")  # all classes of the modules in `_ARITHMETIC` are allowed
_ALLOWED = {
    "keras": _MODELS | {"DTypePolicy"},
    "keras.models": _MODELS,
    "keras.src.models.functional": {"Functional"},
    "keras.src.models.sequential": {"Sequential"},
    "keras.layers": _LAYERS,
    "keras.src.ops.core": _CORE_OPERATIONS,
    "keras.random": {"SeedGenerator"},
    "keras.src.random.seed_generator": {"SeedGenerator"},
}
_ARITHMETIC = {
    "keras.constraints", "keras.dtype_policies", "keras.initializers", "keras.regularizers", "keras.src.ops.image",
    "keras.src.ops.linalg", "keras.src.ops.math", "keras.src.ops.nn", "keras.src.ops.numpy",
}  # fmt: skip
_VALUES = {"__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__"}


@contextmanager
def checked_archive(path: Path, largest: int = DEFAULTS.keras_config) -> Iterator[str]:
    """Check a `.keras` file; yield the path of a temporary file that has the same model and nothing else.

    Args:
        largest: limit of the size of its config.json in bytes.

    Raises:
        ConfigError: the file is not a `.keras` file, is damaged, or has parts that are not allowed.
    """
    with tempfile.TemporaryDirectory(prefix="tfaas-keras-") as folder:
        weights = Path(folder) / _WEIGHTS
        try:
            with zipfile.ZipFile(path) as archive:
                config = checked_config(_member(archive, _CONFIG, path.name).read(largest + 1), path.name, largest)
                with _member(archive, _WEIGHTS, path.name) as source, weights.open("xb") as target:
                    shutil.copyfileobj(source, target)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
            raise ConfigError(f"{path.name} is not a .keras file, or is damaged") from error
        _check_weights(weights, path.name)
        safe = Path(folder) / "model.keras"
        with zipfile.ZipFile(safe, "w") as archive:
            archive.writestr(_METADATA, "{}")
            archive.writestr(_CONFIG, json.dumps(config))
            archive.write(weights, _WEIGHTS)
        weights.unlink()
        yield str(safe)


def checked_config(text: bytes, file: str, largest: int = DEFAULTS.keras_config) -> Any:
    """Return the content of a config.json without losses, optimizers and metrics.

    Raises:
        ConfigError: it has something that is not allowed.
    """
    if len(text) > largest:
        raise ConfigError(f"the {_CONFIG} of {file} is larger than {format_size(largest)}")
    try:
        return _checked(json.loads(text), file)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"the {_CONFIG} of {file} is not JSON") from error


def _checked(value: Any, file: str) -> Any:
    if isinstance(value, list):
        return [_checked(part, file) for part in value]
    if not isinstance(value, dict):
        return value
    if "class_name" in value and not _is_allowed(value):
        raise _refusal(value, file)
    return {key: None if key == "compile_config" else _checked(part, file) for key, part in value.items()}


def _is_allowed(described: dict[str, Any]) -> bool:
    module, name, registered = (described.get(key) for key in ("module", "class_name", "registered_name"))
    if not isinstance(name, str) or registered not in (None, name):
        return False
    if module is None:
        return name in _VALUES
    if name == "function":
        return module in ("builtins", "keras.activations") and described.get("config") in _ACTIVATIONS
    return name in _ALLOWED.get(module, ()) or (module in _ARITHMETIC and _CLASS.fullmatch(name) is not None)


def _refusal(described: dict[str, Any], file: str) -> ConfigError:
    name = str(described.get("class_name"))
    if name == "function":
        name = f"the function {described.get('config')}"
    return ConfigError(
        f"{file} has {name[:100]!r}, which is not allowed: only Keras's own layers and operations are allowed, "
        "except those that run code or read files",
        hint="export it as ONNX",
    )


def _member(archive: zipfile.ZipFile, name: str, file: str) -> Any:
    """Open a member of the archive, which must be uncompressed, as Keras writes it."""
    if sorted(archive.namelist()) != sorted((_CONFIG, _METADATA, _WEIGHTS)):
        raise ConfigError(
            f"{file} has other members than {_CONFIG}, {_METADATA} and {_WEIGHTS}",
            hint="write it with model.save('model.keras') of Keras 3",
        )
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ConfigError(f"{file} is compressed, but Keras writes uncompressed files")
    return archive.open(name)


def _check_weights(path: Path, file: str) -> None:
    """Raise ConfigError unless all weights are stored in the HDF5 file itself, and are not larger than the file."""
    h5py = require("h5py", "keras", "reading the weights of a Keras model")
    size = path.stat().st_size

    def check(name: str, link: Any) -> str | None:
        if not isinstance(link, h5py.HardLink):
            return name
        found = weights.get(name)
        if isinstance(found, h5py.Group):
            return None
        filters = found.id.get_create_plist().get_nfilters()
        own = isinstance(found, h5py.Dataset) and not (found.external or found.is_virtual or filters)
        return None if own and not found.dtype.hasobject and found.nbytes <= size else name

    try:
        with h5py.File(path, "r") as weights:
            strange = weights.visititems_links(check)
    except Exception as error:  # h5py raises many types for a damaged file
        raise ConfigError(f"the weights of {file} are damaged") from error
    if strange is not None:
        raise ConfigError(f"the weight {strange[:100]!r} of {file} is not plain numbers stored in the file")
