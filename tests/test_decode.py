"""Decoding image files: formats, orientation, size and channels."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scripts import ROOT

from mlaas4hep.errors import ConfigError
from mlaas4hep.images.decode import decode
from mlaas4hep.serving.models.tensor import Tensor
from mlaas4hep.serving.protocols.images import read_image

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
GREY = PIXELS[..., 0]
ORIENTATION = 0x0112


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    """Return the file of an image, or of its pixels."""
    content = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(content, kind, **options)
    return content.getvalue()


def colours(content: bytes, height: int | None = None, width: int | None = None) -> np.ndarray:
    return decode(io.BytesIO(content), height, width, 3)


def grey(content: bytes) -> np.ndarray:
    return decode(io.BytesIO(content), None, None, 1)[..., 0]


def test_pixels_have_the_values_that_were_saved() -> None:
    given = colours(encoded(PIXELS))
    assert (given.dtype, given.shape) == (np.uint8, (6, 4, 3))
    np.testing.assert_array_equal(given, PIXELS)
    np.testing.assert_array_equal(grey(encoded(GREY)), GREY)
    assert decode(io.BytesIO(encoded(GREY)), None, None, 1).shape == (6, 4, 1)
    for progressive in (False, True):
        flat = encoded(np.full((60, 40, 3), [10, 100, 200], np.uint8), "JPEG", progressive=progressive)
        np.testing.assert_allclose(colours(flat), np.full((60, 40, 3), [10, 100, 200]), atol=2)


def test_every_mode_of_png_is_converted_to_grey_or_colour() -> None:
    luma = PIXELS @ [0.299, 0.587, 0.114]  # ITU-R 601-2
    alpha = np.arange(24, dtype=np.uint8).reshape(6, 4, 1)
    threes = np.repeat(GREY[..., None], 3, axis=-1)
    bits = 255 * (GREY > 99).astype(np.uint8)
    deep = GREY.astype(np.uint16) * 256 + 77
    palette = Image.fromarray(PIXELS).quantize(24)
    for content, expected, its_grey in [
        (encoded(np.concatenate([PIXELS, alpha], axis=-1)), PIXELS, luma),
        (encoded(palette), PIXELS, luma),
        (encoded(palette, transparency=3), PIXELS, luma),
        (encoded(palette, transparency=bytes(range(24))), PIXELS, luma),
        (encoded(PIXELS, transparency=(1, 2, 3)), PIXELS, luma),
        (encoded(GREY), threes, GREY),
        (encoded(GREY, transparency=7), threes, GREY),
        (encoded(np.concatenate([GREY[..., None], alpha], axis=-1)), threes, GREY),
        (encoded(GREY > 99), np.repeat(bits[..., None], 3, axis=-1), bits),
        (encoded(deep), threes, GREY),
    ]:
        np.testing.assert_array_equal(colours(content), expected)
        np.testing.assert_allclose(grey(content), its_grey, atol=0.6)


def test_grey_and_cmyk_jpeg_files_are_converted_to_grey_or_colour() -> None:
    inks = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG")
    np.testing.assert_allclose(colours(inks), np.full((16, 16, 3), [0, 255, 255]), atol=2)
    np.testing.assert_allclose(grey(inks), 255 * (0.587 + 0.114), atol=2)
    ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None], 8, axis=1)
    content = encoded(ramp, "JPEG", quality=100)
    np.testing.assert_allclose(grey(content), ramp, atol=2)
    np.testing.assert_array_equal(colours(content), np.stack([grey(content)] * 3, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_exif_orientation_is_applied(kind: str) -> None:
    """The meaning of the eight orientations is from the standard (JEITA CP-3451, 4.6.4 A)."""
    corner = np.zeros((24, 16, 3), np.uint8)
    corner[:8, :8] = 255  # the first row's first pixels
    places = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    for orientation, place in places.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        given = colours(encoded(corner, kind, exif=exif))
        assert given.shape == ((24, 16, 3) if orientation < 5 else (16, 24, 3))
        bright = np.argwhere(given[::8, ::8, 0] > 128)
        assert bright.tolist() == [[place[0] % (given.shape[0] // 8), place[1] % (given.shape[1] // 8)]]


def triangle(size: int, of: int) -> np.ndarray:
    """Return the weights of bilinear reduction from `of` to `size` pixels, float64 (size, of)."""
    shrink = of / size
    middles = (np.arange(size) + 0.5) * shrink - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(of) - middles[:, None]) / shrink)
    return weights / weights.sum(axis=1, keepdims=True)


def test_images_are_resized_bilinearly() -> None:
    large = np.random.default_rng(1).integers(0, 256, (60, 35, 3), np.uint8)
    expected = np.einsum("ih,jw,hwc->ijc", triangle(12, 60), triangle(5, 35), large)
    np.testing.assert_allclose(colours(encoded(large), 12, 5), expected, atol=1)
    assert colours(encoded(large), 12).shape == (12, 35, 3)
    assert colours(encoded(large), None, 5).shape == (60, 5, 3)
    np.testing.assert_array_equal(colours(encoded(np.full((3, 2), 9, np.uint8)), 30, 20), np.full((30, 20, 3), 9))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_server_decodes_to_the_same_pixels(channels: int) -> None:
    large = np.random.default_rng(2).integers(0, 256, (200, 300, 3), np.uint8)
    for content in (encoded(large), encoded(large, "JPEG")):
        pixels = decode(io.BytesIO(content), 64, 48, channels)
        served = read_image(io.BytesIO(content), Tensor("x", (64, 48, channels)))
        assert (served.dtype, served.shape) == (np.float32, (1, 64, 48, channels))
        np.testing.assert_array_equal(served[0], pixels)


def test_a_file_that_is_not_an_image_is_an_error() -> None:
    png, jpeg = encoded(PIXELS), encoded(np.tile(PIXELS, (20, 20, 1)), "JPEG")
    others = [encoded(PIXELS, kind) for kind in ("GIF", "TIFF", "BMP")]
    for content in (b"", b"no image", png[:60], png[:-30] + b"x" * 30, jpeg[:-400], jpeg[:30], *others):
        with pytest.raises(ConfigError) as caught:
            colours(content)
        assert str(caught.value) == "the image is damaged, or is not a PNG or JPEG file"


def test_an_image_with_too_many_pixels_is_refused() -> None:
    assert colours(encoded(np.zeros((5000, 5000), np.uint8)), 4, 4).shape == (4, 4, 3)
    with pytest.raises(ConfigError, match="the image has more than 25 million pixels"):
        colours(encoded(np.zeros((5000, 5001), np.uint8)), 4, 4)


def test_pillow_is_imported_with_the_first_image_and_named_if_missing() -> None:
    code = """
import io, sys
from mlaas4hep.errors import PackageMissing
from mlaas4hep.images.decode import decode
assert "PIL" not in sys.modules
sys.modules["PIL"] = None
try:
    decode(io.BytesIO(), 1, 1, 3)
except PackageMissing as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    said = "reading images needs the package 'PIL', which is not installed; install it: pip install 'mlaas4hep[server]'"
    assert done.stdout.strip() == said
