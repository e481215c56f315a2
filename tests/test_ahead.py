"""Work in threads, results in order."""

import threading

import pytest

from mlaas4hep.io.ahead import ahead


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
