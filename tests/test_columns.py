"""Columns and what is cut out of them."""

import numpy as np

from mlaas4hep.io import Jagged
from mlaas4hep.io.columns import select_events


def test_selected_events_keep_their_lists():
    lists = Jagged(np.array([0, 2, 2, 5]), np.array([1, 2, 3, 4, 5]))
    kept = select_events(lists, np.array([True, False, True]))
    assert kept.offsets.tolist() == [0, 2, 5]
    assert kept.content.tolist() == [1, 2, 3, 4, 5]
    assert select_events(lists, np.array([False, True, False])).content.tolist() == []
