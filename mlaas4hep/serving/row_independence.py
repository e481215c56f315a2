"""Whether the scores of a row depend on the rows beside it: then requests may not share a batch.

rows_are_independent(predictor.predict, predictor.input.shape)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mlaas4hep.serving.rows import Matrix

_UNKNOWN = 32  # columns, or pixels along an edge, of a model that does not say how many it takes
_SAME = 1e-3  # of the largest score


def rows_are_independent(predict: Callable[[Matrix], Matrix], shape: Sequence[int | None]) -> bool:
    """Say whether three rows get the same scores together as each alone.

    Args:
        predict: returns scores (n, k); what it raises is passed on.
        shape: of one row.
    """
    sizes = [size or (_UNKNOWN if index < 2 else 3) for index, size in enumerate(shape)]
    rows = np.random.default_rng(0).standard_normal((3, *sizes), np.float32)
    rows *= 30
    together = predict(rows)
    alone = np.concatenate([predict(row[None]) for row in rows])
    if together.shape != alone.shape:
        return False
    tolerance = _SAME * np.nanmax(np.abs(alone), initial=1.0)
    return bool(np.allclose(together, alone, rtol=0, atol=tolerance, equal_nan=True))
