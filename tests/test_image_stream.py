"""Streaming images as batches: splitting, shuffling, resizing, augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.images.augment import augment
from mlaas4hep.images.folder import ImageFolder, read_folder
from mlaas4hep.images.stream import IMAGES, ImageStream
from mlaas4hep.stream import PARTS, Batch

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

COUNTS = {"ring": 60, "blob": 30, "arc": 10}


def grey(number: int) -> int:
    """The grey level that identifies an image."""
    return 50 + number


@pytest.fixture(scope="module", name="images")
def images_fixture(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """A hundred images of 6 x 4 pixels, each of one grey level."""
    folder, number = tmp_path_factory.mktemp("images"), 0
    for name, count in COUNTS.items():
        (folder / name).mkdir()
        for _ in range(count):
            Image.new("L", (4, 6), grey(number)).save(folder / name / f"{number:03d}.png")
            number += 1
    return read_folder(folder)


def stream_of(images: ImageFolder, augmented: bool = False, channels: int = 1, **params: object) -> ImageStream:
    return ImageStream(images, (6, 4, channels), Params.parse({"batch_size": 8, **params}), augmented)


def levels(batch: Batch) -> list[int]:
    """Return the grey level of each image, from its middle."""
    return [int(pixels[3, 2, 0]) for pixels in batch.inputs[IMAGES]]


def shown(stream: ImageStream, part: str | None, epoch: int = 0, **how: bool) -> list[int]:
    return [level for batch in stream.batches(part, epoch, **how) for level in levels(batch)]


def test_every_image_occurs_once_with_its_label(images: ImageFolder) -> None:
    stream = stream_of(images)
    found = {}
    for part in PARTS:
        for batch in stream.batches(part, epoch=3):
            assert batch.inputs[IMAGES].dtype == np.uint8
            assert batch.inputs[IMAGES].shape[1:] == (6, 4, 1)
            assert len(batch) <= 8
            for level, y, index in zip(levels(batch), batch.y, batch.entry, strict=True):
                assert level not in found
                found[level] = images.classes[y]
                assert images.name(index).endswith(f"{level - 50:03d}.png")
    truth = [name for name, count in COUNTS.items() for _ in range(count)]
    assert found == {grey(number): name for number, name in enumerate(truth)}


def test_each_class_is_split_by_the_same_shares(images: ImageFolder) -> None:
    stream = stream_of(images, split=[0.6, 0.2, 0.2])
    assert stream.images.classes == ("arc", "blob", "ring")
    assert stream.composition.events.tolist() == [[6, 18, 36], [2, 6, 12], [2, 6, 12]]
    assert stream.composition.totals.tolist() == [60, 20, 20]
    assert stream.training_entries == 60


def test_a_class_of_two_images_is_in_training_and_test_set(images: ImageFolder) -> None:
    arcs = np.flatnonzero(images.y == 0)[:2]
    few = images.select(np.concatenate([arcs, np.flatnonzero(images.y == 1)]))
    assert stream_of(few).composition.events[:, 0].tolist() == [1, 0, 1]


def test_the_part_of_an_image_does_not_depend_on_the_order_of_images(images: ImageFolder) -> None:
    back = images.select(np.arange(len(images))[::-1])
    assert stream_of(back).part.tolist() == stream_of(images).part[::-1].tolist()


def test_each_epoch_has_its_own_reproducible_order(images: ImageFolder) -> None:
    stream = stream_of(images)
    first, second = (shown(stream, "train", epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second
    assert shown(stream_of(images, workers=3), "train", 1) == second
    assert shown(stream_of(images, seed=1), "train", 1) != second
    in_order = [index for batch in stream.batches("test", shuffle=False) for index in batch.entry.tolist()]
    assert in_order == sorted(index for batch in stream.batches("test") for index in batch.entry.tolist())


def test_an_epoch_can_skip_its_first_batches(images: ImageFolder) -> None:
    stream = stream_of(images, augmented=True)
    whole = [batch.inputs[IMAGES] for batch in stream.batches("train", 2)]
    rest = [batch.inputs[IMAGES] for batch in stream.batches("train", 2, skip=3)]
    assert len(rest) == len(whole) - 3
    for one, other in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_key_depends_on_the_parameters_of_images_only(images: ImageFolder) -> None:
    key = stream_of(images).key
    assert stream_of(images, branch="Other", redirector=["host"], workers=3).key == key
    assert stream_of(images, seed=1).key != key


def test_balanced_classes_have_the_same_sum_of_weights(images: ImageFolder) -> None:
    sums = np.zeros(3)
    for batch in stream_of(images, balance="weights").batches("train"):
        np.add.at(sums, batch.y, batch.weight)
    np.testing.assert_allclose(sums, sums.mean(), rtol=1e-5)


def test_images_are_converted_to_the_shape_of_the_model(images: ImageFolder) -> None:
    stream = ImageStream(images, (12, 8, 3), Params.parse({}))
    batch = stream.examples(5)
    assert batch.inputs[IMAGES].shape == (5, 12, 8, 3)
    assert (batch.inputs[IMAGES] == batch.inputs[IMAGES][:, :1, :1, :1]).all()


def test_examples_are_from_the_part_and_from_all_classes(images: ImageFolder) -> None:
    stream = stream_of(images)
    assert len(stream.examples(400)) == len(shown(stream, "test"))
    assert len(stream.examples(400, part=None)) == 32
    assert set(stream.examples(12).y.tolist()) == {0, 1, 2}
    assert set(levels(stream.examples(400))) == set(shown(stream, "test"))


def test_the_error_for_a_missing_or_damaged_image_has_its_name(images: ImageFolder, tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 6)).save(tmp_path / name)
    stream = stream_of(read_folder(tmp_path))
    (tmp_path / "a/2.png").write_bytes(b"no image")
    with pytest.raises(FileUnreadable, match=r"cannot read .*a/2\.png: the image is damaged, or is not a PNG"):
        list(stream.batches())
    (tmp_path / "a/2.png").unlink()
    with pytest.raises(FileUnreadable, match=r"cannot read .*a/2\.png: No such file"):
        list(stream.batches())


@pytest.mark.parametrize("params", [{"kfold": 3}, {"balance": "sampling"}, {"split": {"valid": "a > 1", "test": "b"}}])
def test_parameters_for_events_only_are_refused(images: ImageFolder, params: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="images do not support 'kfold', 'reweight'"):
        stream_of(images, **params)


# Augmentation


def test_augmented_images_are_flipped_and_shifted_by_up_to_a_tenth() -> None:
    """A single bright pixel shows the shift; all others must stay dark."""
    pixels = np.zeros((4000, 20, 40, 1), np.uint8)
    pixels[:, 5, 10] = 200
    seen = augment(pixels, np.random.default_rng(0))
    assert seen.dtype == np.uint8
    image, row, column, _ = np.nonzero(seen)
    assert image.tolist() == list(range(4000))
    assert (seen[image, row, column, 0] == 200).all()
    up, left = row >= 10, column >= 20
    down, right = np.where(up, row - 14, row - 5), np.where(left, column - 29, column - 10)
    assert (set(down), set(right)) == (set(range(-2, 3)), set(range(-4, 5)))
    for mirrored in (up, left, up ^ left):
        assert abs(mirrored.mean() - 0.5) < 0.05
    assert pixels.sum() == 200 * 4000


def test_only_training_images_are_augmented_and_differently_in_each_epoch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        name = tmp_path / "ab"[number % 2] / f"{number}.png"
        name.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(1, 255, (40, 40), np.uint8)).save(name)
    found = read_folder(tmp_path)
    plain, augmented = (ImageStream(found, (40, 40, 1), Params.parse({}), how) for how in (False, True))

    def pixels(stream: ImageStream, part: str, epoch: int) -> np.ndarray:
        (batch,) = stream.batches(part, epoch)
        return np.asarray(batch.inputs[IMAGES][np.argsort(batch.entry)])

    for part in ("valid", "test"):
        np.testing.assert_array_equal(pixels(augmented, part, 0), pixels(plain, part, 0))
    seen = [pixels(augmented, "train", epoch) for epoch in (0, 1)]
    assert (seen[0] != pixels(plain, "train", 0)).any()
    assert (seen[0] != seen[1]).any()
