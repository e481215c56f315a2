"""Finding the labelled images of a folder, label files, and checking images."""

from __future__ import annotations

import io
import os
import re
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError
from mlaas4hep.images.check import check_images
from mlaas4hep.images.folder import ImageFolder, check_classes, read_folder
from mlaas4hep.images.label_file import read_label_file

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

FOUR = {"a": "ring", "b": "blob", "c": "ring", "d": "blob"}


def touch(folder: Path, *names: str) -> Path:
    """Create empty files: `read_folder` does not open them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def csv(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def labels(images: ImageFolder) -> dict[str, str]:
    """Return the label of each image by name."""
    return {images.name(index): images.classes[images.y[index]] for index in range(len(images))}


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """A folder with the images a.png to d.png."""
    return touch(tmp_path / "images", "a.png", "b.png", "c.png", "d.png")


# The index


def test_images_are_sorted_by_name_and_have_the_index_of_their_class(tmp_path: Path) -> None:
    folder = touch(tmp_path / "hep", "d.png", "b.png", "a.png", "c.png", "notes.txt")
    images = read_folder(folder, csv(tmp_path, "image,label\nd.png,blob\na.png,ring\nb.png,blob\nc.png,ring\n"))
    assert images.classes == ("blob", "ring")
    assert [images.name(index) for index in range(len(images))] == ["a.png", "b.png", "c.png", "d.png"]
    assert (images.y.tolist(), images.y.dtype) == ([1, 0, 1, 0], np.int64)
    assert images.path(2) == str(folder / "c.png")


def test_classes_that_are_numbers_are_sorted_by_value(four: Path, tmp_path: Path) -> None:
    images = read_folder(four, csv(tmp_path, "a,10\nb,9\nc,10\nd,9\n"))
    assert (images.classes, images.y.tolist()) == (("9", "10"), [1, 0, 1, 0])


def test_an_image_folder_is_read_only_and_can_be_filtered(four: Path, tmp_path: Path) -> None:
    images = read_folder(four, csv(tmp_path, "a,ring\nb,blob\nc,ring\nd,blob\n"))
    for array in (images.names, images.y):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    for chosen in (np.array([False, True, True, False]), np.array([1, 2])):
        assert labels(images.select(chosen)) == {"b.png": "blob", "c.png": "ring"}
    assert images.select(np.array([1])).classes == ("blob", "ring")


def test_the_order_of_files_and_lines_does_not_matter(tmp_path: Path) -> None:
    names = [f"{number:02}.png" for number in np.random.default_rng(0).permutation(40)]
    found = []
    for order in (names, sorted(names)):
        folder = touch(tmp_path / str(len(found)), *order)
        images = read_folder(folder, csv(tmp_path, "".join(f"{name},{int(name[:2]) % 3}\n" for name in order)))
        found.append((images.names.tolist(), images.y.tolist()))
    assert found[0] == found[1] == ([f"{n:02}.png".encode() for n in range(40)], [n % 3 for n in range(40)])


def test_names_may_have_letters_of_any_language(tmp_path: Path) -> None:
    names = ["été.png", "中.png", "mit Leerzeichen.png", "x,y.png"]
    folder = touch(tmp_path / "images", *names)
    images = read_folder(folder, csv(tmp_path, 'été,ä\n中,ö\nmit Leerzeichen,ä\n"x,y",ö\n'))
    assert labels(images) == dict(zip(names, ["ä", "ö", "ä", "ö"], strict=True))
    assert all(os.path.exists(images.path(index)) for index in range(4))


def test_an_image_folder_needs_little_memory(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "events").mkdir(parents=True)
    lines = []
    for number in range(20_000):
        (folder / "events" / f"event_{number:06}.png").touch()
        lines.append(f"event_{number:06},{number % 10}\n")
    path = csv(tmp_path, "".join(lines))
    tracemalloc.start()
    images = read_folder(folder, path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(images) == 20_000
    assert np.bincount(images.y).tolist() == [2000] * 10
    assert kept < 20_000 * 40  # bytes: a name of 23, and a class of 8
    assert peak < 20_000 * 800


# Files of labels


@pytest.mark.parametrize(
    "text",
    [
        "a,ring\nb,blob\nc,ring\nd,blob\n",
        "image,label\na,ring\nb,blob\nc,ring\nd,blob",
        "image_name,label\r\na.png,ring\r\nb.png,blob\r\nc.png,ring\r\nd.png,blob\r\n",
        "filename;class\na.png;ring\nb.png;blob\nc.png;ring\nd.png;blob\n",
        "id\tlabel\na\tring\nb\tblob\nc\tring\nd\tblob\n",
        '\ufeff"image", "label"\n"a.png","ring"\n"b.png", "blob" \nc,"ring"\n d , blob \n',
        "\n\nimage,label\n\n./a.png,ring\n  \nb,blob\n,\nc,ring\nd,blob\n\n",
        "a,ring\nb,blob\nc,ring\nd,blob\na.png,ring\n./a,ring\n",
    ],
)
def test_label_files_may_have_different_forms(text: str, four: Path, tmp_path: Path) -> None:
    images = read_folder(four, csv(tmp_path, text))
    assert labels(images) == {f"{name}.png": label for name, label in FOUR.items()}


def test_the_separator_is_the_first_one_outside_quotes(tmp_path: Path) -> None:
    for text, expected in [
        ('"a,1";x,y\nb;z', {"a,1.png": "x,y", "b.png": "z"}),
        ("b,x;y\nc,z", {"b.png": "x;y", "c.png": "z"}),
        ('b,"say ""x"""\nc,"1,5"', {"b.png": 'say "x"', "c.png": "1,5"}),
    ]:
        assert read_label_file(csv(tmp_path, text), ["a,1.png", "b.png", "c.png"]) == expected


