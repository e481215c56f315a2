"""From an image file to pixels; the server and the training of a model decode alike.

    with open("ring/a.png", "rb") as file:
        pixels = decode(file, 64, 64, 3)                        # uint8 (64, 64, 3)

PNG and JPEG, whatever the file is called. Pillow is imported when the first image is decoded. Its draft mode is not
used: large JPEG files would be decoded in half of the time, and to other pixels.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from mlaas4hep.errors import ConfigError, require

LARGEST = 25_000_000
"""Pixels of an image; a few bytes can stand for as many as one likes."""

_FORMATS = ("PNG", "JPEG")


def decode(file: BinaryIO, height: int | None, width: int | None, channels: int) -> np.ndarray:
    """Decode an image in a size and with 1 channel (grey) or 3 (red, green, blue).

    An image of another size is resized, bilinearly; None is its own. EXIF orientation is respected; 16 bits become 8,
    and transparency is left out, as in the stock server.

    Returns:
        uint8 (height, width, channels), which may not be writable.

    Raises:
        ConfigError: it is no PNG or JPEG image, is damaged or too large.
    """
    image = _of_mode("L" if channels == 1 else "RGB", upright(file))
    size = (width or image.width, height or image.height)
    if size[0] * size[1] > LARGEST:  # where a model fixes one side, the other may be long
        raise ConfigError(f"the image would be resized to more than {LARGEST / 1e6:.0f} million pixels")
    if image.size != size:
        image = image.resize(size, _pillow().Resampling.BILINEAR)
    return np.asarray(image).reshape(size[1], size[0], channels)


def upright(file: BinaryIO) -> Any:
    """Return an image as Pillow has it, loaded, in its own size and mode, turned as its EXIF data say.

    Raises:
        ConfigError: it is no PNG or JPEG image, is damaged or too large.
    """
    pillow = _pillow()
    too_large = f"the image has more than {LARGEST / 1e6:.0f} million pixels"
    try:
        with pillow.open(file, formats=_FORMATS) as image:
            if image.width * image.height > LARGEST:
                raise ConfigError(too_large)
            image.load()
            require("PIL.ImageOps", "server", "reading images").exif_transpose(image, in_place=True)
    except ConfigError:
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise ConfigError(too_large) from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise ConfigError("the image is no PNG or JPEG file, or is damaged") from error
    return image


def _of_mode(mode: str, image: Any) -> Any:
    image.info.pop("transparency", None)  # or Pillow would convert it too, and warn where a palette has several
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        image = _pillow().fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)


def _pillow() -> Any:
    return require("PIL.Image", "server", "reading images")
