"""Keras models, SavedModels and frozen graphs: the scores of the framework, and nothing else that a file could do."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from check_predictor import check_predictor
from serving_fixtures import Server, environment, onnx_model, params, write_bundle

from mlaas4hep.errors import ConfigError, PackageMissing, ServiceError
from mlaas4hep.serving.frameworks.graph_check import pruned
from mlaas4hep.serving.frameworks.keras_archive import checked_archive, checked_config
from mlaas4hep.serving.frameworks.keras_models import KerasModel
from mlaas4hep.serving.frameworks.tensorflow_models import frozen_graph, saved_model
from mlaas4hep.serving.models.model_limits import ModelLimits
from mlaas4hep.serving.models.predictor import Predictors
from mlaas4hep.serving.models.rows import parse_request
from mlaas4hep.serving.models.subprocess_predictor import LoadFailed, ModelSource, SubprocessPredictor
from mlaas4hep.serving.store.store import ModelStore

for package in ("tensorflow", "keras"):
    if importlib.util.find_spec(package) is None:  # they are imported later, which takes seconds
        pytest.skip(f"{package} is not installed", allow_module_level=True)

X = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
W = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
TRUTH = np.exp(X @ W) / np.exp(X @ W).sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def tf() -> Any:
    """TensorFlow, imported once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow

    return tensorflow


@pytest.fixture(scope="module")
def keras(tf: Any) -> Any:
    """Keras, imported once."""
    import keras

    return keras


@pytest.fixture(scope="module")
def models(tf: Any, keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model, softmax(x W), in every format, in the folders of a store."""
    store = ModelStore(tmp_path_factory.mktemp("store") / "models")

    def folder(name: str, **changes: Any) -> Path:
        place = store.folder / name
        place.mkdir()
        (place / "params.json").write_text(json.dumps(params(name, **changes)))
        (place / "labels.txt").write_text("a\nb\nc\n")
        return place

    model = keras.Sequential([keras.Input((5,), name="x"), keras.layers.Dense(3, "softmax", use_bias=False)])
    model.layers[0].set_weights([W])
    model.save(folder("keras", model="model.keras") / "model.keras")
    write_saved_model(tf, folder("saved", model="anything"))
    write_frozen_graph(tf, folder("frozen", model="model.pb", inputNode="inputs", outputNode="scores") / "model.pb")
    return SimpleNamespace(store=store, keras=model)


def write_saved_model(tf: Any, folder: Path, argument: str = "inputs_input") -> None:
    """Write softmax(x W), with names of the stock server where the argument is called inputs_input."""
    module = tf.Module()
    module.w = tf.Variable(W, name="w")
    spec = tf.TensorSpec((None, 5), tf.float32, name=argument)
    score = tf.function(lambda x: {"scores": tf.nn.softmax(x @ module.w)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": score.get_concrete_function()})


def graph_of(tf: Any, build: Callable[[Any], Any], width: int = 5, name: str = "scores") -> Any:
    """Return the GraphDef of what is built on a placeholder called inputs."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (None, width), name="inputs")
        tf.identity(build(x), name=name)
    return graph.as_graph_def()


def write_frozen_graph(tf: Any, path: Path) -> None:
    path.write_bytes(graph_of(tf, lambda x: tf.nn.softmax(x @ W)).SerializeToString())


@pytest.fixture
def only_w(tf: Any, tmp_path: Path) -> Path:
    """A SavedModel as TensorFlow 2 writes it, with names of its own."""
    write_saved_model(tf, tmp_path / "saved", "x")
    return tmp_path / "saved"


# What is served


@pytest.mark.parametrize(("name", "platform"), [("keras", "keras"), ("saved", "tensorflow_savedmodel")])
def test_keras_and_saved_models_keep_the_contract(models: Any, name: str, platform: str) -> None:
    predictor = Predictors(models.store).get(name).predictor
    check_predictor(predictor, X, TRUTH)
    assert predictor.platform == platform
    assert predictor.labels == ["a", "b", "c"]
    assert predictor.keys is None
    rows = predictor.rows(parse_request(b'{"keys": ["what", "ever"], "values": [1, 2, 3, 4, 5]}'))
    assert (rows.matrix.tolist(), rows.many) == ([[1, 2, 3, 4, 5]], False)


def test_importing_the_predictors_imports_no_framework() -> None:
    frameworks = {"tensorflow", "keras", "PIL", "h5py"}
    code = f"import sys, mlaas4hep.serving.models.predictor; print({frameworks} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout == "set()\n"


def test_a_saved_model_is_found_by_its_signature_where_the_stock_names_are_missing(only_w: Path) -> None:
    model = saved_model(only_w, "", "", 0)
    np.testing.assert_allclose(model.run(X), TRUTH, rtol=1e-5)
    assert model.layout.tensor == ("serving_default_x", (5,))
    assert model.output.shape == (3,)


def test_the_stock_output_of_another_signature_is_not_used(keras: Any, models: Any, tmp_path: Path) -> None:
    """Keras 3 writes `serve` first, and StatefulPartitionedCall is its output."""
    models.keras.export(tmp_path / "saved", verbose=False)
    model = saved_model(tmp_path / "saved", "serving_default_x", "StatefulPartitionedCall", 0)
    np.testing.assert_allclose(model.run(X), TRUTH, rtol=1e-5)
    assert model.output.name == "StatefulPartitionedCall_1"


def test_names_in_params_choose_among_the_ends_of_a_saved_model(tf: Any, tmp_path: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, (None, 5), name="x")
        w = tf.compat.v1.get_variable("w", initializer=W)
        double, triple = tf.multiply(x @ w, 2, name="double"), tf.multiply(x @ w, 3, name="triple")
        session.run(tf.compat.v1.global_variables_initializer())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "s"), {"x": x}, {"d": double, "t": triple})
    np.testing.assert_allclose(saved_model(tmp_path / "s", "x", "triple:0", 0).run(X), 3 * X @ W, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"a single input and a single output; set input_name"):
        saved_model(tmp_path / "s", "x", "treble", 0)


