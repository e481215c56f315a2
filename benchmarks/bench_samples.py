"""How long does it take to open, survey and read the thousands of files of a real sample?

    python benchmarks/bench_samples.py                          # 1,000 small files, of which 7 are broken in seven ways
    python benchmarks/bench_samples.py --survey=nanoaod.root    # 1,000 copies of a wide file, surveyed without reading

The first table compares one command on all files with the same on the good files alone, alternating. The second one
gives the time per file until the columns of all files are compared, and the peak memory for 100 and for all copies. The
floor is the time to read the record of the tree and to decompress it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import uproot

FILES, EVENTS, ROUNDS = 1000, 200, 5
BROKEN = ("empty", "text", "truncated", "treeless", "missing", "folder", "damaged")
SURVEY = """
import json, resource, sys, time
from mlaas4hep.reader import ReadOptions
from mlaas4hep.samples.consistency import FileSummary
from mlaas4hep.samples.fileset import Fileset
from mlaas4hep.samples.input_files import input_files
from mlaas4hep.samples.readers import SampleReaders
from mlaas4hep.samples.survey import FileSurvey

start, cpu = time.perf_counter(), time.process_time()
readers = SampleReaders(input_files(Fileset.of(sys.argv[1]), ReadOptions.parse({})))
first = None
for one in readers.map(FileSurvey.of, int(sys.argv[2])):
    first = first or one
    one.summary.sharing(first.summary)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(json.dumps({"files": len(readers.inputs), "seconds": seconds, "cpu": time.process_time() - cpu, "peak_mb": peak}))
"""
FLOOR = """
import json, sys, time
from pathlib import Path
from mlaas4hep.io.root.tree_keys import find_tree, read_object
from mlaas4hep.io.root.uproot_source import open_root_file
from mlaas4hep.io.storage.byte_ranges import LocalRanges

cpu, files = 0.0, Path(sys.argv[1]).read_text().split()
for file in files:
    ranges = LocalRanges(file)
    key = find_tree(open_root_file(ranges), "Events", file)
    start = time.process_time()
    read_object(ranges, key)
    cpu += time.process_time() - start
    ranges.close()
print(json.dumps({"cpu": cpu}))
"""


def write_files(folder: Path) -> list[Path]:
    """Write small files of two classes, seven of them broken; return the paths of the good ones."""
    rng = np.random.default_rng(1)
    good = []
    broken = {FILES * (2 * index + 1) // (2 * len(BROKEN)): kind for index, kind in enumerate(BROKEN)}
    for number in range(FILES):
        path = folder / f"{number:04}.root"
        columns = {f"x{index}": rng.normal(number % 2, 1, EVENTS).astype(np.float32) for index in range(20)}
        columns |= {"run": np.full(EVENTS, number, np.uint32), "event": np.arange(EVENTS, dtype=np.uint64)}
        kind = broken.get(number, "")
        if kind != "missing":
            with uproot.recreate(path) as file:
                tree = file.mktree(
                    "Other" if kind == "treeless" else "Events", {k: v.dtype for k, v in columns.items()}
                )
                tree.extend(columns)
        break_file(path, kind)
        if not kind:
            good.append(path)
    return good


def break_file(path: Path, kind: str) -> None:
    """Break a file in one of the ways in BROKEN."""
    if kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "the server is down\n" * 100)
    elif kind == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "damaged":
        content = bytearray(path.read_bytes())
        content[400 : len(content) // 2] = bytes(len(content) // 2 - 400)
        path.write_bytes(content)


def train(folder: Path, samples: Path) -> tuple[float, dict[str, object]]:
    """Train on the files; return the seconds and the content of training.json."""
    command = [sys.executable, str(Path(__file__).parents[1] / "workflow.py"), f"--files={samples}", "--model=model.py"]
    start = time.perf_counter()
    done = subprocess.run([*command, "--params=params.json", "--fout=out"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start, json.loads((folder / "out/training.json").read_text())


def compare_with_good_files(folder: Path) -> dict[str, object]:
    """Alternate runs on all files with runs on the good ones; print and return the result."""
    good = write_files(folder)
    every = [folder / f"{number:04}.root" for number in range(FILES)]
    for name, files in (("all", every), ("good", good)):
        samples = {label: {"files": [str(file) for file in files if int(file.stem) % 2 == number]}
                   for number, label in enumerate(("even", "odd"))}  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(samples))
    model = "from sklearn.linear_model import SGDClassifier\ndef model(idim): return SGDClassifier(loss='log_loss')\n"
    (folder / "model.py").write_text(model)
    (folder / "params.json").write_text(json.dumps({"on_error": "skip", "epochs": 1, "tfaas": False, "cache": False}))
    seconds: dict[str, list[float]] = {"all": [], "good": []}
    for _ in range(ROUNDS):
        for name, times in seconds.items():
            spent, training = train(folder, folder / f"{name}.json")
            times.append(spent)
            left_out = training["left_out"]
            assert len(left_out) == (len(BROKEN) if name == "all" else 0)
            assert sum(file["entries"] for file in training["files"]) == len(good) * EVENTS
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{len(good)} of {FILES} files read, {len(BROKEN)} named; medians of {ROUNDS} runs of workflow.py")
    for name, value in medians.items():
        print(f"  {name:5} {value:6.2f} s  ({min(seconds[name]):.2f} to {max(seconds[name]):.2f})")
    print(f"  ratio {medians['all'] / medians['good']:6.3f}")
    return {"seconds": seconds}


def survey_copies(folder: Path, original: Path) -> dict[str, object]:
    """Open copies of a wide file; print and return time and memory."""
    content = original.read_bytes()
    with uproot.open(original) as file:
        identity = file.file.uuid.bytes
    results = []
    for number in range(FILES):
        (folder / f"copy{number:04}.root").write_bytes(content.replace(identity, uuid.uuid4().bytes))
    for count, workers in ((100, 1), (FILES, 1), (FILES, 2)):
        (folder / "files.txt").write_text("\n".join(str(folder / f"copy{number:04}.root") for number in range(count)))
        result = run_script(SURVEY, str(folder / "files.txt"), str(workers))
        results.append({**result, "workers": workers})
        print(
            f"  {count:5} files, {workers} thread{'s' * (workers > 1)}: {1e3 * result['seconds'] / count:5.1f} ms/file,"
            f" CPU {1e3 * result['cpu'] / count:5.1f} ms/file, peak memory {result['peak_mb']:.0f} MB"
        )
    floor = run_script(FLOOR, str(folder / "files.txt"))
    print(f"  floor: CPU {1e3 * floor['cpu'] / FILES:5.2f} ms/file")
    return {"survey": results, "floor": floor}


def run_script(script: str, *arguments: str) -> dict[str, float]:
    """Run a script in a process of its own; return the JSON that it prints."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--survey", type=Path, metavar="FILE", help="ROOT file to survey copies of")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench_samples_"))
    try:
        result = survey_copies(folder, args.survey) if args.survey else compare_with_good_files(folder)
    finally:
        shutil.rmtree(folder)
    print(json.dumps({**result, "python": platform.python_version(), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
