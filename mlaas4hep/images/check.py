"""Check that all images can be decoded, and determine their size and channels.

    checked = check_images(read_folder("hep_images"), skip_bad=True)
    checked.images, checked.bad, checked.height, checked.width, checked.channels

Every image is decoded, since this is the only way to find truncated files. This takes as long as reading the images for
one epoch.
"""

from __future__ import annotations

import io
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mlaas4hep import console
from mlaas4hep.comma_lists import abbreviated
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.images.decode import open_image
from mlaas4hep.images.folder import ImageFolder
from mlaas4hep.io.prefetch import map_ordered
from mlaas4hep.machine.threads import available_cpus

_MOST_THREADS = 4
_BLOCK = 64
_MODE_NAMES = {
    "1": "black and white", "L": "grey", "LA": "grey with transparency", "I;16": "16-bit grey", "I;16B": "16-bit grey",
    "I": "16-bit grey", "P": "palette", "RGB": "colour", "RGBA": "colour with transparency", "CMYK": "CMYK colour",
}  # fmt: skip


@dataclass(frozen=True)
class CheckedImages:
    """Images that can be decoded, and their properties.

    Attributes:
        images: the images that can be decoded.
        bad: names of the others.
        height: most frequent height in pixels.
        width: width of the same images in pixels.
        channels: 1 if all images are grey, else 3.
        digest: checksum of the contents of these images, to detect changes.
    """

    images: ImageFolder
    bad: tuple[str, ...]
    height: int
    width: int
    channels: int
    digest: int


class _Properties(NamedTuple):
    problem: str = ""
    size: tuple[int, int] = (0, 0)  # height and width
    mode: str = ""
    checksum: int = 0


def check_images(images: ImageFolder, skip_bad: bool = False) -> CheckedImages:
    """Decode all images, and report how many will be resized or converted.

    Args:
        skip_bad: leave out images that cannot be decoded, with a notice.

    Raises:
        FileUnreadable: an image cannot be decoded and `skip_bad` is False, or no image can be decoded.
    """
    every = _inspect_all(images)
    problems = {images.name(index): one.problem for index, one in enumerate(every) if one.problem}
    if problems:
        what = f"{len(problems):,} of {len(every):,} images cannot be decoded: {abbreviated(list(problems), 3)}"
        if not skip_bad or len(problems) == len(every):
            reason = next(iter(problems.values()))
            hint = "leave them out with --skip-bad" if len(problems) < len(every) else "use other images"
            raise FileUnreadable(f"{what}; reason for the first: {reason}", hint=hint)
        console.notice(f"{what}; they are left out")
        images = images.select(np.array([not one.problem for one in every]))
    good = [one for one in every if not one.problem]
    height, width = _report_conversions(good)
    is_grey = all(one.mode[0] in "1LI" for one in good)
    digest = zlib.crc32(np.array([one.checksum for one in good], "<u4").tobytes())
    return CheckedImages(images, tuple(problems), height, width, 1 if is_grey else 3, digest)


def _inspect_all(images: ImageFolder) -> list[_Properties]:
    """Decode all images; return their properties in order."""
    blocks = [range(start, min(start + _BLOCK, len(images))) for start in range(0, len(images), _BLOCK)]
    every: list[_Properties] = []
    with console.progress("checking images", len(images), "images") as bar:
        threads = min(_MOST_THREADS, available_cpus())
        for block in map_ordered(lambda block: [_inspect(images.path(index)) for index in block], blocks, threads):
            every += block
            bar.advance(len(block))
    return every


def _inspect(path: str) -> _Properties:
    try:
        with open(path, "rb") as file:
            content = file.read()
        image = open_image(io.BytesIO(content))
    except ConfigError as error:
        return _Properties(error.what)
    except OSError as error:
        return _Properties(f"cannot read the file: {error.strerror}")
    return _Properties("", (image.height, image.width), sys.intern(image.mode), zlib.crc32(content))


def _report_conversions(properties: Sequence[_Properties]) -> tuple[int, int]:
    """Report images that will be resized or converted; return the most frequent height and width."""
    total = len(properties)
    ((height, width), same), *_ = Counter(one.size for one in properties).most_common()
    if same < total:
        console.notice(
            f"{total - same:,} of {total:,} images do not have the most frequent size {height} x {width}"
            " (height x width); they are resized"
        )
    (mode, same), *others = Counter(one.mode for one in properties).most_common()
    if others:
        most, *names = [_MODE_NAMES.get(one, f"Pillow's {one}") for one, _ in ((mode, same), *others)]
        console.notice(
            f"{total - same:,} of {total:,} images are stored as {', '.join(names)}, most as {most}; all are converted"
            " to the same channels"
        )
    if deep := sum(one.mode.startswith("I") for one in properties):
        console.notice(f"{deep:,} of {total:,} images have 16 bits; only the upper 8 are used, so that 255 becomes 0")
    return height, width
