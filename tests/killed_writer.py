"""Writers that are killed before they finish."""

import signal
import subprocess
import sys


def kill_while_writing(path, opener, *, exclusive=False):
    """Write half a file with `new_file`, or a file `model` of a folder with `new_directory`, in a killed process."""
    code = (
        f"import os, signal; from mlaas4hep.files import {opener}\n"
        f"with {opener}({str(path)!r}, exclusive={exclusive}) as new:\n"
        "    (new / 'model' if new.is_dir() else new).write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