def test_a_first_line_is_a_header_only_if_it_cannot_be_an_image(four: Path, tmp_path: Path) -> None:
    names = ["a.png", "b.png", "image.png"]
    assert read_label_file(csv(tmp_path, "a,x\nb,y\n"), names) == {"a.png": "x", "b.png": "y"}
    assert read_label_file(csv(tmp_path, "image,x\nb,y\n"), names) == {"image.png": "x", "b.png": "y"}
    for first in ("lost.png,y", "lost.jpeg,z", "lost,y"):  # the last one: its label also occurs in other lines
        with pytest.raises(
            ConfigError, match=f"1 of the 3 images listed in .* not in the folder: {first.split(',')[0]}"
        ):
            read_label_file(csv(tmp_path, f"{first}\na,x\nb,y\n"), names)


def test_images_in_folders_may_be_listed_by_path_or_by_name(tmp_path: Path) -> None:
    folder = touch(tmp_path / "images", "2017/ring/a.png", "2017/b.png", "c.v2.png", "2018/ring/d.png")
    expected = {"2017/b.png": "x", "2017/ring/a.png": "y", "2018/ring/d.png": "y", "c.v2.png": "x"}
    for text in (
        "2017/ring/a.png,y\n2017/b.png,x\nc.v2.png,x\n2018/ring/d.png,y\n",
        "ring/a,y\n./2017/b,x\n./c.v2,x\nring/d,y\n",
        "a.png,y\nb,x\nc.v2,x\nd,y\n",
    ):
        assert labels(read_folder(folder, csv(tmp_path, text))) == expected


def test_an_ambiguous_name_is_an_error(tmp_path: Path) -> None:
    names = ["a.jpg", "blob/b.png", "c.jpg", "c.png", "ring/a.png", "ring/b.png"]
    for text, said in [
        ("a,x\nb,y\n", "labels.csv line 2: 'b' matches blob/b.png, ring/b.png; write the whole path of one"),
        ("a,x\nc,y\n", "labels.csv line 2: 'c' matches c.jpg, c.png; write the whole path of one"),
    ]:
        with pytest.raises(ConfigError) as caught:
            read_label_file(csv(tmp_path, text), names)
        assert str(caught.value).endswith(said)
    # a whole path takes precedence over matches of the last components
    assert read_label_file(csv(tmp_path, "a,x\nc.png,y\n"), names) == {"a.jpg": "x", "c.png": "y"}


