"""The labelled images of a folder.

    images = read_folder("hep_images", "labels.csv")            # or without a file: a folder for each class
    images.path(0), images.classes[images.y[0]]                 # "hep_images/ring/a.png", "ring"

Images lie in the folder itself or at any depth. Where they are divided into `train/` and others (`test/`), only those
for the use at hand are taken. Nothing is opened here: see `check`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlaas4hep import console
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.images.label_file import read_label_file
from mlaas4hep.lists import some, split_list
from mlaas4hep.stream.labels import sorted_classes

_KIND_OF = {"png": "png", "jpg": "jpg", "jpeg": "jpg"}
_BESIDE_TRAIN = ("test", "val", "valid", "validation")


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images of which the class is known, sorted by name.

    Attributes:
        folder: where they lie.
        names: their paths in it, bytes (n,); they identify the images, wherever the folder is.
        classes: what the classes are called, numbers first and by value.
        y: the class of each image, int64 (n,).
    """

    folder: str
    names: np.ndarray
    classes: tuple[str, ...]
    y: np.ndarray

    def __post_init__(self) -> None:
        self.names.flags.writeable = self.y.flags.writeable = False

    def __len__(self) -> int:
        return len(self.y)

    def name(self, index: int) -> str:
        """Return the path of an image in the folder."""
        return os.fsdecode(self.names[index])

    def path(self, index: int) -> str:
        """Return where an image lies."""
        return os.path.join(self.folder, self.name(index))

    def only(self, chosen: np.ndarray) -> ImageFolder:
        """Return some of the images, by a bool for each or by their indices; the classes stay."""
        return ImageFolder(self.folder, self.names[chosen], self.classes, self.y[chosen])


def read_folder(
    folder: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    ext: str = "png",
    use: Literal["train", "test"] = "train",
) -> ImageFolder:
    """Find the images of a folder and their labels; those without a label are left out, with a notice.

    Args:
        labels: a file of image,label, see `label_file`. Without one, images lie in a folder for each class.
        ext: kinds of images: png, jpg or both as a comma list; upper case and jpeg mean the same.
        use: which are taken where images are divided into `train/` and `test/` (or `val/`, `valid/`).

    Raises:
        FileUnreadable: the folder or the file cannot be read, or there are no such images.
        ConfigError: file and folder do not fit each other, or a label is no text to print.
    """
    folder = os.fspath(folder)
    names = _find_images(folder, _kinds_of(ext))
    part = _part_of(names, use)
    if labels is None:
        label_of = _labels_by_folder(folder, names, part)
        if others := sum(not name.startswith(part) for name in names):
            console.notice(f"{others:,} images in {folder} outside {part} are left out")
    else:
        label_of = read_label_file(labels, names, part, folder)
        if not any(name.startswith(part) for name in label_of):
            part = ""  # they are outside of it, all of them
    outside = [name for name in label_of if not name.startswith(part)]
    if outside:
        console.notice(
            f"{len(outside):,} images that {labels} lists are outside {part} and left out: {some(outside, 3)}"
        )
    inside = [name for name in names if name.startswith(part)]
    lacking = [name for name in inside if name not in label_of]
    if lacking:
        console.notice(
            f"{len(lacking):,} of {len(inside):,} images have no label, and are left out: {some(lacking, 3)}"
        )
    return _labelled(folder, {name: label_of[name] for name in inside if name in label_of})


def check_classes(images: ImageFolder) -> None:
    """Raise ConfigError unless there are two classes, and two images of each."""
    if len(images.classes) < 2:
        raise ConfigError(
            f"all images have the label '{images.classes[0]}': there is nothing to tell apart",
            hint="give images of two classes, or a file of image,label with --flabels",
        )
    counts = np.bincount(images.y, minlength=len(images.classes))
    few = [f"'{name}' has {count}" for name, count in zip(images.classes, counts, strict=True) if count < 2]
    if few:
        raise ConfigError(
            f"a class needs 2 images, one to learn from and one to test, and {some(few, 3)}",
            hint="give more images of it, or leave it out",
        )


def _labelled(folder: str, label_of: Mapping[str, str]) -> ImageFolder:
    classes = sorted_classes(label_of.values())
    number = {label: index for index, label in enumerate(classes)}
    names = np.array([os.fsencode(name) for name in label_of])
    if odd := [name for name in classes if not name.isprintable()]:
        raise ConfigError(f"a label is {odd[0]!r}, which cannot be printed", hint="call that class something else")
    return ImageFolder(folder, names, classes, np.array([number[label] for label in label_of.values()], np.int64))


def _labels_by_folder(folder: str, names: Collection[str], part: str) -> dict[str, str]:
    label_of = {}
    for name in names:
        label, slash, _ = name.removeprefix(part).partition("/")
        if name.startswith(part) and slash:
            label_of[name] = label
    if not label_of:
        raise ConfigError(
            f"{folder} has no folder for each class of images, and no labels are given",
            hint="give a file of image,label with --flabels",
        )
    return label_of


def _part_of(names: Collection[str], use: str) -> str:
    """Return the folder of images for a use, "train/" or "test/"; "" where they are not divided by it.

    They are where `train/` is beside `test/`, or has folders; it may also be just a class.
    """
    tops = {name.partition("/")[0] for name in names if "/" in name}
    beside = [name for name in _BESIDE_TRAIN if name in tops]
    deep = any(name.startswith("train/") and name.count("/") > 1 for name in names)
    if "train" not in tops or not (deep or beside):
        return ""
    if use == "train":
        return "train/"
    return f"{beside[0]}/" if beside else ""


def _kinds_of(ext: str) -> list[str]:
    kinds = {_KIND_OF.get(item.lower().lstrip("*."), "") for item in split_list(ext)}
    if not kinds or "" in kinds:
        raise ConfigError(f"'{ext}' is no kind of images", hint="--image_ext takes png, jpg or png,jpg")
    return sorted(kinds)


def _find_images(folder: str, kinds: Collection[str]) -> list[str]:
    """Return the paths in the folder of all images of some kinds, sorted."""
    if not os.path.isdir(folder):
        what = f"{folder} is a file" if os.path.exists(folder) else f"there is no folder {folder}"
        raise FileUnreadable(what, hint="--fdir takes a folder of images")
    names: list[str] = []
    others = 0
    try:
        for name in _files(folder):
            kind = _KIND_OF.get(name.rpartition(".")[2].lower())
            if kind in kinds:
                names.append(name)
            elif kind is not None:
                others += 1
    except OSError as error:
        raise FileUnreadable(f"cannot read {error.filename or folder}: {error.strerror}") from error
    other = "".join(set(_KIND_OF.values()) - set(kinds))
    if not names:
        raise FileUnreadable(
            f"there is no .{' or .'.join(kinds)} image in {folder}",
            hint=f"there are {others:,} .{other}: --image_ext={other}" if others else "images are .png or .jpg files",
        )
    if others:
        console.notice(f"{others:,} .{other} images in {folder} are left out; --image_ext=png,jpg takes both")
    return sorted(names)


def _files(folder: str, inside: str = "", above: tuple[os.stat_result, ...] = ()) -> Iterator[str]:
    """Yield the paths of all files in a folder that are not hidden."""
    here = os.stat(os.path.join(folder, inside))
    if any(os.path.samestat(here, other) for other in above):
        return  # a link leads back
    with os.scandir(os.path.join(folder, inside)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):
                yield from _files(folder, f"{inside}{entry.name}/", (*above, here))
            elif os.path.isfile(entry.path) or not os.path.exists(entry.path):  # a link that leads nowhere, or a file
                yield inside + entry.name