def test_input_and_output_of_a_frozen_graph_need_no_names_if_they_are_unique(models: Any) -> None:
    path = models.store.folder / "frozen" / "model.pb"
    np.testing.assert_allclose(frozen_graph(path, "", "", 0).run(X), TRUTH, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"no operation 'score', the output_node in params.json; closest: 'sco"):
        frozen_graph(path, "inputs", "score", 0)
    with pytest.raises(ConfigError, match=r"'inputs' of model.pb does not depend on 'scores' alone"):
        frozen_graph(path, "scores", "inputs", 0)


def test_a_frozen_graph_is_fed_in_its_middle(tf: Any, tmp_path: Path) -> None:
    """As those are that decode images themselves, and have a further operation that takes numbers."""

    def build(text: Any) -> Any:
        read = tf.io.decode_raw(tf.io.read_file(tf.strings.reduce_join(tf.strings.as_string(text))), tf.float32)
        return tf.nn.softmax(tf.reshape(tf.identity(read, name="numbers"), (-1, 5)) @ W)

    (tmp_path / "m.pb").write_bytes(graph_of(tf, build).SerializeToString())
    np.testing.assert_allclose(frozen_graph(tmp_path / "m.pb", "numbers", "scores", 0).run(X), TRUTH, rtol=1e-5)


