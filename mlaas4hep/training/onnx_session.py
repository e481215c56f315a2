"""Sessions of ONNX Runtime that share the machine with other processes.

session = new_session("model.onnx")
session.run(["scores"], {"inputs": rows})
"""

from __future__ import annotations

from typing import Any

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
