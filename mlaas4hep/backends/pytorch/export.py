"""Export of PyTorch models to ONNX, in several ways.

export(scores, {"x": torch.zeros(2, 73)}, Path("model.onnx"), EXPORTERS[0])
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mlaas4hep.console import discarded_stdout, filtered_stderr
from mlaas4hep.errors import ConfigError, error_summary, require

EXPORTERS = ("torch.export", "torch.export with the math kernel of attention", "TorchScript")


def export(scores: nn.Module, examples: Mapping[str, torch.Tensor], path: Path, exporter: str = "") -> None:
    """Write an ONNX graph with the output `scores`.

    Args:
        scores: a module from the inputs to scores, in evaluation mode.
        examples: a tensor (2, ...) for each input, in the order of the arguments.
        exporter: one of EXPORTERS; "": the first.

    Raises:
        ConfigError: the export failed.
    """
    kernel = nullcontext() if exporter in ("", EXPORTERS[0]) else sdpa_kernel(SDPBackend.MATH)
    write = _with_torch_script if exporter == EXPORTERS[2] else _with_torch_export
    with _explain_export(), _quiet(), kernel, torch.no_grad():
        write(scores, examples, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings and output; errors are raised."""
    with discarded_stdout(), filtered_stderr(""), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _with_torch_export(scores: nn.Module, examples: Mapping[str, torch.Tensor], path: Path) -> None:
    """Export with torch.export, without its graph optimizer, which removes additions of numbers as small as 1e-8."""
    program = torch.onnx.export(
        scores,
        tuple(examples.values()),
        input_names=list(examples),
        output_names=["scores"],
        dynamic_shapes=(({0: torch.export.Dim("events")},) * len(examples),),
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    optimizer = require("onnxscript.optimizer", "torch", "exporting a PyTorch model")
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    program.save(path, external_data=False)


def _with_torch_script(scores: nn.Module, examples: Mapping[str, torch.Tensor], path: Path) -> None:
    """Export with PyTorch's older exporter, which records the operations of one call."""
    torch.onnx.export(
        scores,
        tuple(examples.values()),
        path,
        input_names=list(examples),
        output_names=["scores"],
        dynamic_axes={name: {0: "events"} for name in (*examples, "scores")},
        opset_version=18,
        dynamo=False,
    )


@contextmanager
def _explain_export() -> Iterator[None]:
    """Raise ConfigError with the cause of a failed export; the message of PyTorch starts with advice for developers."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"PyTorch cannot export the model: {error_summary(error.__cause__ or error)}") from error
