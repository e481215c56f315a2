"""Residual networks, compared with Keras and PyTorch, and with published numbers of weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.errors import ConfigError

keras = pytest.importorskip("keras", reason="Keras is not installed")

from mlaas4hep.backends.make import make_backend  # noqa: E402
from mlaas4hep.backends.task import Task  # noqa: E402
from mlaas4hep.config import Params  # noqa: E402
from mlaas4hep.images.resnet import NETWORKS, resnet  # noqa: E402
from mlaas4hep.images.train import Network  # noqa: E402
from mlaas4hep.stream import Batch  # noqa: E402

PUBLISHED = {  # weights that are trained, for the 1000 classes of ImageNet, as torchvision lists them
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}


DEEP = {"resnet101", "resnet152"}
"""Building one takes many seconds; only `make soak` does."""


@pytest.fixture(scope="module")
def small() -> Any:
    """A network for images of 64x64 pixels with random weights."""
    return shaken(resnet("resnet18", (64, 64, 3), 3))


@pytest.fixture
def settings() -> Iterator[Any]:
    """Keras's global configuration, restored afterwards."""
    policy, order = keras.config.dtype_policy(), keras.config.image_data_format()
    yield keras.config
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(order)


once_built = functools.cache(resnet)
"""For tests that do not depend on the initial weights, whose creation takes seconds for deep networks."""