def test_a_graph_with_loops_functions_and_state_of_old_is_run(tf: Any, keras: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((6, 2)), keras.layers.LSTM(3), keras.layers.Dense(1)])
    model.export(tmp_path / "lstm", verbose=False)
    with pytest.raises(ConfigError, match="does not have one input"):  # it gets as far as its shape
        saved_model(tmp_path / "lstm", "", "", 0)
    with tf.Graph().as_default() as graph:
        tf.compat.v1.disable_control_flow_v2()
        x = tf.compat.v1.placeholder(tf.float32, (None, 5), name="inputs")
        tf.identity(tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, 2 * y), (0, x))[1], name="scores")
        tf.compat.v1.enable_control_flow_v2()
    (tmp_path / "m.pb").write_bytes(graph.as_graph_def().SerializeToString())
    np.testing.assert_allclose(frozen_graph(tmp_path / "m.pb", "inputs", "scores", 0).run(X), 8 * X, rtol=1e-6)


def test_a_keras_model_of_many_kinds_of_layers_is_loaded(keras: Any, tmp_path: Path) -> None:
    layers, ops = keras.layers, keras.ops
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    x = layers.BatchNormalization()(layers.Dense(8, keras.ops.gelu, kernel_regularizer="l2")(inputs))
    x = layers.Dropout(0.5)(layers.LeakyReLU()(x)) * 2.0 + ops.sqrt(ops.abs(x))
    x = layers.Concatenate()([x, ops.einsum("ij,jk->ik", inputs, ops.ones((5, 2)))[:, :1], ops.cast(x, "float32")])
    x = layers.Bidirectional(layers.LSTM(3))(layers.Reshape((17, 1))(x))
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(4, layers.LeakyReLU(0.1))])
    inner.compile("adam", "mse")
    model = keras.Model(inputs, layers.Softmax()(inner(x)))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.save(tmp_path / "m.keras")
    loaded = KerasModel(tmp_path / "m.keras", 0)
    np.testing.assert_allclose(loaded.run(X), model(X, training=False), rtol=1e-4)
    assert loaded.output.shape == (4,)


def test_a_bundle_of_both_kinds_is_run_as_onnx(models: Any) -> None:
    folder = write_bundle(models.store.folder / "both", "both", graph=onnx_model())
    (folder / "saved_model.pb").write_bytes(b"never read")
    assert Predictors(models.store).get("both").predictor.platform == "onnxruntime_onnx"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (
            "model.h5",
            r"has the unsupported file 'model.h5'; supported are .*; save it as .keras: model.save\('model.ke",
        ),
        (
            "model.pkl",
            r"has the unsupported file 'model.pkl'; supported are .onnx, .keras, frozen .* and SavedModels$",
        ),
    ],
)
def test_the_error_for_an_unsupported_model_file_lists_the_supported_ones(
    models: Any, tmp_path: Path, file: str, reason: str
) -> None:
    store = ModelStore(tmp_path / "models")
    write_bundle(store.folder / "htautau", graph=b"\x80\x04", model=file)
    with pytest.raises(ConfigError, match=reason):
        Predictors(store).get("htautau")


