"""Whether all images can be decoded, and how large they are.

    checked = check_images(read_folder("hep_images"), skip_bad=True)
    checked.images, checked.bad, checked.height, checked.width, checked.channels

Each is decoded: nothing less finds a file that ends too early. It takes as long as one epoch takes to read the images.
"""

from __future__ import annotations

import io
import os
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mlaas4hep import console
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.images.decode import upright
from mlaas4hep.images.folder import ImageFolder
from mlaas4hep.io.ahead import ahead
from mlaas4hep.lists import some

_THREADS = min(4, os.cpu_count() or 1)
_BLOCK = 64
_MODES = {
    "1": "black and white", "L": "grey", "LA": "grey with transparency", "I;16": "grey of 16 bits",
    "I;16B": "grey of 16 bits", "I": "grey of 16 bits", "P": "a palette", "RGB": "colours",
    "RGBA": "colours with transparency", "CMYK": "colours of print (CMYK)",
}  # fmt: skip


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        images: those that can be decoded.
        bad: names of the others.
        height, width: in pixels, of the most frequent size.
        channels: 1 where all are grey, else 3.
        digest: of the files' contents, by which it is noticed when they are others.
    """

    images: ImageFolder
    bad: tuple[str, ...]
    height: int
    width: int
    channels: int
    digest: int


class _Seen(NamedTuple):
    problem: str = ""
    size: tuple[int, int] = (0, 0)  # height and width
    mode: str = ""
    checksum: int = 0


def check_images(images: ImageFolder, skip_bad: bool = False) -> Checked:
    """Decode all images, and say how many will be resized or converted to be as most of them are.

    Args:
        skip_bad: leave out those that cannot be decoded, with a notice.

    Raises:
        FileUnreadable: some cannot be decoded, and are not to be left out; or all.
    """
    seen = _see(images)
    problems = {images.name(index): one.problem for index, one in enumerate(seen) if one.problem}
    if problems:
        what = f"{len(problems):,} of {len(seen):,} images cannot be decoded: {some(list(problems), 3)}"
        if not skip_bad or len(problems) == len(seen):
            why = next(iter(problems.values()))
            hint = "--skip-bad leaves out such images" if len(problems) < len(seen) else "give others"
            raise FileUnreadable(f"{what}; of the first: {why}", hint=hint)
        console.notice(f"{what}; they are left out")
        images = images.only(np.array([not one.problem for one in seen]))
    good = [one for one in seen if not one.problem]
    height, width = _compare(good)
    grey = all(one.mode[0] in "1LI" for one in good)
    digest = zlib.crc32(np.array([one.checksum for one in good], "<u4").tobytes())
    return Checked(images, tuple(problems), height, width, 1 if grey else 3, digest)


def _see(images: ImageFolder) -> list[_Seen]:
    """Look at all images, in order."""
    blocks = [range(start, min(start + _BLOCK, len(images))) for start in range(0, len(images), _BLOCK)]
    seen: list[_Seen] = []
    with console.progress("checking images", len(images), "images") as bar:
        for block in ahead(lambda block: [_see_one(images.path(index)) for index in block], blocks, _THREADS):
            seen += block
            bar.advance(len(block))
    return seen


def _see_one(path: str) -> _Seen:
    try:
        with open(path, "rb") as file:
            content = file.read()
        image = upright(io.BytesIO(content))
    except ConfigError as error:
        return _Seen(error.what)
    except OSError as error:
        return _Seen(f"cannot read it: {error.strerror}")
    return _Seen("", (image.height, image.width), sys.intern(image.mode), zlib.crc32(content))


def _in_words(mode: str) -> str:
    return _MODES.get(mode, f"Pillow's {mode}")


def _compare(seen: Sequence[_Seen]) -> tuple[int, int]:
    """Say how images differ from most, and return the height and width of most."""
    ((height, width), alike), *_ = Counter(one.size for one in seen).most_common()
    if alike < len(seen):
        console.notice(
            f"{len(seen) - alike:,} of {len(seen):,} images are not {height} x {width} (height x width), as most are;"
            " they are resized"
        )
    (mode, alike), *others = Counter(one.mode for one in seen).most_common()
    if others:
        names = ", ".join(_in_words(other) for other, _ in others)
        console.notice(
            f"{len(seen) - alike:,} of {len(seen):,} images are stored as {names}, and most as {_in_words(mode)}; they"
            " are converted"
        )
    deep = sum(one.mode.startswith("I") for one in seen)
    if deep:
        console.notice(f"{deep:,} of {len(seen):,} images have 16 bits, of which the upper 8 are taken: 255 becomes 0")
    return height, width
