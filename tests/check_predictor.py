"""The contract of a predictor; every format's must pass it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.models.predictor import Predictor


def check_predictor(predictor: Predictor, events: np.ndarray, truth: np.ndarray) -> None:
    """Check every promise of `Predictor`.

    Args:
        predictor: of rows (n, features) or images (n, height, width, channels).
        events: several different ones that it takes, float32.
        truth: their scores, computed without it, (n, k).
    """
    assert predictor.alive
    assert isinstance(predictor.platform, str)
    for told, there in zip(predictor.input.shape, events.shape[1:], strict=True):
        assert told in (None, there)
    assert predictor.output.shape == truth.shape[1:]
    assert predictor.input.name
    assert predictor.output.name

    scores = predictor.predict(events)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, truth, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predictor.predict(events[1:2]), truth[1:2], rtol=1e-5, atol=1e-6)

    with pytest.raises(ConfigError, match="values") as caught:
        predictor.predict(np.concatenate([events, events], axis=-1))
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ConfigError, match="there are no rows"):
        predictor.predict(events[:0])

    with ThreadPoolExecutor(8) as pool:
        rows = [index % len(events) for index in range(64)]
        for row, given in zip(rows, pool.map(lambda row: predictor.predict(events[row : row + 1]), rows), strict=True):
            np.testing.assert_allclose(given, truth[row : row + 1], rtol=1e-5, atol=1e-6)
