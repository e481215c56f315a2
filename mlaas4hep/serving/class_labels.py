"""The names of a model's classes, from the file that came with it.

read_labels(folder, "labels.txt")             # ["ggH", "VBF"]
"""

from __future__ import annotations

from pathlib import Path

from mlaas4hep.errors import ConfigError
from mlaas4hep.input_files import UTF_8, content_lines
from mlaas4hep.serving.params import plain_filename
from mlaas4hep.serving.plain_files import read_plain

_LARGEST = 4_000_000  # bytes
_MOST = 100_000
_LONGEST = 1000  # characters


def check_labels(folder: Path, file: str) -> None:
    """Check the labels of a new model; a SavedModel may name a file that is not there.

    Raises:
        ConfigError: see `read_labels`.
    """
    if file and (folder / plain_filename(file)).is_file():
        read_labels(folder, file)


def read_labels(folder: Path, file: str) -> list[str]:
    """Return the labels in a file of a model's folder, one a line.

    Raises:
        ConfigError: there is no such file, or it holds no labels of a reasonable number and length.
    """
    name = plain_filename(file)
    content = read_plain(folder / name, _LARGEST)
    if content is None:
        raise ConfigError(f"the file '{name}' is missing", hint="upload the model again")
    try:
        labels = content_lines(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"the labels in '{name}' are not text", hint=UTF_8) from error
    if len(labels) > _MOST:
        raise ConfigError(f"'{name}' has {len(labels):,} labels, and may have {_MOST:,}")
    if (longest := max(map(len, labels), default=0)) > _LONGEST:
        raise ConfigError(f"'{name}' has a label of {longest:,} characters, and may have {_LONGEST:,}")
    return labels
