"""However many files and folds a run has, few files are open at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from scripts import ROOT
from tinyroot import copy_with_new_uuid, write_events

from mlaas4hep.samples.readers import MAX_IDLE
from mlaas4hep.stream import DataGenerator
from mlaas4hep.stream.interleaving import MAX_QUEUES


def open_files() -> int:
    """The number of open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_the_folds_of_a_cross_validation_share_the_limit_of_open_files(tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.root" for index in range(MAX_IDLE + 4)]
    for index, file in enumerate(files):
        write_events(file, 20, seed=index, first_event=20 * index)
    params = {"kfold": 4, "cache": False}
    before = open_files()
    with ExitStack() as stack:
        generators = [stack.enter_context(DataGenerator(files, None, params, fold=fold)) for fold in range(4)]
        events = [sum(len(batch.x) for batch in generator.batches(shuffle=False)) for generator in generators]
        assert open_files() - before <= MAX_IDLE + MAX_QUEUES
    assert events == [events[0]] * 4
    assert open_files() - before <= 2


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("cache", [True, False])
def test_a_chunk_of_many_small_files_needs_few_open_files(tmp_path: Path, cache: bool) -> None:
    """The events of a chunk come from as many blocks of the cache as there are files."""
    count = 150
    for index in range(count):
        if index < 4:
            write_events(tmp_path / f"{index}.root", 10, seed=index, first_event=10 * index, clusters=1)
        else:
            copy_with_new_uuid(tmp_path / f"{index % 4}.root", tmp_path / f"{index}.root")
    files = [tmp_path / f"{index}.root" for index in range(count)]
    before = open_files()
    with DataGenerator(files, None, {"cache": cache, "workers": 2}) as generator:
        for epoch in range(2):
            events = most = 0
            for batch in generator.batches(epoch=epoch):
                events, most = events + len(batch.x), max(most, open_files())
            assert events == 2 * 10 * count  # and a copy of each event with shuffled columns
            assert most - before <= MAX_IDLE + MAX_QUEUES


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_training_on_four_thousand_files_under_a_limit_of_256_open_files(tmp_path: Path) -> None:
    for index in range(4000):
        if index < 4:
            write_events(tmp_path / f"{index}.root", 10, seed=index, first_event=10 * index, clusters=1)
        else:
            copy_with_new_uuid(tmp_path / f"{index % 4}.root", tmp_path / f"{index}.root")
    (tmp_path / "model.py").write_text(
        "from sklearn.linear_model import LogisticRegression\ndef model(idim): return LogisticRegression()\n"
    )
    (tmp_path / "params.json").write_text('{"tfaas": false, "workers": 4}')
    command = [sys.executable, "-c", LIMITED, str(ROOT / "workflow.py"), "--files=*.root", "--model=model.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Sample: 40000 events of 4000 files" in done.stdout
