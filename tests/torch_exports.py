"""Make several exports of PyTorch in one process quicker."""

import functools
import sys


def share_registry():
    """Let all exports share PyTorch's table of ONNX functions, which it parses anew for each: most of an export's time.

    The package passes no functions of its own to exports, so the table is always the same.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        make = ONNXRegistry.from_torchlib
    except (ImportError, AttributeError):  # without PyTorch, or with a version that has another exporter
        return
    if not hasattr(make, "cache_clear"):
        ONNXRegistry.from_torchlib = staticmethod(functools.cache(make))  # it is called on an instance, too


def share_registry_if_loaded():
    """Do the same unless nothing has imported PyTorch."""
    if "torch" in sys.modules:
        share_registry()
