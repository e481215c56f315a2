"""Computing ahead in threads keeps the order."""

import threading

import pytest

from mlaas4hep.io.prefetch import map_ordered, prefetch


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_are_yielded_once_in_order(workers):
    assert list(map_ordered(lambda number: number**2, range(20), workers)) == [number**2 for number in range(20)]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_is_raised_in_place_of_its_result(workers):
    results = map_ordered(lambda number: 1 // (3 - number), range(10), workers)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_workers_run_at_the_same_time():
    both = threading.Barrier(2, timeout=60)
    assert list(map_ordered(lambda _: both.wait() >= 0, range(4), 2)) == [True] * 4


def test_at_most_as_many_tasks_as_workers_are_ahead():
    begun = []
    results = map_ordered(begun.append, range(10), 2)
    next(results)
    results.close()
    assert len(begun) <= 4


def test_prefetched_items_are_yielded_in_order():
    assert list(prefetch(range(50), depth=3)) == list(range(50))


def test_an_error_in_the_background_is_raised_in_place_of_its_item():
    items = prefetch((1 // (3 - number) for number in range(10)), depth=2)
    assert [next(items) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_at_most_depth_items_are_computed_ahead_and_closing_ends_the_thread():
    begun, closed = [], threading.Event()

    def source():
        try:
            for number in range(1000):
                begun.append(number)
                yield number
        finally:
            closed.set()

    before = threading.active_count()
    items = prefetch(source(), depth=2)
    assert next(items) == 0
    items.close()
    assert closed.wait(60)
    assert len(begun) <= 5
    assert threading.active_count() == before
