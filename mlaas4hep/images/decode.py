"""Decode image files to pixels, in the same way for training and on the server.

    with open("ring/a.png", "rb") as file:
        pixels = decode(file, 64, 64, 3)                        # uint8 (64, 64, 3)

PNG and JPEG are recognised by content, not by name. Pillow is imported with the first image. Its draft mode, which
decodes large JPEG files in half the time, is not used, since it changes the pixels.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from mlaas4hep.errors import ConfigError, require

MAX_PIXELS = 25_000_000
"""Largest number of pixels of an image: a file of a few bytes can decompress to any number."""

_FORMATS = ("PNG", "JPEG")


def decode(
    file: BinaryIO, height: int | None, width: int | None, channels: int, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode an image and resize it bilinearly.

    The EXIF orientation is applied. 16 bits are reduced to 8, and transparency is ignored, as in the stock server.

    Args:
        file: a PNG or JPEG file.
        height, width: size of the result; None keeps the size of the image.
        channels: 1 (grey) or 3 (red, green, blue).
        max_pixels: largest number of pixels of the image and of the result.

    Returns:
        uint8 (height, width, channels), possibly read-only.

    Raises:
        ConfigError: the file is not a PNG or JPEG image, is damaged or too large.
    """
    image = _convert("L" if channels == 1 else "RGB", open_image(file, max_pixels))
    size = (width or image.width, height or image.height)
    if size[0] * size[1] > max_pixels:  # if only one side is given, the other may be long
        raise ConfigError(f"the resized image would have more than {max_pixels / 1e6:g} million pixels")
    if image.size != size:
        image = image.resize(size, _pillow().Resampling.BILINEAR)
    return np.asarray(image).reshape(size[1], size[0], channels)


def open_image(file: BinaryIO, max_pixels: int = MAX_PIXELS) -> Any:
    """Return a decoded Pillow image in its own size and mode, with its EXIF orientation applied.

    Raises:
        ConfigError: the file is not a PNG or JPEG image, is damaged or too large.
    """
    pillow = _pillow()
    too_large = f"the image has more than {max_pixels / 1e6:g} million pixels"
    try:
        with pillow.open(file, formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ConfigError(too_large)
            image.load()
            require("PIL.ImageOps", "server", "reading images").exif_transpose(image, in_place=True)
    except ConfigError:
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise ConfigError(too_large) from error
    except Exception as error:  # Pillow raises many types for damaged files
        raise ConfigError("the image is damaged, or is not a PNG or JPEG file") from error
    return image


def _convert(mode: str, image: Any) -> Any:
    image.info.pop("transparency", None)  # Pillow would convert it too, and warn if a palette has several
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        image = _pillow().fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)


def _pillow() -> Any:
    return require("PIL.Image", "server", "reading images")
