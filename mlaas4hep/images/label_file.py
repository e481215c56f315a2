"""Files that say what is on images: a line for each, with the image and its label.

    labels = read_label_file("labels.csv", ["blob/b.png", "ring/a.png"])    # {"ring/a.png": "ring", ...}

Text of UTF-8, with a comma, a semicolon or a tab between the two, quotes where they are needed, and with or without a
header. An image is called by its path in the folder, or by the end of that, with or without `.png`.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from posixpath import normpath
from typing import NamedTuple

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.input_files import UTF_8, read_text
from mlaas4hep.lists import some

_FIRST_CELL = re.compile(r'(?:\s*"(?:[^"]|"")*"\s*|[^,;\t]*)([,;\t])')
_ENDING = re.compile(r"\.(png|jpe?g)$", re.IGNORECASE)
_LABELS, _IMAGES = ("label", "labels", "class"), ("image", "images", "file", "filename", "name", "path")
_WRITE = "write image,label"


class _Row(NamedTuple):
    line: int  # from 1
    image: str
    label: str


def read_label_file(
    path: str | os.PathLike[str], names: Sequence[str], part: str = "", folder: str = ""
) -> dict[str, str]:
    """Return the label of each image that the file lists.

    Args:
        names: all images there are, as paths in their folder.
        folder: which that is; images may be called by their path from here, or from the root, as well.
        part: "train/": an image that may be one of those in there, or another, is the one in there.

    Raises:
        FileUnreadable: the file is missing, empty or no text.
        ConfigError: a line is not an image and a label, names no image or several, or contradicts another.
    """
    rows = [row._replace(image=_inside(folder, row.image)) for row in _in_order(_read_rows(path))]
    found = _search((row.image for row in rows), names)
    rows = _without_header(rows, found)
    if not rows:
        raise ConfigError(f"{path} lists no image", hint=f"{_WRITE} for each image")
    missing = [row.image for row in rows if not found[row.image]]
    if missing:
        raise ConfigError(
            f"{len(missing):,} of the {len(rows):,} images that {path} lists are not in the folder: {some(missing, 3)}",
            hint=f"those in the folder are called as {names[0]}; --image_ext=png,jpg looks for both kinds",
        )
    said: dict[str, _Row] = {}
    for row in rows:
        name, *others = _meant(row.image, found[row.image], part)
        if others:
            what = f"{path} line {row.line}: '{row.image}' may be {some([name, *others], 3)}"
            raise ConfigError(what, hint="write the path of one")
        earlier = said.setdefault(name, row)
        if earlier.label != row.label:
            what = f"{path} says that {name} is '{earlier.label}' in line {earlier.line}, and '{row.label}'"
            raise ConfigError(f"{what} in line {row.line}", hint="leave one of the two")
    return {name: row.label for name, row in said.items()}


def _inside(folder: str, image: str) -> str:
    """Return the path of an image in its folder."""
    for way in (normpath(folder), os.path.abspath(folder)):
        if folder and image.startswith(f"{way}/"):
            return image.removeprefix(f"{way}/")
    return image


def _in_order(rows: list[_Row]) -> list[_Row]:
    """Return the rows without a header that calls the columns label and image, and with these the other way around."""
    head = rows[0]
    if head.image.lower() not in _LABELS or head.label.lower() not in _IMAGES:
        return rows
    return [_Row(row.line, normpath(row.label), row.image) for row in rows[1:]]


def _read_rows(path: str | os.PathLike[str]) -> list[_Row]:
    """Read the lines, the header among them, without blank ones and space around cells."""
    text = read_text(path)
    if "\0" in text:
        raise FileUnreadable(f"{path} is not a text file", hint=UTF_8)
    found = _FIRST_CELL.match(text.lstrip("\n ").partition("\n")[0])
    rows = []
    for line, cells in _records(text, found[1] if found else ",", path):
        if len(cells) != 2:
            raise ConfigError(f"{path} line {line} has {len(cells)} cell{'s' * (len(cells) > 1)}, not 2", hint=_WRITE)
        if not all(cells):
            raise ConfigError(f"{path} line {line} has no {'label' if cells[0] else 'image'}", hint=_WRITE)
        rows.append(_Row(line, normpath(cells[0]), cells[1]))
    if not rows:
        raise FileUnreadable(f"{path} is empty", hint=f"{_WRITE} for each image")
    return rows


def _records(text: str, delimiter: str, path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line and the cells of each record that is not blank."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    line = 1
    try:
        for record in reader:
            if any("\n" in cell for cell in record):
                raise ConfigError(
                    f"{path} line {line} has a quote that does not end in it", hint='write "" for a quote'
                )
            cells = [cell.strip() for cell in record]
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path} line {line} is no CSV: {error}", hint=_WRITE) from error


def _without_header(rows: list[_Row], found: dict[str, list[str]]) -> list[_Row]:
    """Leave out a first row such as image,label: its image is none, and its label is that of no other."""
    first = rows[0]
    data = found[first.image] or _ENDING.search(first.image) or any(row.label == first.label for row in rows[1:])
    return rows if data else rows[1:]


def _search(listed: Iterable[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Return for each that is listed the images of which it is the path or the end of it, with or without ending."""
    found: dict[str, list[str]] = {name: [] for name in listed}
    for name in names:
        rest = name
        while rest:
            for call in _calls(rest):
                if call in found:
                    found[call].append(name)
            rest = rest.partition("/")[2]
    return found


def _meant(listed: str, found: list[str], part: str) -> list[str]:
    """Return those of the images found that are meant: in the part, if one is; by their whole path, if one is."""
    found = [name for name in found if name.startswith(part)] or found
    whole = [name for name in found if listed in _calls(name.removeprefix(part))]
    return whole or found


def _calls(name: str) -> tuple[str, str]:
    return name, name.rpartition(".")[0]
