"""Data augmentation of images: random flips and small shifts.

augment(pixels, np.random.default_rng(0))           # uint8 (n, height, width, channels), the same
"""

from __future__ import annotations

import numpy as np

MAX_SHIFT = 0.1
"""Largest shift, as a fraction of height and width."""


def augment(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flip each image at random, horizontally and vertically, and shift it by up to `MAX_SHIFT`.

    Args:
        pixels: uint8 (n, height, width, channels); not modified.
        rng: source of randomness.

    Returns:
        An array of the same shape and dtype; pixels that a shift uncovers are 0.
    """
    count, height, width, _ = pixels.shape
    steps = rng.choice([-1, 1], (count, 2))
    max_shifts = np.array([int(MAX_SHIFT * height), int(MAX_SHIFT * width)])
    shifts = rng.integers(-max_shifts, max_shifts + 1, (count, 2))
    augmented = np.zeros_like(pixels)
    for image, target, step, (down, right) in zip(pixels, augmented, steps.tolist(), shifts.tolist(), strict=True):
        flipped = image[:: step[0], :: step[1]]
        rows, columns = _covered(down, height), _covered(right, width)
        target[rows, columns] = flipped[_covered(-down, height), _covered(-right, width)]
    return augmented


def _covered(shift: int, size: int) -> slice:
    """Return the range of an axis that the image covers after a shift."""
    return slice(max(0, shift), size + min(0, shift))
