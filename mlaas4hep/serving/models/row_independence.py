"""A test whether the scores of a row depend on the other rows of a batch; such models cannot be batched.

rows_are_independent(predictor.predict, predictor.input.shape)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mlaas4hep.serving.models.rows import Matrix

_DEFAULT_SIZE = 32  # columns, or pixels along an edge, if the model does not define them
_TOLERANCE = 1e-3  # relative to the largest score


def trial_rows(shape: Sequence[int | None]) -> Matrix:
    """Return three random rows of this shape, the same on every call."""
    sizes = [size or (_DEFAULT_SIZE if index < 2 else 3) for index, size in enumerate(shape)]
    return 30 * np.random.default_rng(0).standard_normal((3, *sizes), np.float32)


def rows_are_independent(predict: Callable[[Matrix], Matrix], shape: Sequence[int | None]) -> bool:
    """Return whether three rows get the same scores together as each row alone.

    Args:
        predict: returns scores (n, k); its exceptions are passed on.
        shape: of one row.
    """
    rows = trial_rows(shape)
    together = predict(rows)
    alone = np.concatenate([predict(row[None]) for row in rows])
    if together.shape != alone.shape:
        return False
    tolerance = _TOLERANCE * np.nanmax(np.abs(alone), initial=1.0)
    return bool(np.allclose(together, alone, rtol=0, atol=tolerance, equal_nan=True))
