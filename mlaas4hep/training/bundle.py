"""One directory for each trained model: everything that inference, or a colleague, needs.

    write_bundle("model", trained)

    model.onnx      raw branch values → probabilities, normalisation and padding inside the graph
    model.keras | model.pt      the model in its framework's own format
    model.py        the model file
    specs.json, preproc.json | preproc.py    what one pass over the data learnt; new branches and cuts, if any
    training.json   files, labels, parameters, versions
    metrics.json, epochs.csv    figures of every epoch and of the test part; every epoch as a table
    folds/0, ...    with `kfold`, the model, its graph and its specs that never saw fold 0; model.onnx is their mean
    labels.txt, params.json, upload.json    what a TFaaS server is told
    assets/, variables/, saved_model.pb    the graph as SavedModel, which a stock TFaaS server runs
    model.pb, params_tfaas.json, upload_tfaas.json    the same as a frozen graph, for its form
    model_quantized.onnx, params_quantized.json, upload_quantized.json    of images, if asked for: the same in 8 bits
    example.json    a few events of the test part with their true labels, as tfaas_client.py --predict takes them
    report.html     the run for people

A bundle appears whole or not at all; loading one never unpickles anything.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import mlaas4hep
from mlaas4hep import console
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, first_line, require
from mlaas4hep.files import new_directory, write_json
from mlaas4hep.signing import sign
from mlaas4hep.stream import BatchSource
from mlaas4hep.training.backend import Backend
from mlaas4hep.training.content import Content
from mlaas4hep.training.destination import is_bundle
from mlaas4hep.training.logs import EpochLog
from mlaas4hep.training.loop import History, Scored
from mlaas4hep.training.metrics import auc_uncertainty, effective_events
from mlaas4hep.training.model_file import ModelFile
from mlaas4hep.training.report import write_report
from mlaas4hep.training.saved_model import FETCHED, SERVED
from mlaas4hep.training.task import TOLERANCE

COMPARED, EXAMPLES = 400, 8
"""Events whose scores are compared, and those that a bundle brings along."""

ALONE = 5
"""Events of these that are scored one by one, too."""

MORE_FIGURES = ("auc_uncertainty", "events")
"""What metrics.json has of the test part beside the figures of a task and the model file's own metrics."""


@dataclass(frozen=True)
class Fit:
    """One model that was trained.

    Attributes:
        source: of the events as the model saw them.
        history: figures of every epoch.
        train, valid, test: scores of the parts, by the weights of the best epoch.
    """

    backend: Backend
    source: BatchSource
    history: History
    train: Scored
    valid: Scored
    test: Scored

    def metrics(self) -> dict[str, Any]:
        """Return figures of both parts and of every epoch."""
        return {
            "test": _finite({**self.test.figures(), "events": len(self.test.y)}),
            "train": _finite(self.train.figures()),
            "best_epoch": self.history.best,
            "epochs": [_finite(epoch) for epoch in self.history.to_json()],
        }


@dataclass(frozen=True)
class Trained:
    """A model, or one for each fold, and the run that it came from.

    Attributes:
        name: of the model on a server.
        source: of the whole sample.
        content: what is said of it.
        fits: the one model, or one for each fold.
        key: names events, parameters and model file.
        more: what the model file's own `metrics` say of the test part.
    """

    name: str
    file: ModelFile
    source: BatchSource
    content: Content
    fits: tuple[Fit, ...]
    key: str
    more: dict[str, float] = field(default_factory=dict)

    @property
    def backend(self) -> Backend:
        """The model; of folds the first one."""
        return self.fits[0].backend

    @property
    def folds(self) -> bool:
        """Whether there is a model for each fold."""
        return bool(self.source.params.kfold)

    @cached_property
    def test(self) -> Scored:
        """Scores of the test part; of folds every event, scored by the model that did not see it."""
        parts = [fit.test for fit in self.fits]
        y, scores, weight = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("y", "scores", "weight")
        )
        return Scored(y, scores, weight, parts[0].task)

    def metrics(self) -> dict[str, Any]:
        """Return the content of metrics.json."""
        test: dict[str, float | int] = {**self.test.figures(), **self.more}
        if len(self.source.labels.classes) == 2 and self.test.task.name == "classification":
            background, signal = (effective_events(self.test.weight[self.test.y == label]) for label in (0, 1))
            test["auc_uncertainty"] = auc_uncertainty(test["auc"], signal, background)
        test["events"] = len(self.test.y)
        folds = {"folds": [fit.metrics() for fit in self.fits]} if self.folds else {}
        return {**self.fits[0].metrics(), "test": _finite(test), **folds}


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    """Return figures with None for what is no number, as the AUC of a part without one of the classes."""
    return {key: value if np.isfinite(value) else None for key, value in figures.items()}