def test_the_error_without_tensorflow_says_how_to_install_it(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # simulate that it is not installed
    with pytest.raises(PackageMissing, match=r"need the package 'tensorflow', .*pip install 'mlaas4hep\[keras\]'"):
        Predictors(models.store).get("frozen")


# What a process of a model is spared, and spares the server


def children(of: int) -> list[psutil.Process]:
    return psutil.Process(of).children()


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "it did not happen"


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_dies_is_one_error_and_is_replaced_and_ends_with_its_model(models: Any, tmp_path: Path) -> None:
    """And a frozen graph keeps the contract, in the process that comes after."""
    store = ModelStore(tmp_path / "models")
    shutil.copytree(models.store.folder / "frozen", store.folder / "frozen")
    before, predictors = children(psutil.Process().pid), Predictors(store)
    first = predictors.get("frozen").predictor
    (process,) = set(children(psutil.Process().pid)) - set(before)
    process.send_signal(signal.SIGSEGV)
    wait_for(lambda: not first.alive)
    with pytest.raises(ServiceError, match="the model's process died by SIGSEGV; try again: it is restarted"):
        first.predict(X)
    check_predictor(predictors.get("frozen").predictor, X, TRUTH)
    assert predictors.get("frozen").predictor.platform == "tensorflow_graphdef"
    (process,) = set(children(psutil.Process().pid)) - set(before)
    shutil.rmtree(store.folder / "frozen")
    write_bundle(store.folder / "frozen", "frozen", graph=onnx_model())
    wait_for(lambda: predictors.get("frozen").predictor.platform == "onnxruntime_onnx")
    wait_for(lambda: has_ended(process))


@pytest.fixture(scope="module")
def endless(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen graph that never ends for the number 7, so that trial runs do not find that out."""
    graph = graph_of(
        tf, lambda x: tf.while_loop(lambda y: tf.reduce_all(tf.equal(y, 7.0)), lambda y: [y * 1.0], [x])[0], 1
    )
    path = tmp_path_factory.mktemp("endless") / "model.pb"
    path.write_bytes(graph.SerializeToString())
    return path


def test_a_model_that_hangs_is_stopped_and_one_error(endless: Path) -> None:
    model = ModelSource("frozen_graph", str(endless), "inputs", "scores")
    with pytest.raises(LoadFailed, match=r"takes longer than 0.001 s to load, and was stopped"):
        SubprocessPredictor(model, limits=ModelLimits(load_time=0.001))
    predictor = SubprocessPredictor(model, limits=ModelLimits(run_time=1))
    assert predictor.predict(np.full((1, 1), 2e30, np.float32)).tolist() == [[float(np.float32(2e30))]]
    with pytest.raises(ServiceError, match=r"exceeded its time limit of 1 s and was stopped"):
        predictor.predict(np.full((1, 1), 7, np.float32))
    assert not predictor.alive


def test_a_process_ends_with_a_server_that_is_killed_in_the_middle_of_a_prediction(
    endless: Path, tmp_path: Path
) -> None:
    folder = write_bundle(tmp_path / "models" / "endless", "endless", endless.read_bytes(), model="model.pb")
    (folder / "params.json").write_text(json.dumps(params("endless", "model.pb")))
    server = Server.start(tmp_path / "models")
    try:
        ask = {"values": [2e30], "model": "endless"}
        assert requests.post(f"{server.url}/json", json=ask, timeout=120).json() == [2e30]
        (process,) = children(server.process.pid)
        assert all("tensorflow" not in one.path for one in psutil.Process(server.process.pid).memory_maps())
        body = json.dumps({"values": [7], "model": "endless"}).encode()
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + body)
            busy = process.cpu_times().user + 0.3
            wait_for(lambda: process.cpu_times().user > busy)
            server.process.kill()
            wait_for(lambda: has_ended(process))
    finally:
        server.stop()


# What a model may not do


def attack(layer: dict[str, Any]) -> bytes:
    """Return the config.json of a Sequential model with a layer in it."""
    inputs = {"module": "keras.layers", "class_name": "InputLayer", "config": {"batch_shape": [None, 5]}}
    config = {"name": "s", "layers": [inputs, layer]}
    return json.dumps({"module": "keras", "class_name": "Sequential", "config": config}).encode()


def function(module: str, name: str, **more: Any) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name, **more}


def layer(name: str, module: str | None = "keras.layers", **config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


ATTACKS = {
    "Lambda": layer("Lambda", function={"class_name": "__lambda__", "config": {"value": "4wEAAA=="}}),
    "TFSMLayer": layer("TFSMLayer", filepath="/tmp/other"),
    "TorchModuleWrapper": layer("TorchModuleWrapper", module="gASV"),
    "JaxLayer": layer("JaxLayer", call_fn=None),
    "FlaxLayer": layer("FlaxLayer"),
    "StringLookup": layer("StringLookup", vocabulary="/etc/passwd"),
    "IntegerLookup": layer("IntegerLookup", vocabulary="/etc/passwd"),
    "TextVectorization": layer("TextVectorization", vocabulary="/etc/passwd"),
    "system": layer("Dense", activation=function("os", "system")),
    "get_file": layer("Dense", activation=function("keras.utils", "get_file")),
    "load_model": layer("Dense", activation=function("keras.models", "load_model")),
    "enable_unsafe_deserialization": layer("Dense", x=[function("keras.config", "enable_unsafe_deserialization")]),
    "deserialize": layer("Dense", activation=function("keras.activations", "deserialize")),
    "__lambda__": layer("__lambda__", None, value="4wEAAA=="),
    "__typespec__": {**layer("__typespec__", "tensorflow"), "spec_name": "TensorSpec"},
    "Popen": layer("Popen", "subprocess", args="id"),
    "Mine": layer("Mine", "my_package"),
    "While": layer("WhileLoop", "keras.src.ops.core"),
    "no module": {"class_name": "Dense", "config": {}},
    "registered": {**layer("Dense"), "registered_name": "package>Lambda"},
    "lower case": layer("deserialize", "keras.initializers"),
    "no name": layer(["Dense"]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_keras_config_with_anything_but_layers_of_keras_is_refused(name: str) -> None:
    for content in (attack(ATTACKS[name]), attack(layer("TimeDistributed", layer=ATTACKS[name]))):
        with pytest.raises(ConfigError, match=r"m.keras has .*, which is not allowed: only Keras's own layers"):
            checked_config(content, "m.keras")
    checked_config(attack(layer("Dense", units=3)), "m.keras")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_keras_config_that_is_not_json_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"config.json of m.keras is not JSON"):
        checked_config(content, "m.keras")


def test_losses_and_optimizers_are_not_even_looked_at() -> None:
    compiled = {**layer("Dense", units=1), "compile_config": {"loss": function("my", "loss")}}
    (_, dense) = checked_config(attack(compiled), "m.keras")["config"]["layers"]
    assert dense["compile_config"] is None


def archive_of(path: Path, source: Path, changes: dict[str, bytes | None], compression: int = 0) -> Path:
    """Write a copy of a zip archive with some members changed, added, or left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in {**dict.fromkeys(old.namelist()), **changes}:
            content = changes[name] if name in changes else old.read(name)
            if content is not None:
                new.writestr(name, content)
    return path


def weights(write: Callable[[Any], None]) -> bytes:
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write(file)
    return content.getvalue()


def test_keras_weights_that_lie_elsewhere_or_are_larger_than_the_file_are_refused(models: Any, tmp_path: Path) -> None:
    import h5py

    source = models.store.folder / "keras" / "model.keras"
    secret = str(tmp_path / "secret.h5")
    Path(secret).write_bytes(weights(lambda file: file.create_dataset("a", data=W)))
    virtual = h5py.VirtualLayout(W.shape, "f4")
    virtual[:] = h5py.VirtualSource(secret, "a", W.shape)
    cases: dict[str, Callable[[Any], Any]] = {
        "linked": lambda file: file.__setitem__("linked", h5py.ExternalLink(secret, "a")),
        "soft": lambda file: file.__setitem__("soft", h5py.SoftLink("/elsewhere")),
        "deep/external": lambda file: file.create_dataset("deep/external", (4,), "f4", external=[(secret, 0, 16)]),
        "virtual": lambda file: file.create_virtual_dataset("virtual", virtual),
        "huge": lambda file: file.create_dataset("huge", (1 << 40,), "f4", chunks=(1024,)),
        "packed": lambda file: file.create_dataset("packed", data=W, chunks=True, compression="gzip"),
        "text": lambda file: file.create_dataset("text", data="what"),
    }
    for name, write in cases.items():
        path = archive_of(tmp_path / f"{name.replace('/', '')}.keras", source, {"model.weights.h5": weights(write)})
        with (
            pytest.raises(ConfigError, match=f"the weight '{name}' of .* is not plain numbers stored in the file"),
            checked_archive(path),
        ):
            pass


def test_a_file_with_the_name_but_not_the_content_of_a_keras_file_is_refused(models: Any, tmp_path: Path) -> None:
    source = models.store.folder / "keras" / "model.keras"
    (tmp_path / "text.keras").write_bytes(b"no zip")
    (tmp_path / "half.keras").write_bytes(source.read_bytes()[:1000])
    cases = [
        (tmp_path / "text.keras", "text.keras is not a .keras file, or is damaged"),
        (tmp_path / "half.keras", "half.keras is not a .keras file, or is damaged"),
        (archive_of(tmp_path / "a.keras", source, {"assets/vocabulary.txt": b"x"}), "has other members than"),
        (archive_of(tmp_path / "n.keras", source, {"model.weights.h5": None}), "has other members than"),
        (archive_of(tmp_path / "z.keras", source, {}, zipfile.ZIP_DEFLATED), "is compressed, but Keras writes"),
        (archive_of(tmp_path / "w.keras", source, {"model.weights.h5": b"x"}), "the weights of w.keras are damaged"),
        (
            archive_of(tmp_path / "c.keras", source, {"config.json": attack(layer("Dense", u=1))}),
            "is not a model that",
        ),
    ]
    for path, reason in cases:
        with pytest.raises(ConfigError, match=reason) as caught:
            KerasModel(path, 0)
        assert str(tmp_path) not in str(caught.value)


def call(tf: Any, body: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what calls the body as a function of the graph."""
    return tf.function(body, input_signature=[tf.TensorSpec((None, 5), tf.float32)])


def bad_graphs(tf: Any, tmp_path: Path) -> dict[str, Callable[[Any], Any]]:
    ops, place = tf.raw_ops, str(tmp_path / "f")

    def after(effect: Callable[[], Any]) -> Callable[[Any], Any]:
        def build(x: Any) -> Any:
            with tf.control_dependencies([effect()]):
                return tf.identity(x)

        return build

    def read(x: Any) -> Any:
        return x + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32)

    return {
        "ReadFile": read,
        "WriteFile": after(lambda: ops.WriteFile(filename=place, contents="x")),
        "MatchingFiles": lambda x: x + tf.cast(tf.size(ops.MatchingFiles(pattern="/etc/*")), tf.float32),
        "PyFunc": lambda x: tf.numpy_function(lambda y: y, [x], tf.float32),
        "DebugIdentityV2": lambda x: ops.DebugIdentityV2(input=x, debug_urls=[f"file://{place}"]),
        "ImmutableConst": lambda x: x + ops.ImmutableConst(dtype=tf.float32, shape=(5,), memory_region_name=place),
        "PrintV2": after(lambda: ops.PrintV2(input="x", output_stream=f"file://{place}")),
        "SaveV2": after(lambda: ops.SaveV2(prefix=place, tensor_names=["a"], shape_and_slices=[""], tensors=[[1.0]])),
        "RestoreV2": lambda x: x + ops.RestoreV2(
            prefix=place, tensor_names=["w"], shape_and_slices=[""], dtypes=[tf.float32])[0],
        "TextLineDataset": after(lambda: ops.TextLineDataset(filenames=[place], compression_type="", buffer_size=1)),
        "HashTableV2": after(lambda: ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)),
        "DecodeProtoV2": lambda x: x + tf.cast(ops.DecodeProtoV2(
            bytes=[""], message_type="a", field_names=["b"], output_types=[tf.int32], descriptor_source=place,
        ).sizes[0], tf.float32),
        "ReadFile in a function": call(tf, read),
        "ReadFile in a function of a function": call(tf, lambda x: call(tf, read)(x)),
        "ReadFile in a branch": lambda x: tf.cond(tf.reduce_all(x > 0), lambda: read(x), lambda: x),
        "ReadFile in a loop": lambda x: tf.while_loop(lambda y: tf.reduce_all(y > 0), lambda y: [read(y)], [x])[0],
    }  # fmt: skip


def test_a_graph_that_does_more_than_compute_is_refused(tf: Any, tmp_path: Path) -> None:
    for name, build in bad_graphs(tf, tmp_path).items():
        graph = graph_of(tf, build)
        with pytest.raises(
            ConfigError, match=f"has the operation '{name.split()[0]}', which this server does not allow"
        ):
            pruned(graph, ["inputs", "scores"], "inputs")
        other = graph_of(tf, lambda x: tf.identity(x, name="y"), name="fine")
        graph.node.extend(node for node in other.node if node.name not in ("inputs", "scores"))
        kept = pruned(graph, ["fine"], "inputs")  # what is not fetched may be anything
        assert [node.name for node in kept.node] == ["fine", "inputs", "y"]
        assert not kept.library.function
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_graph_is_refused(tf: Any, tmp_path: Path) -> None:
    graph = graph_of(tf, lambda x: tf.cond(tf.reduce_all(x > 0), lambda: x, lambda: -x))
    del graph.library.function[0]
    with pytest.raises(ConfigError, match="the graph has no function"):
        pruned(graph, ["scores"], "inputs")
    graph = graph_of(tf, lambda x: x + 1)
    graph.node[-1].input[0] = "nothing"
    with pytest.raises(ConfigError, match="the graph has no operation 'nothing'"):
        pruned(graph, ["scores"], "inputs")
    graph = graph_of(tf, lambda x: x + 1)
    graph.node[-1].op = "NobodysOp"
    with pytest.raises(ConfigError, match="has the operation 'NobodysOp'"):
        pruned(graph, ["scores"], "inputs")
    (tmp_path / "m.pb").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"m.pb is not a frozen graph of TensorFlow"):
        frozen_graph(tmp_path / "m.pb", "", "", 0)


def edited(folder: Path, edit: Callable[[Any], None]) -> Path:
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    content = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    edit(content.meta_graphs[0])
    path.write_bytes(content.SerializeToString())
    return folder


def test_a_saved_model_restores_no_variables_but_its_own(tf: Any, only_w: Path, tmp_path: Path) -> None:
    secret = tf.Module()
    secret.w = tf.Variable(np.full_like(W, 42), name="w")
    elsewhere = tf.train.Checkpoint(w=secret.w).write(str(tmp_path / "secret"))

    def point_elsewhere(meta: Any) -> None:
        for function in meta.graph_def.library.function:
            for node in [node for node in function.node_def if node.op == "RestoreV2"]:
                prefix = function.node_def.add(name="elsewhere", op="Const")
                prefix.attr["dtype"].type = 7
                prefix.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(elsewhere))
                node.input[0] = "elsewhere:output:0"

    np.testing.assert_allclose(saved_model(edited(only_w, point_elsewhere), "", "", 0).run(X), TRUTH, rtol=1e-5)


def test_a_saved_model_that_initialises_more_than_itself_is_refused(tf: Any, only_w: Path, tmp_path: Path) -> None:
    def write_a_file(meta: Any) -> None:
        writes = graph_of(tf, bad_graphs(tf, tmp_path)["WriteFile"], name="writes")
        meta.graph_def.node.extend(writes.node)
        meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "writes"

    with pytest.raises(ConfigError, match="the graph has the operation 'WriteFile'"):
        saved_model(edited(only_w, write_a_file), "", "", 0)
    assert not (tmp_path / "f").exists()


def test_a_saved_model_without_its_variables_is_refused(only_w: Path) -> None:
    (only_w / "variables" / "variables.index").unlink()
    with pytest.raises(ConfigError, match=r"the SavedModel is not a graph that TensorFlow .* can load"):
        saved_model(only_w, "", "", 0)
    (only_w / "saved_model.pb").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"saved_model.pb is not a graph of TensorFlow, or is damaged"):
        saved_model(only_w, "", "", 0)
