"""Images: decoded, turned upright and resized to what a model takes; the answers of TFaaS; and what is refused."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import requests
from check_predictor import check_predictor
from serving_fixtures import Server, onnx_model, params, server_fixture, shared_server_fixture, url_fixture  # noqa: F401

from mlaas4hep.errors import ConfigError
from mlaas4hep.images.decode import MAX_PIXELS
from mlaas4hep.serving.models.onnx_predictor import OnnxPredictor
from mlaas4hep.serving.models.predictor import Predictors
from mlaas4hep.serving.models.tensor import Tensor, describe_input
from mlaas4hep.serving.protocols.images import read_image
from mlaas4hep.serving.store.store import ModelStore

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
RGB, GREY = Tensor("x", (6, 4, 3)), Tensor("x", (6, 4, 1))
FREE = Tensor("x", (None, None, 3))


def png(pixels: np.ndarray = PIXELS, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image file of pixels, (height, width) or (height, width, channels)."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def read(content: bytes, takes: Tensor = RGB) -> np.ndarray:
    return read_image(io.BytesIO(content), takes)


def means(layout: str, channels: int = 3, size: tuple[Any, Any] = (6, 4), more: int = 0) -> bytes:
    """Return a graph whose scores are the means of the channels, as TensorFlow ("NHWC") or PyTorch ("NCHW") has them.

    Args:
        layout: order of the dimensions.
        channels: 0: the graph does not say.
        size: height and width.
        more: how many outputs are added, all of them negative.
    """
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    told = {"N": "n", "H": size[0], "W": size[1], "C": channels or "c"}
    axes = [index for index, name in enumerate(layout) if name in "HW"]
    nodes = [helper.make_node("ReduceMean", ["images"], ["means"], axes=axes, keepdims=0)]
    nodes += [helper.make_node("Pad", ["means", "pads", "least"], ["scores"])]
    constants = [("pads", np.array([0, 0, 0, more], np.int64)), ("least", np.array(-1, np.float32))]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("images", real, [told[name] for name in layout])],
        [helper.make_tensor_value_info("scores", real, ["n", channels + more if channels else "k"])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def store_model(models: Path, name: str, graph: bytes, labels: str = "", file: str = "model.onnx", **more: Any) -> None:
    (models / name).mkdir(parents=True)
    (models / name / file).write_bytes(graph)
    (models / name / "labels.txt").write_text(labels)
    (models / name / "params.json").write_text(json.dumps(params(name, file, **more)))
    (models / name / ".tfaas-version").write_text("1")


def send(url: str, content: bytes, model: str, filename: str = "a.png", route: str = "/image") -> tuple[int, Any]:
    form: dict[str, Any] = {"image": (filename, content), "model": (None, model)}
    answer = requests.post(url + route, files=form, timeout=120)
    return answer.status_code, answer.json()


# From a file to an array


def test_pixels_have_the_values_that_were_saved() -> None:
    given = read(png())
    assert (given.dtype, given.shape) == (np.float32, (1, 6, 4, 3))
    np.testing.assert_array_equal(given[0], PIXELS)
    np.testing.assert_array_equal(read(png(), FREE)[0], PIXELS)
    np.testing.assert_allclose(read(png(np.full((6, 4, 3), 100, np.uint8), "JPEG"))[0], 100, atol=1)


def test_colours_become_grey_and_grey_becomes_colours() -> None:
    luma = PIXELS @ [0.299, 0.587, 0.114]  # ITU-R 601-2, as TensorFlow's decoders have it too
    np.testing.assert_allclose(read(png(), GREY)[0, ..., 0], luma, atol=0.6)
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(read(png(grey), GREY)[0, ..., 0], grey)
    np.testing.assert_array_equal(read(png(grey))[0], np.stack([grey] * 3, axis=-1))


def test_transparency_palettes_bits_and_16_bits_become_numbers_up_to_255() -> None:
    alpha = np.concatenate([PIXELS, np.zeros((6, 4, 1), np.uint8)], axis=-1)
    np.testing.assert_array_equal(read(png(alpha))[0], PIXELS)
    deep = PIXELS[..., 0].astype(np.uint16) * 257
    np.testing.assert_array_equal(read(png(deep), GREY)[0, ..., 0], PIXELS[..., 0])
    np.testing.assert_array_equal(read(png(PIXELS[..., 0] > 99), GREY)[0, ..., 0], 255 * (PIXELS[..., 0] > 99))
    content = io.BytesIO()
    Image.fromarray(PIXELS).quantize(24).save(content, "PNG")
    np.testing.assert_array_equal(read(content.getvalue())[0], PIXELS)


def test_images_are_resized_bilinearly() -> None:
    ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None], 8, axis=1)  # 24 x 8
    given = read(png(ramp), GREY)
    assert given.shape == (1, 6, 4, 1)
    np.testing.assert_allclose(given[0, 1:-1, :, 0], np.repeat([[55], [95], [135], [175]], 4, axis=1), atol=1)
    assert read(png(), Tensor("x", (None, 8, 3))).shape == (1, 6, 8, 3)


def test_an_image_is_rotated_according_to_its_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees, clockwise
    upright = read(png(exif=exif), FREE)
    np.testing.assert_array_equal(upright[0], np.rot90(PIXELS, -1))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that says it is large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(5001, 5000), (10_000, 10_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_that_would_fill_the_memory_is_refused_unread(size: tuple[int, int]) -> None:
    assert size[0] * size[1] > MAX_PIXELS
    with pytest.raises(ConfigError, match="the image has more than 25 million pixels"):
        read(huge(*size))


def test_a_file_that_is_not_an_image_is_an_error() -> None:
    gif, jpeg = png(PIXELS[..., 0], "GIF"), png(np.tile(PIXELS, (20, 20, 1)), "JPEG")
    for content in (b"", b"no image", png()[:60], jpeg[:-400], gif, b"<svg/>", png()[:-30] + b"x" * 30):
        with pytest.raises(ConfigError) as caught:
            read(content)
        assert str(caught.value) == "the image is damaged, or is not a PNG or JPEG file"


# What a model takes


@pytest.mark.parametrize(
    ("shape", "channels", "seen", "first"),
    [
        ((None, 8, 9, 3), 0, (8, 9, 3), False),
        (("n", 3, 8, 9), 0, (8, 9, 3), True),
        ((None, 1, 8, 9), 1, (8, 9, 1), True),
        ((1, None, None, 1), 0, (None, None, 1), False),
        ((None, 3, "h", "w"), 0, (None, None, 3), True),
        ((None, 3, 8, 3), 0, (3, 8, 3), False),
        ((None, 1, 8, 3), 1, (8, 3, 1), True),
        ((None, None, None, None), 3, (None, None, 3), False),
        (None, 3, (None, None, 3), False),
        (None, 0, (None,), False),
        ((None, 5), 0, (5,), False),
        (("n", "features"), 3, (None,), False),
    ],
)
def test_channels_are_found_in_the_back_or_in_front(shape: Any, channels: int, seen: Any, first: bool) -> None:
    assert describe_input("x", shape, channels, "m.onnx") == (("x", seen), first)


@pytest.mark.parametrize(
    ("shape", "channels", "reason"),
    [
        ((None, 8, 9, 3), 1, "m.onnx takes images of 8 x 9 x 3, but img_channels in params.json is 1"),
        ((None, 8, 9, 5), 0, "takes images of 8 x 9 x 5; they must have 1 or 3 channels"),
        ((None, None, None, None), 0, "takes images of any x any x any; they must have 1 or 3 channels"),
        ((None, 8, 9), 0, r"does not have one input \(n, features\) or \(n, height, width, channels\)"),
        ((None,), 0, r"does not have one input \(n, features\) or \(n, height, width, channels\)"),
    ],
)
def test_inputs_that_are_neither_rows_nor_images_are_refused(shape: Any, channels: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        describe_input("x", shape, channels, "m.onnx")


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_onnx_graphs_of_images_keep_the_contract(layout: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(means(layout))
    images = np.random.default_rng(3).uniform(0, 255, (5, 6, 4, 3)).astype(np.float32)
    check_predictor(OnnxPredictor(tmp_path / "m.onnx"), images, images.mean(axis=(1, 2), dtype=np.float64))


def test_img_channels_defines_channels_that_the_graph_does_not_define(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    store_model(store.folder, "grey", means("NHWC", 0, ("h", "w")), img_channels=1)
    assert Predictors(store).get("grey").predictor.input.shape == (None, None, 1)
    store_model(store.folder, "silent", means("NHWC", 0, ("h", "w")), img_channels=4)
    with pytest.raises(ConfigError, match=r"must have 1 or 3 channels; set img_channels in params.json"):
        Predictors(store).get("silent")


# What a server answers


def test_onnx_graphs_answer_with_the_best_five_labels(url: str, server: Server) -> None:
    store_model(server.models_dir, "ImageModel", means("NCHW", more=3), "red\ngreen\nblue\na\nb\nc\n")
    average = PIXELS.mean(axis=(0, 1))
    expected = sorted(zip(["red", "green", "blue"], average, strict=True), key=lambda pair: -pair[1])
    for route in ("/image", "/predict/image"):
        code, answer = send(url, png(), "ImageModel", route=route)
        assert (code, answer["filename"], len(answer["labels"])) == (200, "a.png", 5)
        for given, (label, value) in zip(answer["labels"], [*expected, (None, -1), (None, -1)], strict=True):
            assert given["probability"] == pytest.approx(value, rel=1e-5)
            assert label in (given["label"], None)


def test_an_image_is_answered_with_numbers_if_some_have_no_label(url: str, server: Server) -> None:
    store_model(server.models_dir, "means", means("NHWC"), "red\ngreen\n")
    code, answer = send(url, png(), "means")
    assert (code, answer) == (200, pytest.approx(list(PIXELS.mean(axis=(0, 1))), rel=1e-5))
    code, answer = send(url, png(np.full((6, 4, 3), 7, np.uint8), "JPEG"), "", "called.txt")
    assert (code, answer) == (200, pytest.approx([7, 7, 7], abs=1))


def test_tensorflow_models_get_the_same_response_as_from_the_stock_server(url: str, server: Server) -> None:
    """A frozen graph with labels, and a SavedModel with numbers, by the names in params.json."""
    pytest.importorskip("tensorflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf
    with tf.Graph().as_default() as graph:
        pixels = tf.compat.v1.placeholder(tf.float32, (1, None, None, 3), name="DecodeJpeg")
        tf.reduce_mean(pixels, axis=(1, 2), name="softmax")
    frozen = graph.as_graph_def().SerializeToString()
    names = {"input_node": "", "output_node": "", "inputNode": "DecodeJpeg", "outputNode": "softmax"}
    store_model(server.models_dir, "frozen", frozen, "r\ng\nb\n", "tf_model.pb", img_channels=3, **names)
    module = tf.Module()
    module.scale = tf.Variable(2.0)
    spec = tf.TensorSpec((None, 6, 4, 1), tf.float32, name="pixels")
    score = tf.function(lambda pixels: {"scores": module.scale * tf.reduce_mean(pixels, (1, 2))}, [spec])
    names = {"input_name": "serving_default_pixels", "output_name": "StatefulPartitionedCall"}
    store_model(server.models_dir, "saved", b"", "a\n", "no_file.pb", img_channels=1, **names)
    concrete = score.get_concrete_function()
    tf.saved_model.save(module, str(server.models_dir / "saved"), signatures={"serving_default": concrete})

    code, answer = send(url, png(), "frozen", "photo.jpg")
    expected = sorted(zip("rgb", PIXELS.mean(axis=(0, 1)), strict=True), key=lambda pair: -pair[1])
    assert (code, answer["filename"]) == (200, "photo.jpg")
    assert [given["label"] for given in answer["labels"]] == [label for label, _ in expected]
    assert [given["probability"] for given in answer["labels"]] == pytest.approx([value for _, value in expected])
    code, answer = send(url, png(PIXELS[..., 0]), "saved")
    assert (code, answer) == (200, pytest.approx([2 * PIXELS[..., 0].mean()], rel=1e-5))

    processes = psutil.Process(server.process.pid).children()
    assert len(processes) == 2
    for name in ("frozen", "saved"):
        assert requests.delete(f"{url}/delete/{name}", timeout=20).status_code == 200
    assert psutil.wait_procs(processes, timeout=20)[1] == []


def test_mistakes_are_one_line_and_a_400(url: str, server: Server) -> None:
    store_model(server.models_dir, "rows", onnx_model())
    store_model(server.models_dir, "images", means("NHWC"))
    assert send(url, png(), "rows") == (
        400,
        {"error": "the model takes rows of values, not images; send rows to POST /json"},
    )
    assert send(url, b"x", "images") == (400, {"error": "the image is damaged, or is not a PNG or JPEG file"})
    assert send(url, png(), "nobody")[0] == 404
    answer = requests.post(f"{url}/json", json={"values": [1, 2], "model": "images"}, timeout=20)
    said = "the model takes images, not rows of values; send a PNG or JPEG file to POST /image"
    assert (answer.status_code, answer.json()) == (400, {"error": said})
    answer = requests.post(f"{url}/image", files={"model": (None, "images")}, timeout=20)
    said = "the form does not provide 'image' as a file; as in curl -F 'image=@path'"
    assert (answer.status_code, answer.json()) == (400, {"error": said})
    answer = requests.post(f"{url}/image", data=png(), timeout=20)
    assert answer.status_code == 400