def pictures(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return images of large squares with increasing brightness, float32 0 to 255."""
    height, width, channels = shape
    squares = np.random.default_rng(0).uniform(0, 255, (count, height // 9 + 1, width // 9 + 1, channels))
    squares *= np.linspace(0.3, 1, count)[:, None, None, None]
    return squares.repeat(9, axis=1).repeat(9, axis=2)[:, :height, :width].astype(np.float32)


def shaken(model: Any) -> Any:
    """Give a model random weights, none of them 0 or 1, that preserve the scale of activations; return the model."""
    rng = np.random.default_rng(1)
    draws = {
        "kernel": lambda size: rng.standard_normal(size, np.float32) * math.sqrt(2 / math.prod(size[:-1])),
        "gamma": lambda size: rng.uniform(0.5, 1.5, size),
        "beta": lambda size: rng.normal(0, 0.3, size),
        "bias": lambda size: rng.normal(0, 0.3, size),
        "moving_mean": lambda size: rng.normal(0, 0.3, size),
        "moving_variance": lambda size: rng.uniform(0.5, 1.5, size),
    }
    for layer in model.layers:
        for weight in layer.weights:
            weight.assign(draws[weight.name](weight.shape))
    last = "_2_bn" if model.name in ("resnet18", "resnet34") else "_3_bn"  # of a block
    for layer in model.layers:
        if layer.name.endswith(last):
            layer.gamma.assign(layer.gamma * 0.125)
    return model


def trained_weights(model: Any) -> int:
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def carry_over(peer: Any, model: Any) -> None:
    """Give a model the weights of a model of keras.applications, whose convolutions have biases."""
    theirs = {layer.name: layer.get_weights() for layer in peer.layers if layer.weights}
    theirs["logits"] = theirs.pop("predictions")
    ours = {layer.name: layer for layer in model.layers if layer.weights}
    assert set(ours) == set(theirs)
    for name, layer in ours.items():
        if name.endswith("_conv"):
            layer.set_weights(theirs[name][:1])
        elif name.endswith("_bn"):
            gamma, beta, mean, variance = theirs[name]
            layer.set_weights([gamma, beta, mean - theirs[name.replace("_bn", "_conv")][1], variance])
        else:
            layer.set_weights(theirs[name])


def output_of(model: Any, images: np.ndarray) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(model(images, training=False)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in DEEP)) for name in PUBLISHED])
def test_a_network_has_the_published_numbers_of_weights_and_stages(name):
    model = once_built(name, (64, 64, 3), 1000)
    assert trained_weights(model) == PUBLISHED[name]
    convolutions = [layer for layer in model.layers if layer.name.endswith("_conv") and "_0_" not in layer.name]
    assert name == f"resnet{len(convolutions) + 1}"  # projections are not counted
    wider = 1 if name in ("resnet18", "resnet34") else 4
    ends = {layer.name[:5]: layer.output.shape for layer in model.layers if layer.name.endswith("_out")}
    assert ends == {
        "conv2": (None, 16, 16, 64 * wider),
        "conv3": (None, 8, 8, 128 * wider),
        "conv4": (None, 4, 4, 256 * wider),
        "conv5": (None, 2, 2, 512 * wider),
    }


def test_every_network_has_published_numbers():
    assert set(NETWORKS) == set(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("ResNet50", (33, 60, 1), 7),
        pytest.param("ResNet50", (224, 224, 3), 1000, marks=pytest.mark.slow),
        pytest.param("ResNet101", (64, 64, 3), 1000, marks=pytest.mark.slow),
        pytest.param("ResNet152", (64, 64, 3), 1000, marks=pytest.mark.slow),
    ],
)
def test_bottleneck_networks_agree_with_keras_applications(name, shape, classes):
    peer = shaken(getattr(keras.applications, name)(weights=None, input_shape=shape, classes=classes))
    model = once_built(name.lower(), shape, classes)
    carry_over(peer, model)
    images = pictures(2, shape)
    expected = np.log(output_of(peer, images / 127.5 - 1))  # a softmax is its last layer
    found = log_softmax(output_of(model, images))
    assert np.ptp(expected, axis=1).min() > 1
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("shape", "name"), [((64, 64, 3), "resnet18"), ((33, 60, 1), "resnet34")])
def test_basic_blocks_agree_with_pytorch_code_like_torchvision(name, shape):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model, images = shaken(resnet(name, shape, 5)), pictures(3, shape)
    weights = {layer.name: [torch.from_numpy(one) for one in layer.get_weights()] for layer in model.layers}

    def convolve(x: Any, layer: str, stride: int = 1) -> Any:
        (kernel,), (gamma, beta, mean, variance) = weights[f"{layer}_conv"], weights[f"{layer}_bn"]
        x = torch.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride, padding=kernel.shape[0] // 2)
        return torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, eps=1.001e-5)

    x = torch.from_numpy(images / 127.5 - 1).permute(0, 3, 1, 2)
    x = torch.max_pool2d(convolve(x, "conv1", 2).relu(), 3, stride=2, padding=1)
    for stage, count in zip((2, 3, 4, 5), {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}[name], strict=True):
        for block in (f"conv{stage}_block{number}" for number in range(1, count + 1)):
            halves = stage > 2 and block.endswith("block1")
            y = convolve(convolve(x, f"{block}_1", 2 if halves else 1).relu(), f"{block}_2")
            x = (y + (convolve(x, f"{block}_0", 2) if halves else x)).relu()
    kernel, bias = weights["logits"]
    expected = (x.mean((2, 3)) @ kernel + bias).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(output_of(model, images), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 8, 3), (16, 16, 1), (33, 33, 3), (64, 64, 1), (100, 60, 3)])
def test_images_may_have_any_size_and_be_grey_or_colour(shape):
    model = resnet("resnet18", shape, 4)
    height, width, channels = shape
    assert model.get_layer("avg_pool").input.shape == (None, math.ceil(height / 32), math.ceil(width / 32), 512)
    assert trained_weights(model) == PUBLISHED["resnet18"] - 64 * 7 * 7 * (3 - channels) - (1000 - 4) * (512 + 1)
    logits = output_of(model, pictures(2, shape))
    assert (logits.shape, logits.dtype) == ((2, 4), np.float32)
    assert np.isfinite(logits).all()


def test_convolutions_have_he_initialisation():
    keras.utils.set_random_seed(1)
    kernels = {layer.name: layer.kernel for layer in resnet("resnet18", (64, 64, 3), 2).layers if "_conv" in layer.name}
    assert len(kernels) == 20
    for kernel in map(keras.ops.convert_to_numpy, kernels.values()):
        assert kernel.std() == pytest.approx(math.sqrt(2 / math.prod(kernel.shape[:-1])), rel=0.03)


def test_moving_averages_converge_within_a_small_epoch():
    model, images = resnet("resnet18", (32, 32, 3), 2), pictures(8, (32, 32, 3))
    convolved, normalised = (model.get_layer(f"conv1_{layer}") for layer in ("conv", "bn"))
    start = keras.Model(model.input, normalised.output)
    for _ in range(25):
        start(images, training=True)
    means = output_of(keras.Model(model.input, convolved.output), images).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(normalised.moving_mean), means, rtol=0.1)


def test_a_saved_network_gives_the_same_output(small, tmp_path: Path):
    small.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    images = pictures(4, (64, 64, 3))
    np.testing.assert_allclose(output_of(again, images), output_of(small, images), atol=1e-6)


@pytest.mark.slow
def test_the_onnx_graph_gives_the_same_output_for_any_number_of_images(small, tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    small.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["images"]
    for count in (1, 5):
        images = pictures(count, (64, 64, 3))
        np.testing.assert_allclose(session.run(None, {"images": images})[0], output_of(small, images), atol=1e-4)


def test_in_mixed_precision_the_logits_are_float32(settings):
    shape = (32, 32, 3)
    whole = shaken(resnet("resnet18", shape, 3))
    settings.set_dtype_policy("mixed_float16")
    mixed = resnet("resnet18", shape, 3)
    mixed.set_weights(whole.get_weights())
    assert mixed.get_layer("conv5_block2_out").output.dtype == "float16"
    found, expected = output_of(mixed, pictures(2, shape)), output_of(whole, pictures(2, shape))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.slow
def test_training_in_half_precision_gives_scores_in_float32(tmp_path: Path):
    shape = {"images": (16, 16, 1)}
    file = Network(precision="mixed_float16").as_model_file()
    backend = make_backend(file, shape, Task.classification(2), Params(seed=1))
    assert backend.model.get_layer("conv2_block1_1_conv").compute_dtype == "float16"
    assert keras.config.dtype_policy().name == "float32"
    batch = Batch(
        {"images": pictures(8, shape["images"]).astype(np.uint8)}, np.arange(8) % 2, np.ones(8, np.float32), {},
        np.zeros(8, np.int8), np.zeros(8, np.int32), np.arange(8),
    )  # fmt: skip
    assert all(np.isfinite(loss) for loss, _ in backend.steps([batch] * 3))
    whole = resnet("resnet18", shape["images"], 2)
    whole.set_weights(backend.model.get_weights())
    logits = output_of(whole, batch.inputs["images"])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(backend.predict(batch.inputs), expected, atol=1e-5)
    again = keras.saving.load_model(tmp_path / backend.save(tmp_path))
    np.testing.assert_allclose(output_of(again, batch.inputs["images"]), logits, atol=1e-5)


def test_channels_are_last_regardless_of_the_keras_configuration(settings):
    shape = (20, 16, 3)
    usual = shaken(resnet("resnet18", shape, 3))
    settings.set_image_data_format("channels_first")
    model = resnet("resnet18", shape, 3)
    model.set_weights(usual.get_weights())
    np.testing.assert_array_equal(output_of(model, pictures(2, shape)), output_of(usual, pictures(2, shape)))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "message"),
    [
        (
            "ResNet51",
            (64, 64, 3),
            2,
            "unknown network 'ResNet51'; closest: 'resnet50'; "
            "available: resnet18, resnet34, resnet50, resnet101, resnet152",
        ),
        ("resnet18", (64, 64, 4), 2, "images have 4 channels; use 1 (grey) or 3 (colour)"),
        ("resnet18", (64, 7, 3), 2, "images of 64x7 pixels are too small for resnet18; use at least 8x8"),
        ("resnet18", (64, 64, 3), 1, "a classifier needs at least 2 classes, not 1"),
        ("resnet18", (64, 64, 3), 0, "a classifier needs at least 2 classes, not 0"),
    ],
)
def test_unsupported_networks_are_an_error(name, shape, classes, message):
    with pytest.raises(ConfigError) as error:
        resnet(name, shape, classes)
    assert str(error.value) == message
