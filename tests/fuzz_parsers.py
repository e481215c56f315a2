"""Fuzz the parsers that read bytes from strangers.

python tests/fuzz_parsers.py --seconds=1800              # all targets, coverage-guided if atheris is installed
python tests/fuzz_parsers.py --seconds=60 tar image      # some targets
python tests/fuzz_parsers.py --sanitize basket           # with AddressSanitizer in the compiled loops
python tests/fuzz_parsers.py tar tests/corpus/tar/...    # repeat one input

Each target runs in a process of its own, with limits of memory and of time per input. An input that causes a fault is
written to tests/corpus/TARGET/ and must be kept there as a test; valid inputs that reach new code go to --corpus.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from fuzz import sanitizer
from fuzz.names import NAMES

ADDRESS_SPACE = 6_000_000_000
"""Bytes that a process may reserve."""

_MEGABYTES = 1500  # of memory that a process may use
_HANG = 60  # seconds that one input may take
_OBSERVED = ["mlaas4hep", "python_multipart", "tarfile"]
_FAULTS = ("fault-*", "crash-*", "timeout-*", "oom-*", "leak-*")
_ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run the command; return 1 if a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)}; a path is an input")
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--corpus", type=Path, help="folder for inputs that reach new code (default: a temporary one)")
    parser.add_argument(
        "--faults", type=Path, default=_ROOT / "tests/corpus", help="folder for inputs that cause faults"
    )
    parser.add_argument("--quick", action="store_true", help="as in `make test`; prints a line of JSON per target")
    parser.add_argument(
        "--sanitize", action="store_true", help="with AddressSanitizer in kernel.cpp, and without atheris"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [name for name in options.targets if name in NAMES] or list(NAMES)
    inputs = [Path(name) for name in options.targets if name not in NAMES]
    if inputs:
        return _repeat(names[0], inputs)
    if options.quick:
        return _quick(names, options.faults)
    if options.child:
        return _fuzz(names[0], options.seconds, options.corpus, options.faults)
    return _supervise(names, options.seconds, options.corpus, options.faults, options.sanitize)


def _repeat(name: str, inputs: list[Path]) -> int:
    from fuzz.campaign import opened
    from fuzz.checks import find_fault
    from fuzz.targets import TARGETS

    with opened(TARGETS[name]) as parse:
        faults = [find_fault(parse, path.read_bytes()) for path in inputs]
    print("\n".join(fault or "no fault" for fault in faults))
    return int(any(faults))


def _quick(names: list[str], folder: Path) -> int:
    """Print one line of JSON per target; a target without a line ended the process."""
    from fuzz.campaign import Faults, opened, quick
    from fuzz.targets import TARGETS

    for name in names:
        faults = Faults(TARGETS[name], folder / name, folder / f"{name}.current")
        with opened(TARGETS[name]) as parse:
            faulthandler.dump_traceback_later(_HANG, exit=True)
            quick(TARGETS[name], parse, faults, TARGETS[name].variants)
            faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"target": name, "executed": faults.executed, "faults": faults.found}), flush=True)
    return 0


def _fuzz(name: str, seconds: float, corpus: Path, folder: Path) -> int:
    """Fuzz one target in this process: the corpus, then memory, then a search for new inputs."""
    sanitizer.use_built()
    atheris = None if sanitizer.VARIABLE in os.environ else _load_atheris()
    if atheris is None:
        from fuzz.targets import TARGETS
    else:
        with atheris.instrument_imports(include=_OBSERVED), redirect_stderr(io.StringIO()):  # it names every module
            from fuzz.targets import TARGETS
    from fuzz.campaign import CORPUS, Faults, find_leak, keep, opened, quick
    from fuzz.mutations import TOKENS, escaped

    target = TARGETS[name]
    faults = Faults(target, folder / name, corpus / f"{name}.current")
    with opened(target) as parse:
        faulthandler.enable()
        began = time.monotonic()
        quick(target, parse, faults, 500, seconds / 4)
        leak = find_leak(target, parse, faults, seconds / 10)
        if leak:
            print(f"{name}: {leak}", flush=True)
            keep(folder / name, "leak", leak.encode())
        left = seconds - (time.monotonic() - began)
        if atheris is None:
            quick(target, parse, faults, sys.maxsize, left)
        else:
            print(f"{name}: {faults.executed} inputs before the guided search", flush=True)
            own = corpus / name
            own.mkdir(parents=True, exist_ok=True)
            words = corpus / "dictionary"
            words.write_text("".join(f'"{escaped(token)}"\n' for token in TOKENS))
            arguments = [
                *(sys.argv[0], f"-max_total_time={max(1, int(left))}", f"-max_len={target.largest}"),
                *(f"-timeout={_HANG}", f"-rss_limit_mb={_MEGABYTES}", "-print_final_stats=1", "-verbosity=0"),
                *(f"-artifact_prefix={folder / name}/", f"-dict={words}", str(own), str(CORPUS / name)),
            ]
            (folder / name).mkdir(parents=True, exist_ok=True)
            atheris.Setup(arguments, lambda data: faults.check(parse, data))
            atheris.Fuzz()  # does not return
    print(f"{name}: {faults.executed} inputs", flush=True)
    return 0


def _load_atheris() -> Any:
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: mutations without coverage (pip install 'mlaas4hep[fuzz]')", flush=True)
        return None
    return atheris


def _supervise(names: list[str], seconds: float, corpus: Path | None, folder: Path, sanitize: bool) -> int:
    """Fuzz one target after the other, each in a process of its own; start it again behind a crash."""
    folder = folder.resolve()
    with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as temporary:
        new = corpus.resolve() if corpus else Path(temporary)
        new.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), **(sanitizer.build(new) if sanitize else {})}
        before = _faults_in(folder)
        for name in names:
            end = time.monotonic() + seconds / len(names)
            while (left := end - time.monotonic()) > min(5, seconds / len(names) / 2):
                if _run(name, left, new, folder, environment) == 0:
                    break
        found = sorted(_faults_in(folder) - before)
    for path in found:
        print(f"FAULT: python tests/fuzz_parsers.py {path.parent.name} {path}")
    print(f"{len(found)} faults in {len(names)} targets")
    return int(bool(found))


def _run(name: str, seconds: float, corpus: Path, folder: Path, environment: dict[str, str]) -> int:
    command = [
        sys.executable,
        __file__,
        "--child",
        name,
        f"--seconds={seconds}",
        f"--corpus={corpus}",
        f"--faults={folder}",
    ]
    current = corpus / f"{name}.current"
    current.unlink(missing_ok=True)
    process = subprocess.Popen(command, env=environment, preexec_fn=lambda: _limit(sanitizer.VARIABLE in environment))
    try:
        code = process.wait(timeout=1.5 * seconds + 3 * _HANG)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if code and not current.exists():
        raise SystemExit(f"the process for {name} did not start")
    if code:
        from fuzz.campaign import Current, keep

        path = keep(folder / name, "crash", Current.read(current))
        print(f"{name}: the process ended with {code} at {path}", flush=True)
    return code


def _faults_in(folder: Path) -> set[Path]:
    return {path for pattern in _FAULTS for path in folder.glob(f"*/{pattern}")}


def _limit(sanitize: bool) -> None:
    if not sanitize:  # AddressSanitizer reserves terabytes
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
