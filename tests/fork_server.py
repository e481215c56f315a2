"""Scripts in forks of one process that has imported what they import, which saves each of them seconds.

    from scripts import run_forked

A line of JSON on standard input names a script, its arguments, folder, environment, and files for its output; its exit
code comes back as a line on standard output. The script is run by `runpy` in a fork, so that it has a process, a
current folder and standard streams of its own. `signal_after` is a text and the number of a signal that the script
gets when it prints this text.
"""

import atexit
import importlib
import json
import os
import runpy
import signal
import sys
import tempfile
import traceback
import warnings
from contextlib import suppress

from torch_exports import share_registry

# as the scripts set them before they import a framework
SETTINGS = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1", "ORT_DISABLE_TELEMETRY": "1"}
IMPORTED = (
    "keras", "matplotlib.pyplot", "mlaas4hep.images.train", "mlaas4hep.reader", "mplhep", "onnxmltools", "onnxruntime",
    "onnxscript", "skl2onnx", "sklearn.ensemble", "sklearn.linear_model", "tf2onnx", "torch._dynamo",
    "torch.onnx._internal.exporter._core", "uproot", "xgboost",
)  # fmt: skip


def main():
    """Import the frameworks, then fork for each line."""
    os.environ |= SETTINGS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in IMPORTED:
            with suppress(ImportError):  # without its framework the test is skipped
                importlib.import_module(name)
        share_registry()
        with suppress(ImportError):
            importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry.from_torchlib()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(script, args, cwd, env, stdout, stderr, timeout, signal_after):
    """Run a script as if it were the only one, and exit."""
    signal.alarm(timeout)
    for descriptor, path in ((0, os.devnull), (1, stdout), (2, stderr)):
        file = os.open(path, os.O_RDWR)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ |= env
    os.chdir(cwd)
    tempfile.tempdir = None  # of another environment
    sys.argv = [script, *args]
    sys.path[0] = os.path.dirname(script)
    if signal_after:
        send_signal_after(*signal_after)
    code = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as exit_:
        code = exit_.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def send_signal_after(text, number):
    """Send this process a signal when it prints a text."""
    write = sys.stdout.write

    def write_and_send(printed):
        write(printed)
        if text in printed:
            os.kill(os.getpid(), number)

    sys.stdout.write = write_and_send


if __name__ == "__main__":
    main()
