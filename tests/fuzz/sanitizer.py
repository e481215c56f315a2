"""The compiled loops with AddressSanitizer and UndefinedBehaviorSanitizer: they end the process at an invalid access.

    environment = build(folder)      # in the parent: compile, and return the variables for the child
    use_built()                      # in the child, before anything imports mlaas4hep.compiled

Needs g++. Everything else in the process stays as it is.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

_NAME = "mlaas4hep._kernel"
_SOURCES = [str(Path(__file__).parents[2] / "mlaas4hep" / name) for name in ("kernel.cpp", "kernel_pages.cpp")]
_OPTIONS = [
    "-std=c++17",
    "-O1",
    "-g",
    "-fPIC",
    "-shared",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
]
_LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so")
VARIABLE = "MLAAS4HEP_FUZZ_KERNEL"


def build(folder: Path) -> dict[str, str]:
    """Compile the loops; return the environment variables with which a process runs it."""
    library = folder / f"_kernel{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = f"-I{sysconfig.get_paths()['include']}"
    subprocess.run(["g++", *_OPTIONS, "-ffp-contract=off", include, *_SOURCES, "-o", str(library)], check=True)
    preloaded = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in _LIBRARIES
    ]
    return {
        VARIABLE: str(library),
        "LD_PRELOAD": " ".join(preloaded),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "PYTHONMALLOC": "malloc",
    }


def use_built() -> None:
    """Import the library that the parent built, if it did, as `mlaas4hep._kernel`."""
    if path := os.environ.get(VARIABLE):
        spec = importlib.util.spec_from_file_location(_NAME, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[_NAME] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
