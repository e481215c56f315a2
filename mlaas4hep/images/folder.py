"""Find the labelled images of a folder.

    images = read_folder("hep_images", "labels.csv")            # without a file: one folder per class
    images.path(0), images.classes[images.y[0]]                 # "hep_images/ring/a.png", "ring"

Images may be at any depth. If they are divided into `train/` and `test/`, only the ones for the requested use are
selected. Images are not opened here, but in `check`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlaas4hep import console
from mlaas4hep.comma_lists import abbreviated, split_list
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.images.label_file import read_label_file
from mlaas4hep.stream.labels import sorted_classes

_FORMAT_OF = {"png": "png", "jpg": "jpg", "jpeg": "jpg"}
_TEST_FOLDERS = ("test", "val", "valid", "validation")


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Labelled images, sorted by name.

    Attributes:
        folder: the folder of the images.
        names: paths relative to the folder, bytes (n,).
        classes: names of the classes; numbers come first, sorted by value.
        y: class of each image, int64 (n,).
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
        """Return the path of an image relative to the folder."""
        return os.fsdecode(self.names[index])

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self.folder, self.name(index))

    def select(self, chosen: np.ndarray) -> ImageFolder:
        """Return some of the images, selected by a bool mask or indices, with the same classes."""
        return ImageFolder(self.folder, self.names[chosen], self.classes, self.y[chosen])


def read_folder(
    folder: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    ext: str = "png",
    use: Literal["train", "test"] = "train",
) -> ImageFolder:
    """Find the images of a folder and their labels. Images without a label are left out, with a notice.

    Args:
        folder: the folder of the images.
        labels: CSV file of image,label, see `label_file`. Without it, each class has a folder.
        ext: formats: png, jpg or both as a comma-separated list; upper case and jpeg are accepted.
        use: the images to select if they are divided into `train/` and `test/` (or `val/`, `valid/`, `validation/`).

    Raises:
        FileUnreadable: the folder or the label file cannot be read, or the folder has no images.
        ConfigError: label file and folder do not match, or a label is not printable.
    """
    folder = os.fspath(folder)
    names = _find_images(folder, _formats(ext))
    part = _subfolder(names, use)
    if labels is None:
        label_of = _labels_by_folder(folder, names, part)
        if others := sum(not name.startswith(part) for name in names):
            console.notice(f"{others:,} images in {folder} outside {part} are left out")
    else:
        label_of = read_label_file(labels, names, part, folder)
        if not any(name.startswith(part) for name in label_of):
            part = ""  # the file lists only images outside the subfolder
    outside = [name for name in label_of if not name.startswith(part)]
    if outside:
        examples = abbreviated(outside, 3)
        console.notice(f"{len(outside):,} images listed in {labels} are outside {part} and left out: {examples}")
    inside = [name for name in names if name.startswith(part)]
    unlabelled = [name for name in inside if name not in label_of]
    if unlabelled:
        examples = abbreviated(unlabelled, 3)
        console.notice(f"{len(unlabelled):,} of {len(inside):,} images have no label and are left out: {examples}")
    return _make_folder(folder, {name: label_of[name] for name in inside if name in label_of})


def check_classes(images: ImageFolder) -> None:
    """Raise a ConfigError unless there are at least two classes with two images each."""
    if len(images.classes) < 2:
        raise ConfigError(
            f"all images have the label '{images.classes[0]}', but a classifier needs two classes",
            hint="add images of another class, or give a file of image,label with --flabels",
        )
    counts = np.bincount(images.y, minlength=len(images.classes))
    few = [f"'{name}' has {count}" for name, count in zip(images.classes, counts, strict=True) if count < 2]
    if few:
        raise ConfigError(
            f"each class needs at least 2 images, one for training and one for testing, but {abbreviated(few, 3)}",
            hint="add images of this class, or remove the class",
        )


def _make_folder(folder: str, label_of: Mapping[str, str]) -> ImageFolder:
    classes = sorted_classes(label_of.values())
    index_of = {label: index for index, label in enumerate(classes)}
    names = np.array([os.fsencode(name) for name in label_of])
    if unprintable := [name for name in classes if not name.isprintable()]:
        raise ConfigError(f"the label {unprintable[0]!r} is not printable", hint="rename this class")
    return ImageFolder(folder, names, classes, np.array([index_of[label] for label in label_of.values()], np.int64))


def _labels_by_folder(folder: str, names: Collection[str], part: str) -> dict[str, str]:
    inside = {name: name.removeprefix(part) for name in names if name.startswith(part)}
    label_of = {name: rest.partition("/")[0] for name, rest in inside.items() if "/" in rest}
    if not label_of:
        raise ConfigError(
            f"{folder} has no subfolder per class, and there is no label file",
            hint="give a file of image,label with --flabels",
        )
    return label_of


def _subfolder(names: Collection[str], use: str) -> str:
    """Return the subfolder for a use, "train/" or "test/", or "" if images are not divided.

    They are divided if `train/` has subfolders, or a test folder is beside it. Otherwise "train" is a class.
    """
    top_folders = {name.partition("/")[0] for name in names if "/" in name}
    test_folders = [name for name in _TEST_FOLDERS if name in top_folders]
    has_subfolders = any(name.startswith("train/") and name.count("/") > 1 for name in names)
    if "train" not in top_folders or not (has_subfolders or test_folders):
        return ""
    if use == "train":
        return "train/"
    return f"{test_folders[0]}/" if test_folders else ""


def _formats(ext: str) -> list[str]:
    formats = {_FORMAT_OF.get(item.lower().lstrip("*."), "") for item in split_list(ext)}
    if not formats or "" in formats:
        raise ConfigError(f"unknown image format '{ext}'", hint="--image_ext takes png, jpg or png,jpg")
    return sorted(formats)


def _find_images(folder: str, formats: Collection[str]) -> list[str]:
    """Return the paths of all images of some formats, relative to the folder and sorted."""
    if not os.path.isdir(folder):
        what = f"{folder} is a file" if os.path.exists(folder) else f"the folder {folder} does not exist"
        raise FileUnreadable(what, hint="--fdir takes a folder of images")
    names: list[str] = []
    others = 0
    try:
        for name in _files(folder):
            image_format = _FORMAT_OF.get(name.rpartition(".")[2].lower())
            if image_format in formats:
                names.append(name)
            elif image_format is not None:
                others += 1
    except OSError as error:
        raise FileUnreadable(f"cannot read {error.filename or folder}: {error.strerror}") from error
    other = "".join(set(_FORMAT_OF.values()) - set(formats))
    if not names:
        hint = f"it has {others:,} .{other} images: --image_ext={other}" if others else "images are .png or .jpg files"
        raise FileUnreadable(f"{folder} has no .{' or .'.join(formats)} images", hint=hint)
    if others:
        console.notice(f"{others:,} .{other} images in {folder} are left out; select both with --image_ext=png,jpg")
    return sorted(names)


def _files(folder: str, subfolder: str = "", parents: tuple[os.stat_result, ...] = ()) -> Iterator[str]:
    """Yield the relative paths of all files in a folder that are not hidden."""
    status = os.stat(os.path.join(folder, subfolder))
    if any(os.path.samestat(status, parent) for parent in parents):
        return  # a link to a parent folder
    with os.scandir(os.path.join(folder, subfolder)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):
                yield from _files(folder, f"{subfolder}{entry.name}/", (*parents, status))
            elif os.path.isfile(entry.path) or not os.path.exists(entry.path):  # a file or a broken link
                yield subfolder + entry.name
