"""The state of a Keras model as bytes, without pickles.

state = packed([*arrays_of(model.variables), *random_states()])
set_random_states(unpack(state, model.variables))
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np


def arrays_of(variables: Iterable[Any]) -> list[np.ndarray]:
    """Return the values of variables."""
    return [keras.ops.convert_to_numpy(variable.value) for variable in variables]


def packed(arrays: Sequence[np.ndarray]) -> bytes:
    """Return arrays as the content of an .npz file."""
    content = io.BytesIO()
    np.savez(content, *arrays)
    return content.getvalue()


def unpack(content: bytes, variables: Sequence[Any]) -> list[np.ndarray]:
    """Set the variables to the first arrays; return the remaining arrays."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = [stored[name] for name in stored.files]
    for variable, array in zip(variables, arrays, strict=False):
        variable.assign(array)
    return arrays[len(variables) :]


def random_states() -> list[np.ndarray]:
    """Return the random number generator states that are not Keras variables: those of the PyTorch backend."""
    if keras.backend.backend() != "torch":
        return []
    import torch

    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [state.numpy() for state in (torch.get_rng_state(), *on_devices)]


def set_random_states(states: Sequence[np.ndarray]) -> None:
    """Restore the states that `random_states` has returned."""
    if keras.backend.backend() != "torch":
        return
    import torch

    first, *on_devices = map(torch.from_numpy, states)
    torch.set_rng_state(first)
    if on_devices and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(on_devices)
