"""Fuzz the parsers that read bytes from strangers.

python tests/fuzz_parsers.py --seconds=1800              # all targets, coverage-guided if atheris is installed
python tests/fuzz_parsers.py --seconds=60 tar image      # some targets
python tests/fuzz_parsers.py --sanitize basket           # with AddressSanitizer in the compiled loops
python tests/fuzz_parsers.py tar tests/corpus/tar/...    # repeat one input

Each target runs in a process of its own, with limits on its memory and on the time per input. An input that causes a
fault is written to tests/corpus/TARGET/ and must be kept there as a test; valid inputs that reach new code go to
--corpus.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuzz import sanitizer
from fuzz.names import GROUPS, NAMES

if TYPE_CHECKING:
    from fuzz.checks import Target  # imports parts of the package, which must be instrumented first

ADDRESS_SPACE = 6_000_000_000
"""Bytes that a process may reserve."""

_MEGABYTES = 1500  # of memory that a process may use
_HANG = 60  # seconds that one input may take
_QUICK = 250  # seconds that a group may take in `make test`
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
        "--reach",
        action="store_true",
        help="say which share of each parser the corpus reaches; keeps inputs of --corpus that reach more",
    )
    parser.add_argument(
        "--sanitize", action="store_true", help="with AddressSanitizer in kernel.cpp, and without atheris"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [name for name in options.targets if name in NAMES] or list(NAMES)
    inputs = [Path(name) for name in options.targets if name not in NAMES]
    if inputs:
        return _repeat(names[0], inputs)
    if options.reach:
        return _reach(names, options.corpus)
    if options.quick:
        return _quick(names, options.faults)
    if options.child:
        return _fuzz_all(names, options.seconds, options.corpus, options.faults)
    return _supervise(names, options.seconds, options.corpus, options.faults, options.sanitize)


def _repeat(name: str, inputs: list[Path]) -> int:
    from fuzz.campaign import opened
    from fuzz.checks import find_fault
    from fuzz.targets import TARGETS

    with opened(TARGETS[name]) as parse:
        faults = [find_fault(parse, path.read_bytes()) for path in inputs]
    print("\n".join(fault or "no fault" for fault in faults))
    return int(any(faults))


def _reach(names: list[str], more: Path | None) -> int:
    """Print the share of lines that the corpus reaches; first add inputs of another folder that reach further lines."""
    from fuzz.campaign import CORPUS, corpus_of, keep, opened
    from fuzz.reach import MODULES, Reached
    from fuzz.targets import TARGETS

    every = Reached()
    for name in names:
        own = Reached()
        others = [path.read_bytes() for path in (more / name).iterdir()] if more and (more / name).is_dir() else []
        with own.observed(), opened(TARGETS[name]) as parse:
            pass
        with opened(TARGETS[name]) as parse:
            for _ in own.chosen(parse, corpus_of(TARGETS[name])):
                pass
            for data in own.chosen(parse, others):
                keep(CORPUS / name, "found", data)
        every.lines |= own.lines
        shares = [f"{module} {_share(*own.missing(module))}" for module in MODULES[name]]
        print(f"{name:15} {', '.join(shares)}", flush=True)
    print("all of these targets together:")
    for module in sorted({module for name in names for module in MODULES[name]}):
        missing, of = every.missing(module)
        print(f"{module:28} {_share(missing, of)} of {of:4} lines; missing: {missing}")
    return 0


def _share(missing: list[int], of: int) -> str:
    return f"{100 - 100 * len(missing) / of:.0f} %"


def _quick(names: list[str], folder: Path) -> int:
    """Print one line of JSON per target; a target without a line ended the process of its group."""
    from fuzz.targets import TARGETS

    groups = [[TARGETS[name] for name in group if name in names] for group in GROUPS.values()]
    return max(_in_fork(partial(_quick_group, group, folder), _QUICK) != 0 for group in groups if group)


def _quick_group(group: list[Target], folder: Path) -> None:
    from fuzz.campaign import Faults, opened, quick

    for target in group:
        faults = Faults(target, folder / target.name, folder / f"{target.name}.current")
        with opened(target) as parse:
            quick(target, _timed(parse), faults, target.variants)
        print(json.dumps({"target": target.name, "executed": faults.executed, "faults": faults.found}), flush=True)


def _timed(parse: Any, end: float = float("inf")) -> Any:
    """Return a parser that ends the process if one input takes too long, and behind the first input after `end`."""

    def timed(data: bytes) -> None:
        if time.monotonic() > end:
            sys.stdout.flush()
            os._exit(0)
        faulthandler.dump_traceback_later(_HANG, exit=True)
        try:
            parse(data)
        finally:
            faulthandler.cancel_dump_traceback_later()

    return timed


def _fuzz_all(names: list[str], seconds: float, corpus: Path, folder: Path) -> int:
    """Fuzz one target after the other, each in a process of its own; start it again behind a crash.

    The processes are forks of this one, since the imports alone take many seconds with coverage instrumentation.
    """
    end = time.monotonic() + seconds  # imports included
    sanitizer.use_built()
    atheris = None if sanitizer.VARIABLE in os.environ else _load_atheris()
    if atheris is None:
        from fuzz.targets import TARGETS
    else:
        with atheris.instrument_imports(include=_OBSERVED), redirect_stderr(io.StringIO()):  # it names every module
            from fuzz.targets import TARGETS
    from fuzz.campaign import Current, keep, temporary_folder

    for number, name in enumerate(names):
        began = time.monotonic()
        share = max(end - began, len(names) - number) / (len(names) - number)  # at least a second
        while (left := began + share - time.monotonic()) > share / 4:
            current = corpus / f"{name}.current"
            current.unlink(missing_ok=True)
            with temporary_folder() as place:
                code = _in_fork(partial(_fuzz, TARGETS[name], left, corpus, folder, Path(place), atheris), left)
            if code == 0:
                break
            if not current.exists():
                raise SystemExit(f"the process for {name} did not start")
            path = keep(folder / name, "crash", Current.read(current))
            print(f"{name}: the process ended with {code} at {path}", flush=True)
    return 0


def _in_fork(work: Callable[[], None], seconds: float) -> int:
    """Run a function in a fork of this process, with limits; return the exit status, negative for a signal."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            _limit(sanitizer.VARIABLE in os.environ)
            work()
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    end = time.monotonic() + seconds + 2 * _HANG
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _fuzz(target: Target, seconds: float, corpus: Path, folder: Path, place: Path, atheris: Any) -> None:
    """Fuzz one target in this process: the corpus, then memory, then a search for new inputs."""
    from fuzz.campaign import CORPUS, Faults, find_leak, keep, quick
    from fuzz.mutations import TOKENS, escaped, guided

    name, end = target.name, time.monotonic() + seconds
    faults = Faults(target, folder / name, corpus / f"{name}.current")
    faulthandler.enable()
    with ExitStack() as stack:
        parse = _timed(target.open(place, stack), end)
        quick(target, parse, faults, 500, seconds / 4)
        leak = find_leak(target, parse, faults, seconds / 10)
        if leak:
            print(f"{name}: {leak}", flush=True)
            keep(folder / name, "leak", leak.encode())
        left = end - time.monotonic()
        if atheris is None:
            quick(target, parse, faults, sys.maxsize, left)
            print(f"{name}: {faults.executed} inputs", flush=True)
            return
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
        more: dict[str, Any] = {}
        if target.mutate:  # atheris replaces its function Mutate when the search begins
            more["custom_mutator"] = guided(target.mutate, lambda *change: atheris.Mutate(*change))
        atheris.Setup(arguments, lambda data: faults.check(parse, data), **more)
        atheris.Fuzz()  # does not return


def _load_atheris() -> Any:
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: mutations without coverage (pip install 'mlaas4hep[fuzz]')", flush=True)
        return None
    return atheris


def _supervise(names: list[str], seconds: float, corpus: Path | None, folder: Path, sanitize: bool) -> int:
    """Fuzz the targets in a process with the right environment, and sum up what it found."""
    folder = folder.resolve()
    with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as temporary:
        new = corpus.resolve() if corpus else Path(temporary)
        new.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), **(sanitizer.build(new) if sanitize else {})}
        before = _faults_in(folder)
        options = [f"--seconds={seconds}", f"--corpus={new}", f"--faults={folder}"]
        done = subprocess.run([sys.executable, __file__, "--child", *names, *options], env=environment, check=False)
        found = sorted(_faults_in(folder) - before)
    for path in found:
        print(f"FAULT: python tests/fuzz_parsers.py {path.parent.name} {path}")
    print(f"{len(found)} faults in {len(names)} targets")
    return int(bool(found) or done.returncode != 0)


def _faults_in(folder: Path) -> set[Path]:
    return {path for pattern in _FAULTS for path in folder.glob(f"*/{pattern}")}


def _limit(sanitize: bool) -> None:
    if not sanitize:  # AddressSanitizer reserves terabytes
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
