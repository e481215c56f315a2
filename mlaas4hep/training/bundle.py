"""Bundles: one directory per trained model, with everything that inference needs.

    write_bundle("model", trained)

    model.onnx      raw branch values → probabilities, normalisation and padding inside the graph
    model.keras | model.pt      the model in its framework's own format
    model.py        the model file
    model_code/     the model file with the modules that it imports, if there are any
    specs.json, preproc.json | preproc.py    statistics of the sample; new branches and cuts, if any
    training.json   files, labels, parameters, versions
    reweighting.json    histograms and factors of the training set, if it is reweighted; with `kfold` of each fold
    skipped.json    files that could not be read and were left out, if any
    metrics.json, epochs.csv    metrics of every epoch and of the test set; every epoch as a table
    folds/0, ...    with `kfold`: the model that was not trained on fold 0, its graph and specs; model.onnx is the mean
    labels.txt, params.json, upload.json    input of tfaas_client.py --upload
    assets/, variables/, saved_model.pb    the graph as SavedModel, for stock TFaaS servers
    model.pb, params_tfaas.json, upload_tfaas.json    the graph as frozen graph, for the upload form of stock TFaaS
    model_quantized.onnx, params_quantized.json, upload_quantized.json    for images, optional: the 8-bit model
    example.json    a few events of the test set with their labels, as input of tfaas_client.py --predict
    report.html     a human-readable report of the run
    export_error.txt    why the model was not exported to ONNX; then all graphs and the files for servers are missing
    model.pickle    only for an estimator of scikit-learn that was not exported

A bundle is written atomically. Loading a bundle never unpickles anything.
"""

from __future__ import annotations

import importlib.util
import pickle
import platform
import re
import shutil
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.backends.model_file import CODE_FOLDER, MODEL_PY, ModelFile
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, error_summary, require
from mlaas4hep.files import new_directory, write_json
from mlaas4hep.io.storage.location import redacted
from mlaas4hep.onnx_to_tf.saved_model import FETCHED, SERVED
from mlaas4hep.protocol.missing_value import to_options
from mlaas4hep.protocol.params import EXPORT_ERROR
from mlaas4hep.report.run_page import write_report
from mlaas4hep.signing import sign
from mlaas4hep.training.checked_export import check_scores, export_checked
from mlaas4hep.training.compared_events import common_events
from mlaas4hep.training.destination import is_bundle
from mlaas4hep.training.logs import EpochLog
from mlaas4hep.training.trained import TrainedModel
from mlaas4hep.version import __version__
from mlaas4hep.write_errors import write_errno

PICKLE = "model.pickle"
"""Name of the file of an estimator that cannot be exported; this package never reads it."""

EXAMPLE_EVENTS = 8
"""Number of events in example.json."""


def model_name(path: Path, name: str = "") -> str:
    """Return the name of the model on a server: `name`, or that of the folder, with other characters replaced by `_`.

    The ending of a folder such as model.pb, as users of the original name their models, is not part of the name.
    """
    return name or re.sub(r"[^A-Za-z0-9_]+", "_", path.resolve().name.removesuffix(".pb")).strip("_") or "model"


