"""Other views of images, for training: what is on them stays what it is.

augment(pixels, np.random.default_rng(0))           # uint8 (n, height, width, channels), the same
"""

from __future__ import annotations

import numpy as np

SHIFT = 0.1
"""Of height and width, by which an image is moved at most."""


def augment(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror each image left to right, top to bottom, both or not, and move it a little; what moves out is lost.

    Args:
        pixels: uint8 (n, height, width, channels); is not changed.

    Returns:
        The same, with 0 where nothing moved to.
    """
    count, height, width, _ = pixels.shape
    steps = rng.choice([-1, 1], (count, 2))
    reach = np.array([int(SHIFT * height), int(SHIFT * width)])
    moves = rng.integers(-reach, reach + 1, (count, 2))
    found = np.zeros_like(pixels)
    for image, seen, step, (down, right) in zip(pixels, found, steps.tolist(), moves.tolist(), strict=True):
        view = image[:: step[0], :: step[1]]
        seen[_slice(down, height), _slice(right, width)] = view[_slice(-down, height), _slice(-right, width)]
    return found


def _slice(move: int, size: int) -> slice:
    """Return the part of an axis that is covered after a move."""
    return slice(max(0, move), size + min(0, move))
