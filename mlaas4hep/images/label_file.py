"""Label files: one line per image, with the name of the image and its label.

    labels = read_label_file("labels.csv", ["blob/b.png", "ring/a.png"])    # {"ring/a.png": "ring", ...}

The text is UTF-8, separated by comma, semicolon or tab, with optional quotes and header. An image is named by its path
in the folder, or by the last components of that path, with or without the suffix `.png`.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from posixpath import normpath
from typing import NamedTuple

from mlaas4hep.comma_lists import abbreviated
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.input_files import UTF_8, read_text

_FIRST_CELL = re.compile(r'(?:\s*"(?:[^"]|"")*"\s*|[^,;\t]*)([,;\t])')
_SUFFIX = re.compile(r"\.(png|jpe?g)$", re.IGNORECASE)
_LABEL_TITLES, _IMAGE_TITLES = ("label", "labels", "class"), ("image", "images", "file", "filename", "name", "path")
_FORM_HINT = "write image,label"


class _Row(NamedTuple):
    line: int  # from 1
    image: str
    label: str


def read_label_file(
    path: str | os.PathLike[str], names: Sequence[str], part: str = "", folder: str = ""
) -> dict[str, str]:
    """Return the label of each image in the file.

    Args:
        path: the label file.
        names: paths of all images in the folder, relative to it.
        part: "train/" or "": if a line matches several images, those in this subfolder take precedence.
        folder: the folder; the file may also use absolute paths, or paths relative to the working directory.

    Raises:
        FileUnreadable: the file is missing, empty or not text.
        ConfigError: a line is not an image and a label, matches no image or several, or contradicts another line.
    """
    rows = [row._replace(image=_relative_to(folder, row.image)) for row in _swap_columns(_read_rows(path))]
    matches = _match((row.image for row in rows), names)
    rows = _without_header(rows, matches)
    if not rows:
        raise ConfigError(f"{path} lists no images", hint=f"{_FORM_HINT} for each image")
    missing = [row.image for row in rows if not matches[row.image]]
    if missing:
        examples = abbreviated(missing, 3)
        raise ConfigError(
            f"{len(missing):,} of the {len(rows):,} images listed in {path} are not in the folder: {examples}",
            hint=f"names in the folder are like {names[0]}; --image_ext=png,jpg selects both formats",
        )
    row_of: dict[str, _Row] = {}
    for row in rows:
        name, *others = _best_matches(row.image, matches[row.image], part)
        if others:
            what = f"{path} line {row.line}: '{row.image}' matches {abbreviated([name, *others], 3)}"
            raise ConfigError(what, hint="write the whole path of one")
        earlier = row_of.setdefault(name, row)
        if earlier.label != row.label:
            what = f"{path} gives {name} the label '{earlier.label}' in line {earlier.line} and '{row.label}'"
            raise ConfigError(f"{what} in line {row.line}", hint="remove one of the two lines")
    return {name: row.label for name, row in row_of.items()}


def _relative_to(folder: str, image: str) -> str:
    """Return the path of an image relative to the folder."""
    for prefix in (normpath(folder), os.path.abspath(folder)):
        if folder and image.startswith(f"{prefix}/"):
            return image.removeprefix(f"{prefix}/")
    return image


def _swap_columns(rows: list[_Row]) -> list[_Row]:
    """Swap the columns and remove the header if it has the titles label and image in this order."""
    head = rows[0]
    if head.image.lower() not in _LABEL_TITLES or head.label.lower() not in _IMAGE_TITLES:
        return rows
    return [_Row(row.line, normpath(row.label), row.image) for row in rows[1:]]


def _read_rows(path: str | os.PathLike[str]) -> list[_Row]:
    """Read all lines including the header, without blank lines and without space around cells."""
    text = read_text(path)
    if "\0" in text:
        raise FileUnreadable(f"{path} is not a text file", hint=UTF_8)
    first_cell = _FIRST_CELL.match(text.lstrip("\n ").partition("\n")[0])
    rows = []
    for line, cells in _records(text, first_cell[1] if first_cell else ",", path):
        if len(cells) != 2:
            count = f"{len(cells)} cell{'s' * (len(cells) > 1)}"
            raise ConfigError(f"{path} line {line} has {count}, not 2", hint=_FORM_HINT)
        if not all(cells):
            raise ConfigError(f"{path} line {line} has no {'label' if cells[0] else 'image'}", hint=_FORM_HINT)
        rows.append(_Row(line, normpath(cells[0]), cells[1]))
    if not rows:
        raise FileUnreadable(f"{path} is empty", hint=f"{_FORM_HINT} for each image")
    return rows


def _records(text: str, delimiter: str, path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each record that is not blank."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    line = 1
    try:
        for record in reader:
            if any("\n" in cell for cell in record):
                raise ConfigError(f"{path} line {line} has an unclosed quote", hint='write "" for a quote')
            cells = [cell.strip() for cell in record]
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path} line {line} is not CSV: {error}", hint=_FORM_HINT) from error


def _without_header(rows: list[_Row], matches: dict[str, list[str]]) -> list[_Row]:
    """Remove the first row if it is a header: it matches no image and has no suffix, and its label occurs once."""
    if not rows:
        return rows
    first = rows[0]
    is_data = matches[first.image] or _SUFFIX.search(first.image) or any(row.label == first.label for row in rows[1:])
    return rows if is_data else rows[1:]


def _match(listed: Iterable[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Return the images that match each listed name: by their last path components, with or without suffix."""
    matches: dict[str, list[str]] = {name: [] for name in listed}
    for name in names:
        rest = name
        while rest:
            for alias in _with_and_without_suffix(rest):
                if alias in matches:
                    matches[alias].append(name)
            rest = rest.partition("/")[2]
    return matches


def _best_matches(listed: str, names: list[str], part: str) -> list[str]:
    """Return the matches in the part if there are any; of these, the ones that match as a whole if there are any."""
    names = [name for name in names if name.startswith(part)] or names
    whole = [name for name in names if listed in _with_and_without_suffix(name.removeprefix(part))]
    return whole or names


def _with_and_without_suffix(name: str) -> tuple[str, str]:
    return name, name.rpartition(".")[0]