def write_bundle(path: Path, trained: TrainedModel, log: EpochLog, signing_key: Any = None) -> None:
    """Write a bundle, replacing an existing one.

    Args:
        signing_key: private key that signs the ONNX files; None: they are not signed.

    Raises:
        ConfigError: the ONNX export of an estimator of scikit-learn failed. The bundle is written nevertheless, with a
            pickle and without the files for servers. Bundles of other models have the model in its own format.
        FileUnreadable: the folder cannot be written.
    """
    content, problem, derived = trained.content, "", {}
    example = content.example(trained.name, EXAMPLE_EVENTS)
    with new_directory(path, exclusive=True, is_ours=is_bundle) as folder:
        training = _training(trained, _save_models(folder, trained))
        _write_code(folder, trained.file)
        labels = "".join(f"{label}\n" for label in trained.source.labels.classes)
        (folder / "labels.txt").write_text(labels, encoding="utf-8")
        content.write(folder)
        (folder / "epochs.csv").write_text(log.text(), encoding="utf-8")
        write_json(folder / "training.json", training)
        if example is not None:
            write_json(folder / "example.json", example)
        write_report(folder / "report.html", trained, training)
        try:
            _write_onnx(folder, trained)
        except Exception as error:  # the trained model must not be lost, whatever an exporter raises
            if write_errno(error):  # not a failed export: without its graph the bundle would look complete
                raise
            problem = str(error) if isinstance(error, MLaaS4HEPError) else error_summary(error)
            _write_without_graph(folder, trained, problem)
        else:
            write_json(folder / "params.json", tfaas_params(trained, "model.onnx"))
            write_json(folder / "upload.json", upload_spec(trained, "model.onnx", "params.json"))
            _write_for_tfaas(folder, trained)
            derived = content.write_derived(folder, trained)
            if signing_key is not None:
                sign_bundle(folder, signing_key)
        write_json(folder / "metrics.json", {**trained.metrics(), **derived})
    log.remove()
    if problem and training["model"]:
        console.notice(f"the bundle cannot be served, because the model was not exported to ONNX: {problem}")
    elif problem:
        pickled = (path / PICKLE).exists()
        raise ConfigError(
            f"{path} contains the metrics, but not the model as ONNX: {problem}",
            hint=f"the trained estimator is in {PICKLE}, for your own programs" if pickled else "",
        )


def _write_code(folder: Path, file: ModelFile) -> None:
    """Write the model file; if it has other files, also write it beside them, so that it can import them."""
    (folder / MODEL_PY).write_text(file.source, encoding="utf-8")
    helpers = file.helpers()
    for name, content in ({MODEL_PY: file.source.encode(), **helpers} if helpers else {}).items():
        path = folder / CODE_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _write_without_graph(folder: Path, trained: TrainedModel, problem: str) -> None:
    """Write why there is no graph, remove incomplete ones, and pickle models that have no other format."""
    for graph in folder.rglob("*.onnx"):
        graph.unlink()
    (folder / EXPORT_ERROR).write_text(f"{problem}\n", encoding="utf-8")
    if not trained.backend.native_file:
        models = [getattr(fit.backend, "model", None) for fit in trained.fits]
        with suppress(Exception):  # estimators of model files may not support pickling
            (folder / PICKLE).write_bytes(pickle.dumps(models if trained.folds else models[0]))


def sign_bundle(folder: Path, key: Any) -> int:
    """Sign the ONNX files of a bundle; return the number of files that did not have this signature.

    Raises:
        ConfigError: see `signing.sign`.
        FileUnreadable: a file cannot be written.
    """
    return sum([sign(graph, key) for graph in sorted(folder.rglob("*.onnx"))])


def _save_models(folder: Path, trained: TrainedModel) -> str:
    """Write the models in the framework's own format; return the file name, which is the same for all folds."""
    if not trained.folds:
        return trained.backend.save(folder)
    for fold, fit in enumerate(trained.fits):
        fold_folder = folder / "folds" / str(fold)
        fold_folder.mkdir(parents=True)
        name = fit.backend.save(fold_folder)
        trained.content.write(fold_folder, fold)
    return name


def _write_onnx(folder: Path, trained: TrainedModel) -> None:
    """Write the ONNX graph of the model; with folds the graph of each model, and their mean."""
    onnx = require("onnx", "keras", "writing ONNX")
    from mlaas4hep.training import onnx_graph

    def save(graph: Any, path: Path) -> None:
        metadata = {"mlaas4hep.name": trained.name, **trained.content.graph_metadata()}
        onnx_graph.set_metadata(graph, trained.source.labels.classes, metadata)
        onnx.save(graph, str(path))

    exported = []
    for fold, fit in enumerate(trained.fits):
        path = folder / (f"folds/{fold}/model.onnx" if trained.folds else "model.onnx")
        exported.append(export_checked(fit.backend, trained.content, fold, trained.test.task, path))
        save(exported[-1].graph, path)
    if exported[0].undefined:
        console.notice(f"the scores of the model are not finite for {exported[0].undefined}")
    if trained.folds:
        graph = onnx_graph.mean([one.graph for one in exported])
        events = common_events([one.events for one in exported])
        scores = np.stack([one.scores[: len(events)] for one in exported]).mean(axis=0)
        check_scores(graph, events, scores, trained.test.task)
        save(graph, folder / "model.onnx")