MISTAKES = {
    "": "labels.csv is empty; write image,label for each image",
    " \n\n,\n": "labels.csv is empty; write image,label for each image",
    "label,image\n": "labels.csv lists no images; write image,label for each image",
    "image,label\n": "labels.csv lists no images; write image,label for each image",
    "a.png\nb.png\n": "labels.csv line 1 has 1 cell, not 2; write image,label",
    "image,label\na,x\n\nb\n": "labels.csv line 4 has 1 cell, not 2; write image,label",
    "a,x\nb,y,z\n": "labels.csv line 2 has 3 cells, not 2; write image,label",
    "a,x\nb,\n": "labels.csv line 2 has no label; write image,label",
    "a,x\n,y\n": "labels.csv line 2 has no image; write image,label",
    'a,x\nb,"y\nc,x\nd,y\n': 'labels.csv line 2 has an unclosed quote; write "" for a quote',
    'a,x\nb,"'
    + "y" * 200_000: "labels.csv line 2 is not CSV: field larger than field limit (131072); write image,label",
    b"\x89PNG\r\n\x1a\n\xff": "labels.csv is not a text file; if it is one, save it as UTF-8",
    "a,x\nb,y\n".encode("utf-16-le"): "labels.csv is not a text file; if it is one, save it as UTF-8",
    "image,label\na,x\n\nb,y\nc,x\na.png,y\n": (
        "labels.csv gives a.png the label 'x' in line 2 and 'y' in line 6; remove one of the two lines"
    ),
    "image,label\na,x\nlost.png,y\nring/b,y\nno,x\nnone,x\n": (
        "4 of the 5 images listed in {}/labels.csv are not in the folder: lost.png, ring/b, no, ...; names in the "
        "folder are like a.png; --image_ext=png,jpg selects both formats"
    ),
    'a,x\nb,y\nc,"x\ty"\nd,y\n': "the label 'x\\ty' is not printable; rename this class",
}


@pytest.mark.parametrize(("text", "said"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_an_error_in_a_label_file_is_printed_in_one_line(text: Any, said: str, four: Path, tmp_path: Path) -> None:
    with pytest.raises(MLaaS4HEPError) as caught:
        read_folder(four, csv(tmp_path, text))
    assert str(caught.value).removeprefix(f"{tmp_path}/") == said.format(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a,x\nb,x\nc,x\nd,x\n",
            "all images have the label 'x', but a classifier needs two classes; add images of another class, or give a "
            "file of image,label with --flabels",
        ),
        (
            "a,x\nb,y\nc,x\nd,z\n",
            "each class needs at least 2 images, one for training and one for testing, but 'y' has 1, 'z' has 1; add "
            "images of this class, or remove the class",
        ),
    ],
)
def test_a_single_class_or_a_class_of_one_image_is_an_error(text: str, said: str, four: Path, tmp_path: Path) -> None:
    images = read_folder(four, csv(tmp_path, text))
    assert len(images) == 4  # sufficient for testing
    with pytest.raises(ConfigError) as caught:
        check_classes(images)
    assert str(caught.value) == said


