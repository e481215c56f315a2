"""Work in threads, results in order."""

import threading

import pytest

from mlaas4hep.io.ahead import ahead, in_background


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_each_once(workers):
    assert list(ahead(lambda number: number * number, range(20), workers)) == [number * number for number in range(20)]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_comes_where_its_result_would_have(workers):
    results = ahead(lambda number: 1 // (3 - number), range(10), workers)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_workers_work_at_the_same_time():
    both = threading.Barrier(2, timeout=60)
    assert list(ahead(lambda _: both.wait() >= 0, range(4), 2)) == [True] * 4


def test_no_more_than_the_workers_are_ahead():
    begun = []
    results = ahead(begun.append, range(10), 2)
    next(results)
    results.close()
    assert len(begun) <= 4


def test_items_come_in_order_from_the_background():
    assert list(in_background(range(50), depth=3)) == list(range(50))


def test_an_error_in_the_background_comes_where_its_item_would_have():
    items = in_background((1 // (3 - number) for number in range(10)), depth=2)
    assert [next(items) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_no_more_items_than_the_depth_wait_and_who_stops_early_ends_the_thread():
    begun, closed = [], threading.Event()

    def source():
        try:
            for number in range(1000):
                begun.append(number)
                yield number
        finally:
            closed.set()

    before = threading.active_count()
    items = in_background(source(), depth=2)
    assert next(items) == 0
    items.close()
    assert closed.wait(60)
    assert len(begun) <= 5
    assert threading.active_count() == before