def _write_for_tfaas(folder: Path, trained: TrainedModel) -> None:
    """Write the files for stock TFaaS servers: the folder as SavedModel, and a frozen graph for the upload form."""
    if not trained.source.params.tfaas:
        return  # our server does not need them
    if importlib.util.find_spec("tensorflow") is None:
        console.notice(
            "the bundle works only with our own server, not with stock TFaaS, because TensorFlow is not installed;"
            " install it: pip install 'mlaas4hep[keras]', or set 'tfaas' to false in the params"
        )
        return
    from mlaas4hep.onnx_to_tf.saved_model import write_frozen_graph, write_saved_model

    try:
        missing = trained.content.missing_value()
        write_frozen_graph(folder / "model.onnx", folder / "model.pb", missing)
        write_saved_model(folder / "model.onnx", folder, missing)
    except ConfigError as error:
        console.notice(f"the bundle works only with our own server, not with stock TFaaS: {error}")
        for name in ("assets", "variables"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("model.pb", "saved_model.pb"):
            (folder / name).unlink(missing_ok=True)
        return
    write_json(folder / "params_tfaas.json", tfaas_params(trained, "model.pb"))
    write_json(folder / "upload_tfaas.json", upload_spec(trained, "model.pb", "params_tfaas.json"))


def _training(trained: TrainedModel, model: str) -> dict[str, Any]:
    framework = trained.backend.framework
    packages = ["mlaas4hep", "numpy", *trained.content.packages, "torch" if framework == "pytorch" else framework]
    if framework == "keras":
        packages.append(sys.modules["keras"].backend.backend())
    return {
        "format": 1,
        "mlaas4hep": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "name": trained.name,
        "framework": framework,
        "model": model,
        "target_centre": list(trained.test.task.centre),
        "target_spread": list(trained.test.task.spread),
        "model_file": trained.file.path.name,
        "model_function": trained.file.function,
        "model_code": list(trained.file.helpers()),
        "size": trained.backend.size(),
        "key": trained.key,
        "task": trained.test.task.name,
        "folds": trained.source.params.kfold,
        "outputs": trained.backend.outputs,
        "command": [",".join(map(redacted, argument.split(","))) for argument in sys.argv],
        "params": trained.content.params(),
        "classes": list(trained.source.labels.classes),
        "inputs": {name: list(shape) for name, shape in trained.source.shapes.items()},
        **trained.content.describe(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def tfaas_params(trained: TrainedModel, model: str, name: str = "") -> dict[str, Any]:
    """Return the content of params.json for a server.

    Args:
        model: name of the model's file.
        name: name of the model on the server, if it differs from `trained.name`.
    """
    classes = ", ".join(trained.source.labels.classes)
    feed, fetch = "inputs", "scores"
    if trained.content.channels and not model.endswith(".pb"):  # stock TFaaS uses the names in the SavedModel
        feed, fetch = f"serving_default_{SERVED}", FETCHED
    return {
        "name": name or trained.name,
        "model": model,
        "labels": "labels.txt",
        "description": f"{trained.backend.framework}, {trained.file.path.name}, classes {classes}",
        "timestamp": time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime()),
        "options": to_options(trained.content.missing_value()),
        "op": "",
        "img_channels": trained.content.channels,
        "input_name": feed,
        "output_name": fetch,
        "input_node": "inputs",
        "output_node": "scores",
        "inputNode": "inputs",
        "outputNode": "scores",
    }


def upload_spec(trained: TrainedModel, model: str, params: str, name: str = "") -> dict[str, str]:
    """Return the content of upload.json for the client; see `tfaas_params`."""
    return {"model": model, "labels": "labels.txt", "name": name or trained.name, "params": params}
