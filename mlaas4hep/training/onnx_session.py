"""Sessions of ONNX Runtime that share the machine with other processes.

session = new_session("model.onnx")
session.run(["scores"], {"inputs": rows})
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlaas4hep.errors import ConfigError, error_text, require
from mlaas4hep.machine.threads import thread_count


def new_session(graph: str | bytes, threads: int = 0) -> Any:
    """Return a session for a graph, which may be the path of a file; it prints no warnings.

    Args:
        threads: number of threads, see `Params`.

    Raises:
        ModuleNotFoundError: ONNX Runtime is not installed.
        Exception: the graph is damaged; the errors of ONNX Runtime have no common base class.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    options.intra_op_num_threads = thread_count(threads)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait use no CPU time
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def open_session(path: Path, threads: int = 0) -> Any:
    """Load an ONNX graph of a bundle; for `threads` see `Params`.

    Raises:
        ConfigError: the graph does not exist, or is damaged.
        PackageMissing: onnxruntime is not installed.
    """
    require("onnxruntime", "server", "scoring")
    if not path.parent.is_dir():
        raise ConfigError(f"folder {path.parent} does not exist", hint="use the folder of a trained model")
    if not path.exists():
        raise ConfigError(f"{path} does not exist", hint="the bundle has no ONNX graph; train the model again")
    try:
        return new_session(str(path), threads)
    except Exception as error:  # the errors of onnxruntime have no common base class
        what = f"onnxruntime cannot load {path}: {error_text(error)}"
        raise ConfigError(what, hint="train the model again") from error
