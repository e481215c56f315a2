"""However many files and folds a run has, few files are open at a time."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from tinyroot import write_events

from mlaas4hep.stream import DataGenerator
from mlaas4hep.stream.lanes import MAX_LANES
from mlaas4hep.stream.open_readers import MAX_IDLE


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
        assert open_files() - before <= MAX_IDLE + MAX_LANES
    assert events == [events[0]] * 4
    assert open_files() - before <= 2
