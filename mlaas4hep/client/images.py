"""Images sent to a server: PNG or JPEG files, recognised by their first bytes.

image_part("jet.png")                        # FilePart("jet.png", Path("jet.png"))
"""

from __future__ import annotations

import os
from pathlib import Path

from mlaas4hep.client.bodies import opened
from mlaas4hep.client.multipart import FilePart
from mlaas4hep.errors import ConfigError

_SUFFIX_BY_MAGIC = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg"}


def image_part(path: str | os.PathLike[str]) -> FilePart:
    """Return an image as a file of a form. Its name gets the suffix by which servers recognise the format.

    Raises:
        FileUnreadable: the file cannot be read.
        ConfigError: it is neither PNG nor JPEG.
    """
    path = Path(path)
    with opened(path) as file:
        head = file.read(8)
    for magic, suffix in _SUFFIX_BY_MAGIC.items():
        if head.startswith(magic):
            return FilePart(path.stem + suffix, path)
    raise ConfigError(f"{path} is not a PNG or JPEG image", hint="TFaaS servers accept no other formats")
