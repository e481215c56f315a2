"""How files are mixed, by hand."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mlaas4hep.reader.memory_check import BYTES_PER_VALUE
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.interleaving import (
    MAX_QUEUES,
    MEMORY,
    Block,
    BlockQueue,
    distribute_files,
    plan_interleaving,
    proportional_shares,
)
from mlaas4hep.stream.row_selection import RowSelection


def selection_of(numbers):
    entry = np.array(numbers, np.int64)
    count = len(entry)
    return RowSelection.of(Batch(
        {"x": np.zeros((count, 1), np.float32), "mask": np.ones((count, 1), bool)}, np.zeros(count, np.int64),
        np.ones(count, np.float32), {}, np.zeros(count, np.int8), np.zeros(count, np.int32), entry,
    ))  # fmt: skip


def entries(batches):
    return [selection.gather().entry.tolist() for selection in batches]


def test_every_chunk_takes_from_every_queue_in_proportion_to_its_length():
    assert [proportional_shares([20_000, 5_000], chunk, 10) for chunk in range(10)] == [[2000, 500]] * 10
    assert [proportional_shares([5, 1], chunk, 3) for chunk in range(3)] == [[1, 0], [2, 0], [2, 1]]


def test_no_more_files_than_queues_have_a_queue_each():
    assert distribute_files([5, 0, 7], [0, 1, 0], 3) == [[0], [1], [2]]


def test_files_of_different_classes_never_share_a_queue_and_queues_are_of_like_length():
    assert distribute_files([10, 30, 20, 40, 40], [0, 0, 0, 1, 1], 4) == [[1], [2, 0], [3], [4]]


def test_a_class_of_few_events_has_a_queue_all_the_same():
    assert distribute_files([1000, 1000, 1000, 1], [0, 0, 0, 1], 2)[-1] == [3]


def test_blocks_under_way_fit_into_memory():
    for width in (1, 10, 100, 2469):
        for groups, files in ((1, 1), (2, 7), (5, 100)):
            found = plan_interleaving(width, groups, files)
            assert found.queues == min(files, MAX_QUEUES)
            assert found.queues * found.rows * 2 * BYTES_PER_VALUE * width <= MEMORY


def test_a_queue_returns_its_blocks_in_order_for_any_sizes():
    blocks = [Block(0, 0, 4), Block(0, 4, 6), Block(1, 0, 3)]
    with ThreadPoolExecutor(2) as pool:
        queue = BlockQueue(iter(blocks), lambda block: selection_of(range(10 * block.start, 10 * block.stop, 10)), pool)
        assert entries(queue.take(1)) == [[0]]
        assert entries(queue.take(4)) == [[10, 20, 30], [40]]
        assert entries(queue.take(0)) == []
        assert entries(queue.take(4)) == [[50], [0, 10, 20]]


def test_of_a_block_that_lost_events_to_a_cut_a_share_is_given():
    survivors = {0: [1, 3, 5, 7], 10: []}
    with ThreadPoolExecutor(1) as pool:
        queue = BlockQueue(
            iter([Block(0, 0, 10), Block(0, 10, 20)]), lambda block: selection_of(survivors[block.start]), pool
        )
        assert entries(queue.take(5)) == [[1, 3]]
        assert entries(queue.take(10)) == [[5, 7], []]
        assert entries(queue.take(5)) == [[]]
