"""Images that a client sends: PNG or JPEG, by their first bytes.

image_part("jet.png")                        # FilePart("jet.png", Path("jet.png"))
"""

from __future__ import annotations

import os
from pathlib import Path

from mlaas4hep.client.multipart import FilePart
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.input_files import check_is_file

_MAGIC = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg"}


def image_part(path: str | os.PathLike[str]) -> FilePart:
    """Return an image as a file of a form; its name ends as servers tell the two formats apart.

    Raises:
        FileUnreadable: it cannot be read.
        ConfigError: it is neither PNG nor JPEG.
    """
    path = Path(path)
    check_is_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise FileUnreadable(f"cannot read {path}: {error.strerror}") from error
    for magic, ending in _MAGIC.items():
        if head.startswith(magic):
            return FilePart(path.stem + ending, path)
    raise ConfigError(f"{path} is no image in PNG or JPEG", hint="these are what TFaaS servers take")