def test_columns_follow_the_header_and_paths_may_include_the_folder(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = f"ring,a.png\nblob,images/b.png\nring,./images/c.png\nblob,{four.absolute()}/d.png\n"
    assert labels(read_folder("images", csv(tmp_path, f"Label,File\n{rows}"))) == {
        f"{name}.png": label for name, label in FOUR.items()
    }


def test_an_unreadable_label_file_is_an_error(four: Path, tmp_path: Path) -> None:
    absent = tmp_path / "no.csv"
    for path, line in (
        (absent, f"cannot read {absent}: No such file or directory"),
        (four, f"{four} is a folder, not a file"),
    ):
        with pytest.raises(FileUnreadable, match=f"^{line}$"):
            read_folder(four, path)


def test_images_without_a_label_are_left_out_with_a_notice(
    four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(four, *(f"more{number}.png" for number in range(5)))
    images = read_folder(four, csv(tmp_path, "a,ring\nb,blob\nc,ring\nd,blob\n"))
    assert len(images) == 4
    assert capsys.readouterr().err == (
        "note: 5 of 9 images have no label and are left out: more0.png, more1.png, more2.png, ...\n"
    )


# Folders


def test_without_a_label_file_folders_are_classes(tmp_path: Path) -> None:
    folder = touch(tmp_path / "images", "ring/2017/a.png", "ring/b.png", "blob/a.png", "blob/x/y/z.png")
    images = read_folder(folder)
    assert (images.classes, images.y.tolist()) == (("blob", "ring"), [0, 0, 1, 1])
    assert images.names.tolist() == [b"blob/a.png", b"blob/x/y/z.png", b"ring/2017/a.png", b"ring/b.png"]
    numbers = touch(tmp_path / "numbers", *(f"{number}/{letter}.png" for number in range(11) for letter in "ab"))
    assert read_folder(numbers).classes == tuple(map(str, range(11)))


def test_hidden_files_and_links_to_parent_folders_are_ignored(tmp_path: Path) -> None:
    folder = touch(tmp_path / "images", "ring/a.png", "ring/b.png", "ring/.ipynb_checkpoints/a.png", "ring/._a.png")
    (folder / "ring" / "up").symlink_to(folder)
    os.mkfifo(folder / "ring" / "c.png")  # opening it would block
    elsewhere = touch(tmp_path / "elsewhere", "c.png", "d.png")
    (folder / "blob").symlink_to(elsewhere)
    assert labels(read_folder(folder)) == {
        "ring/a.png": "ring", "ring/b.png": "ring", "blob/c.png": "blob", "blob/d.png": "blob"}  # fmt: skip


SPLIT = ("train/ring/a.png", "train/ring/b.png", "train/blob/c.png", "train/blob/d.png",
         "test/ring/a.png", "test/blob/e.png")  # fmt: skip


def test_training_does_not_use_test_images(tmp_path: Path) -> None:
    expected = {name: name.split("/")[1] for name in SPLIT if name.startswith("train/")}
    assert labels(read_folder(touch(tmp_path / "both", *SPLIT))) == expected
    assert labels(read_folder(touch(tmp_path / "alone", *SPLIT[:4]))) == expected
    cars = {"car/a.png": "car", "car/b.png": "car", "train/a.png": "train", "train/b.png": "train"}
    assert labels(read_folder(touch(tmp_path / "vehicles", *cars))) == cars
    with pytest.raises(ConfigError, match="has no subfolder per class"):
        read_folder(touch(tmp_path / "flat", "train/a.png", "train/b.png", "test/a.png", "test/b.png"))


def test_testing_uses_only_test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = touch(tmp_path / "both", *SPLIT)
    assert labels(read_folder(both, use="test")) == {"test/ring/a.png": "ring", "test/blob/e.png": "blob"}
    read_folder(both)
    assert capsys.readouterr().err.splitlines() == [
        f"note: 4 images in {both} outside test/ are left out",
        f"note: 2 images in {both} outside train/ are left out",
    ]
    ring = touch(tmp_path / "ring", "ring/a.png")
    assert labels(read_folder(ring, use="test")) == {"ring/a.png": "ring"}


def test_a_label_file_may_list_training_and_test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = touch(tmp_path / "images", *(f"train/{name}.png" for name in "abcd"), "test/a.png", "test/e.png")
    expected = {f"train/{name}.png": label for name, label in FOUR.items()}
    path = csv(tmp_path, "a,ring\nb,blob\ntrain/c.png,ring\nd.png,blob\n")
    assert labels(read_folder(folder, path)) == expected
    assert capsys.readouterr().err == ""
    path = csv(tmp_path, "train/a,ring\nb,blob\nc,ring\nd,blob\ntest/a,blob\ne,ring\n")
    assert labels(read_folder(folder, path)) == expected
    assert capsys.readouterr().err == (
        f"note: 2 images listed in {path} are outside train/ and left out: test/a.png, test/e.png\n"
    )
    touch(folder, "test/f.png", "test/g.png")
    path = csv(tmp_path, "test/a,x\ne,y\nf,x\ng,y\n")
    assert labels(read_folder(folder, path)) == {
        "test/a.png": "x", "test/e.png": "y", "test/f.png": "x", "test/g.png": "y"}  # fmt: skip


@pytest.mark.parametrize(
    ("ext", "found"),
    [
        ("png", ["a.png", "b.PNG"]),
        ("PNG", ["a.png", "b.PNG"]),
        ("jpg", ["c.jpg", "d.JPEG"]),
        ("jpeg", ["c.jpg", "d.JPEG"]),
        (".Jpg", ["c.jpg", "d.JPEG"]),
        ("png, jpg", ["a.png", "b.PNG", "c.jpg", "d.JPEG"]),
    ],
)
def test_kinds_of_images_are_chosen(ext: str, found: list[str], tmp_path: Path) -> None:
    names = ["a.png", "b.PNG", "c.jpg", "d.JPEG"]
    both = touch(tmp_path / "images", *(f"{label}/{name}" for label in "xy" for name in names))
    assert list(labels(read_folder(both, ext=ext))) == [f"{label}/{name}" for label in "xy" for name in found]


def test_images_of_the_other_format_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = touch(tmp_path / "images", *(f"{label}/{name}" for label in "xy" for name in ("a.png", "b.png", "c.jpg")))
    read_folder(folder)
    assert (
        capsys.readouterr().err
        == f"note: 2 .jpg images in {folder} are left out; select both with --image_ext=png,jpg\n"
    )


def test_the_error_for_a_folder_without_images_says_what_to_do(tmp_path: Path) -> None:
    touch(tmp_path, "file", "jpg/a.jpg", "jpg/b.jpeg", "none/notes.txt", "flat/a.png")
    (tmp_path / "empty").mkdir()
    for folder, ext, said in [
        ("no", "png", "the folder {} does not exist; --fdir takes a folder of images"),
        ("file", "png", "{} is a file; --fdir takes a folder of images"),
        ("empty", "png", "{} has no .png images; images are .png or .jpg files"),
        ("none", "jpg,png", "{} has no .jpg or .png images; images are .png or .jpg files"),
        ("jpg", "png", "{} has no .png images; it has 2 .jpg images: --image_ext=jpg"),
        ("flat", "gif", "unknown image format 'gif'; --image_ext takes png, jpg or png,jpg"),
        ("flat", "", "unknown image format ''; --image_ext takes png, jpg or png,jpg"),
        ("flat", "png", "{} has no subfolder per class, and there is no label file;"
                        " give a file of image,label with --flabels"),
    ]:  # fmt: skip
        with pytest.raises(MLaaS4HEPError) as caught:
            read_folder(tmp_path / folder, ext=ext)
        assert str(caught.value) == said.format(tmp_path / folder)


# What is in the files


def encoded(height: int = 8, width: int = 8, mode: str = "RGB", kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.new(mode, (width, height)).save(content, kind, **options)
    return content.getvalue()


def written(folder: Path, files: Mapping[str, bytes]) -> ImageFolder:
    """Write image files, and return their `ImageFolder`."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return read_folder(folder, ext="png,jpg")


def many(**options: Any) -> dict[str, bytes]:
    """Return 80 images of two classes, named 00 to 39."""
    return {f"{label}/{number:02}.png": encoded(**options) for label in ("blob", "ring") for number in range(40)}


def test_images_of_one_size_and_mode_give_no_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = written(tmp_path, many(height=6, width=9))
    checked = check_images(images)
    assert (checked.images, checked.bad, checked.height, checked.width) == (images, (), 6, 9)
    assert capsys.readouterr().err == ""


def test_different_sizes_and_modes_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    images = written(
        tmp_path,
        many(height=6, width=9)
        | {"ring/a.png": encoded(7, 9), "ring/b.png": encoded(6, 9, "L"), "ring/c.jpg": encoded(6, 9, "CMYK", "JPEG")}
        | {"ring/d.jpg": encoded(9, 6, kind="JPEG", exif=exif), "ring/e.jpg": encoded(9, 6, kind="JPEG")},
    )
    checked = check_images(images)
    assert (len(checked.images), checked.height, checked.width) == (85, 6, 9)
    assert capsys.readouterr().err.splitlines() == [
        "note: 2 of 85 images do not have the most frequent size 6 x 9 (height x width); they are resized",
        "note: 2 of 85 images are stored as grey, CMYK colour, most as colour; all are converted to the same channels",
    ]


def test_16_bit_images_give_a_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_images(written(tmp_path, many(mode="I;16")))
    assert capsys.readouterr().err == (
        "note: 80 of 80 images have 16 bits; only the upper 8 are used, so that 255 becomes 0\n"
    )


def damaged() -> dict[str, bytes]:
    noise = io.BytesIO()
    Image.effect_noise((80, 80), 50).save(noise, "JPEG")
    return {
        "blob/cut.jpg": noise.getvalue()[:-700],  # the header is complete
        "blob/empty.png": b"",
        "ring/cut.png": encoded(80, 80)[:-40],
        "ring/text.png": b"no image",
    }


def test_undecodable_images_are_an_error(tmp_path: Path) -> None:
    images = written(tmp_path, many() | damaged())
    with pytest.raises(FileUnreadable) as caught:
        check_images(images)
    assert str(caught.value) == (
        "4 of 84 images cannot be decoded: blob/cut.jpg, blob/empty.png, ring/cut.png, ...; reason for the first: the"
        " image is damaged, or is not a PNG or JPEG file; leave them out with --skip-bad"
    )


def test_undecodable_images_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = many()
    images = written(tmp_path, good | damaged())
    (tmp_path / "ring" / "00.png").unlink()
    (tmp_path / "ring" / "00.png").symlink_to("00.png")  # to itself
    checked = check_images(images, skip_bad=True)
    assert checked.bad == ("blob/cut.jpg", "blob/empty.png", "ring/00.png", "ring/cut.png", "ring/text.png")
    assert labels(checked.images) == {name: name[:4] for name in good if name != "ring/00.png"}
    assert capsys.readouterr().err == (
        "note: 5 of 84 images cannot be decoded: blob/cut.jpg, blob/empty.png, ring/00.png, ...; they are left out\n"
    )


def test_a_class_without_decodable_images_is_an_error(tmp_path: Path) -> None:
    files = {name: b"x" if name > "ring/00" else content for name, content in many().items()}
    checked = check_images(written(tmp_path, files), skip_bad=True)
    with pytest.raises(ConfigError, match=re.escape("but 'ring' has 0; add images of this class")):
        check_classes(checked.images)
    with pytest.raises(FileUnreadable, match=r"80 of 80 images cannot be decoded.*; use other images$"):
        check_images(written(tmp_path, dict.fromkeys(files, b"x")), skip_bad=True)


def test_the_digest_depends_on_the_content_of_files(tmp_path: Path) -> None:
    files = many()
    first = check_images(written(tmp_path, files)).digest
    assert check_images(written(tmp_path / "copy", files)).digest == first
    last = list(files)[-1]
    assert check_images(written(tmp_path, files | {last: encoded(compress_level=0)})).digest != first
