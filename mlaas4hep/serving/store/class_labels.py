"""The labels of a model's classes.

read_labels(folder, "labels.txt")             # ["ggH", "VBF"]
"""

from __future__ import annotations

from pathlib import Path

from mlaas4hep.errors import ConfigError
from mlaas4hep.input_files import UTF_8, content_lines
from mlaas4hep.protocol.limits import DEFAULTS, Limits
from mlaas4hep.protocol.params import plain_filename
from mlaas4hep.protocol.plain_files import read_plain


def read_labels(folder: Path, file: str, limits: Limits = DEFAULTS) -> list[str]:
    """Read labels, one per line, from a file in a model's folder.

    Raises:
        ConfigError: the file is missing or not text, or exceeds the limits.
    """
    name = plain_filename(file)
    content = read_plain(folder / name, limits.labels_file)
    if content is None:
        raise ConfigError(f"the file '{name}' is missing", hint="upload the model again")
    try:
        labels = content_lines(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"the labels in '{name}' are not text", hint=UTF_8) from error
    if len(labels) > limits.labels:
        raise ConfigError(f"'{name}' has {len(labels):,} labels; the limit is {limits.labels:,}")
    if (longest := max(map(len, labels), default=0)) > limits.label_length:
        raise ConfigError(f"'{name}' has a label of {longest:,} characters; the limit is {limits.label_length:,}")
    return labels
