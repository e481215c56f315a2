"""The fuzzing of one target in this process: replay, damaged variants, memory, and coverage-guided search.

    faults = Faults(target, keep_in=folder)
    replay(target, parse, faults)

The input under test is always in `current`, a file that survives a crash of this process.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import mmap
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from fuzz.checks import Parse, Target, find_fault
from fuzz.mutations import Mutations

CORPUS = Path(__file__).parents[1] / "corpus"
_LEAK = 30_000_000  # bytes that may come on top while the same inputs are tried again
_ROUNDS = 3


class Current:
    """A file that holds the input under test."""

    def __init__(self, path: Path, largest: int) -> None:
        self._size = largest + 8
        with path.open("w+b") as file:
            file.truncate(self._size)
            self._memory = mmap.mmap(file.fileno(), self._size)

    def set(self, data: bytes) -> None:
        """Note which input comes next."""
        kept = data[: self._size - 8]
        self._memory[: 8 + len(kept)] = len(kept).to_bytes(8, "little") + kept

    @staticmethod
    def read(path: Path) -> bytes:
        """Return the input that was noted last."""
        content = path.read_bytes()
        return content[8 : 8 + int.from_bytes(content[:8], "little")]


class Faults:
    """The faults that were found, each kind once; the input of each is written to a folder."""

    def __init__(self, target: Target, keep_in: Path, current: Path | None = None) -> None:
        self.found: dict[str, str] = {}
        self.executed = 0
        self._target, self._keep_in = target, keep_in
        self._current = Current(current, 16 * target.largest) if current else None

    def check(self, parse: Parse, data: bytes) -> None:
        """Try one input."""
        self.executed += 1
        if self._current:
            self._current.set(data)
        text = find_fault(parse, data)
        if text is None:
            return
        kind = text.splitlines()[0]
        if kind not in self.found:
            path = keep(self._keep_in, "fault", data)
            self.found[kind] = f"{text}\nrepeat it: python tests/fuzz_parsers.py {self._target.name} {path}"
            print(f"{self._target.name}: {self.found[kind]}", file=sys.stderr, flush=True)


def keep(folder: Path, what: str, data: bytes) -> Path:
    """Write an input to a folder; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{what}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder, in memory if possible."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if memory.is_dir() else None)


@contextmanager
def opened(target: Target) -> Iterator[Parse]:
    """Open a target in a temporary folder."""
    with temporary_folder() as folder, ExitStack() as stack:
        yield target.open(Path(folder), stack)


def corpus_of(target: Target) -> list[bytes]:
    """Return the inputs in the repository."""
    return [path.read_bytes() for path in sorted((CORPUS / target.name).glob("*")) if path.is_file()]


def quick(target: Target, parse: Parse, faults: Faults, count: int, seconds: float = 1e9) -> None:
    """Try the corpus, and `count` damaged variants of it."""
    corpus = corpus_of(target)
    end = time.monotonic() + seconds
    variants = itertools.islice(Mutations(corpus, 1, target.largest, target.mutate), count)
    for data in itertools.chain(corpus, variants):
        faults.check(parse, data)
        if time.monotonic() > end:
            return


def find_leak(target: Target, parse: Parse, faults: Faults, seconds: float) -> str | None:
    """Try the same inputs again and again; return a description of the leak if memory grows meanwhile."""
    corpus = corpus_of(target)
    inputs = [*corpus, *itertools.islice(Mutations(corpus, 2, target.largest, target.mutate), 100)]
    sizes: list[int] = []
    for _ in range(_ROUNDS):
        end = time.monotonic() + seconds / _ROUNDS
        tried = 0
        for data in inputs if not sizes else _again_until(inputs, end):
            faults.check(parse, data)
            tried += 1
            if not sizes and time.monotonic() > end:
                break
        inputs = inputs if sizes else inputs[:tried]  # as many as there is time for
        gc.collect()
        sizes.append(psutil.Process().memory_info().rss)
    if sizes[-1] - sizes[0] > _LEAK and sizes[-1] > sizes[-2] + _LEAK / 10:
        return f"memory grows while the same inputs are tried again: {[f'{size / 1e6:.0f} MB' for size in sizes]}"
    return None


def _again_until(inputs: list[bytes], end: float) -> Iterable[bytes]:
    """Yield the inputs at least once, and whole rounds of them until a moment."""
    while True:
        yield from inputs
        if time.monotonic() > end:
            return
