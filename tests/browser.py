"""A real browser without a window.

dump_dom(Path("report.html").as_uri())
"""

import shutil
import subprocess

import pytest


def chromium():
    """Return the path of Chromium, or skip the test if it is not installed."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    return path


def dump_dom(url, *options):
    """Return the document of a page after its scripts ran, and what they wrote to the console."""
    command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", *options, "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr
