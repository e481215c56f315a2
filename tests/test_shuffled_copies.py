"""Copies of events with independently shuffled columns."""

import numpy as np
import pytest

from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.shuffled_copies import add_shuffled_copies


@pytest.fixture(scope="module")
def events():
    """3000 events of two equal columns and a third that is there for half of them."""
    count = 3000
    number = np.arange(count)
    x = np.stack([number, number, np.where(number % 2, 0, number + 0.5)], axis=1).astype(np.float32)
    mask = np.stack([number >= 0, number >= 0, number % 2 == 0], axis=1)
    return Batch(
        {"x": x, "mask": mask}, np.ones(count, np.int64), np.ones(count, np.float32), {"event": number},
        np.zeros(count, np.int8), np.zeros(count, np.int32), number,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(events):
    return add_shuffled_copies(events, np.random.default_rng(1))


def test_every_event_is_yielded_once_unchanged_with_one_shuffled_copy(events, both):
    assert len(both) == 6000
    real = both[both.y == 1]
    real = real[np.argsort(real.entry)]
    for name in ("x", "mask", "entry"):
        np.testing.assert_array_equal(getattr(real, name), getattr(events, name))
    copies = both[both.y == 0]
    assert set(copies.entry.tolist()) == {-1}
    assert set(copies.ids["event"].tolist()) == {0}


def test_copies_have_the_same_columns_but_no_relation_between_them(events, both):
    copies = both[both.y == 0]
    for column in range(3):
        np.testing.assert_array_equal(np.sort(copies.x[:, column]), np.sort(events.x[:, column]))
    assert abs(np.corrcoef(copies.x[:, 0], copies.x[:, 1])[0, 1]) < 0.08


def test_value_and_mask_are_moved_together(both):
    assert both.mask[:, 2].sum() == 3000
    assert (both.x[~both.mask] == 0).all()
    assert (both.x[:, 2][both.mask[:, 2]] % 1 == 0.5).all()


def test_events_and_copies_are_mixed(both):
    assert 0.45 < both.y[:1000].mean() < 0.55


def test_the_same_seed_gives_the_same_copies(events, both):
    again = add_shuffled_copies(events, np.random.default_rng(1))
    np.testing.assert_array_equal(again.x, both.x)