def model_name(path: Path, name: str = "") -> str:
    """Return the model's name on a server: the one given, or the folder's with all but letters and digits as `_`."""
    return name or re.sub(r"[^A-Za-z0-9_]+", "_", path.resolve().name).strip("_") or "model"


def write_bundle(path: Path, trained: Trained, log: EpochLog, signing_key: Any = None) -> None:
    """Write a bundle, replacing one that is there.

    Args:
        signing_key: private key that signs the ONNX files; None: they are not signed.

    Raises:
        ConfigError: the model cannot be had as ONNX; the bundle is there all the same, without what a server needs.
        FileUnreadable: the folder cannot be written.
    """
    content, problem, more = trained.content, "", {}
    example = content.example(trained.name, EXAMPLES)
    with new_directory(path, alone=True, is_ours=is_bundle) as folder:
        training = _training(trained, _save_models(folder, trained))
        (folder / "model.py").write_text(trained.file.source, encoding="utf-8")
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
        except Exception as error:  # whatever an exporter raises, the trained model must not be lost
            (folder / "model.onnx").unlink(missing_ok=True)
            problem = str(error) if isinstance(error, MLaaS4HEPError) else first_line(error)
        else:
            write_json(folder / "params.json", tfaas_params(trained, "model.onnx"))
            write_json(folder / "upload.json", upload_spec(trained, "model.onnx", "params.json"))
            _write_for_tfaas(folder, trained)
            more = content.after_graph(folder, trained)
            for graph in sorted(folder.rglob("*.onnx")) if signing_key else ():
                sign(graph, signing_key)
        write_json(folder / "metrics.json", {**trained.metrics(), **more})
    log.remove()
    if problem and training["model"]:
        raise ConfigError(f"the trained model is in {path}, but it cannot be served, for want of ONNX: {problem}")
    if problem:
        raise ConfigError(f"{path} has the figures, but no model, which could be kept as ONNX alone: {problem}")


def _save_models(folder: Path, trained: Trained) -> str:
    """Write the models in the framework's own format; return the name of the file, of folds that in each folder."""
    if not trained.folds:
        return trained.backend.save(folder)
    for fold, fit in enumerate(trained.fits):
        mine = folder / "folds" / str(fold)
        mine.mkdir(parents=True)
        name = fit.backend.save(mine)
        trained.content.write(mine, fold)
    return name


def _write_onnx(folder: Path, trained: Trained) -> None:
    """Write the graph of the model; of folds that of each, and their mean."""
    onnx = require("onnx", "keras", "writing ONNX")
    from mlaas4hep.training import onnx_graph

    def describe(graph: Any, path: Path) -> None:
        about = {"mlaas4hep.name": trained.name, **trained.content.metadata()}
        onnx_graph.describe(graph, trained.source.labels.classes, about)
        onnx.save(graph, str(path))

    graphs, expected = [], []
    for fold, fit in enumerate(trained.fits):
        path = folder / (f"folds/{fold}/model.onnx" if trained.folds else "model.onnx")
        fit.backend.export(path)
        network = onnx.load(str(path))
        graphs.append(trained.content.graph(network, fit.backend.takes, fold))
        describe(graphs[-1], path)
        expected.append(_scores_of_examples(fit, trained))
        _check_onnx(path, trained, expected[-1])
    if trained.folds:
        describe(onnx_graph.mean(graphs), folder / "model.onnx")
        _check_onnx(folder / "model.onnx", trained, np.stack(expected).mean(axis=0))


def _write_for_tfaas(folder: Path, trained: Trained) -> None:
    """Write what a stock TFaaS server takes: the folder as SavedModel, and a frozen graph to upload by form."""
    if not trained.source.params.tfaas:
        return  # a server of ours needs none of it
    if importlib.util.find_spec("tensorflow") is None:
        console.notice(
            "the bundle is for our own server alone, and not for stock TFaaS, for want of TensorFlow; install it:"
            " pip install 'mlaas4hep[keras]', or set 'tfaas' to false in the params"
        )
        return
    from mlaas4hep.training.saved_model import write_frozen_graph, write_saved_model

    try:
        write_frozen_graph(folder / "model.onnx", folder / "model.pb")
        write_saved_model(folder / "model.onnx", folder)
    except ConfigError as error:
        console.notice(f"the bundle is for our own server alone, and not for stock TFaaS: {error}")
        for name in ("assets", "variables"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("model.pb", "saved_model.pb"):
            (folder / name).unlink(missing_ok=True)
        return
    write_json(folder / "params_tfaas.json", tfaas_params(trained, "model.pb"))
    write_json(folder / "upload_tfaas.json", upload_spec(trained, "model.pb", "params_tfaas.json"))


def _scores_of_examples(fit: Fit, trained: Trained) -> np.ndarray:
    """Return the framework's scores of some events.

    Raises:
        ConfigError: it gives other scores for an event alone, as clients send them, than among others.
    """
    events = fit.source.examples(COMPARED, part=None)
    scores = fit.backend.predict(events.inputs)
    alone = [fit.backend.predict(events[row : row + 1].inputs) for row in range(min(ALONE, len(events)))]
    worst = trained.test.task.difference(np.concatenate(alone), scores[:ALONE])
    if not worst <= TOLERANCE:
        raise ConfigError(
            f"the model of {trained.file.path} gives an event alone other scores than among others, by up to"
            f" {worst:.2g}",
            hint="they must depend on nothing but the event: on no mean over the batch, on nothing random",
        )
    return scores


def _check_onnx(path: Path, trained: Trained, expected: np.ndarray) -> None:
    """Compare the graph's scores for raw events, also one by one, with the framework's for the same events."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return  # an extra of the server; the tests compare in any case
    raw = trained.content.raw(COMPARED)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = [raw, *(raw[row : row + 1] for row in range(min(ALONE, len(raw))))]
    found = np.concatenate([session.run(["scores"], {"inputs": each})[0] for each in rows])
    worst = trained.test.task.difference(found, np.concatenate([expected, expected[:ALONE]]))
    if not worst <= TOLERANCE:
        raise ConfigError(
            f"the ONNX graph of {trained.file.path} gives other scores than the model, by up to {worst:.2g}",
            hint="the model may do something random, or that ONNX cannot express, when it predicts",
        )


def _training(trained: Trained, model: str) -> dict[str, Any]:
    packages = ["mlaas4hep", "numpy", *trained.content.packages, *_packages(trained.backend.framework)]
    return {
        "format": 1,
        "mlaas4hep": mlaas4hep.__version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "name": trained.name,
        "framework": trained.backend.framework,
        "model": model,
        "model_file": trained.file.path.name,
        "size": trained.backend.size(),
        "key": trained.key,
        "task": trained.test.task.name,
        "folds": trained.source.params.kfold,
        "outputs": trained.backend.outputs,
        "command": sys.argv,
        "params": trained.source.params.model_dump(),
        "classes": list(trained.source.labels.classes),
        "inputs": {name: list(shape) for name, shape in trained.source.shapes.items()},
        **trained.content.about(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
    }


def _packages(framework: str) -> list[str]:
    """Return what computes: of Keras also what it computes with."""
    if framework == "keras":
        return ["keras", sys.modules["keras"].backend.backend()]
    return ["torch"] if framework == "pytorch" else [framework]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def tfaas_params(trained: Trained, model: str, name: str = "") -> dict[str, Any]:
    """Return params.json for a server, with the file of the model and, where it is another one, its name."""
    classes = ", ".join(trained.source.labels.classes)
    return {
        "name": name or trained.name,
        "model": model,
        "labels": "labels.txt",
        "description": f"{trained.backend.framework}, {trained.file.path.name}, classes {classes}",
        "timestamp": time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime()),
        "options": [],
        "op": "",
        "img_channels": trained.content.channels,
        **_fed_with_images(trained, model),
        "input_node": "inputs",
        "output_node": "scores",
        "inputNode": "inputs",
        "outputNode": "scores",
    }


def _fed_with_images(trained: Trained, model: str) -> dict[str, str]:
    """Return what a stock server feeds and fetches; of the folder that it takes for a SavedModel that one's names."""
    if trained.content.channels and not model.endswith(".pb"):
        return {"input_name": f"serving_default_{SERVED}", "output_name": FETCHED}
    return {"input_name": "inputs", "output_name": "scores"}


def upload_spec(trained: Trained, model: str, params: str, name: str = "") -> dict[str, str]:
    """Return upload.json for the client; see `tfaas_params`."""
    return {"model": model, "labels": "labels.txt", "name": name or trained.name, "params": params}
