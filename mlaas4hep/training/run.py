"""A whole run: files and a model file in, a bundle out.

    train_model("files.txt", "labels.txt", "ex_keras.py", Params(epochs=5), fout="model")

Printing is left to the script.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, MLaaS4HEPError
from mlaas4hep.reader import Specs
from mlaas4hep.reader.preproc import Preproc
from mlaas4hep.stream import DataGenerator
from mlaas4hep.training.backend import Backend, make_backend
from mlaas4hep.training.bundle import Trained, check_destination, model_name, write_bundle
from mlaas4hep.training.loop import Epoch, Scored, check_parts, evaluate, train
from mlaas4hep.training.model_file import ModelFile, load_model_file
from mlaas4hep.user_code import explain


def train_model(
    files: str | Sequence[str | os.PathLike[str]],
    labels: str | Sequence[object] | None,
    model: str,
    params: Params | None = None,
    *,
    fout: str | os.PathLike[str],
    specs: str | Specs | None = None,
    preproc: str | Preproc | None = None,
    started: Callable[[DataGenerator, Backend], None] | None = None,
    report: Callable[[Epoch, bool], None] | None = None,
) -> Trained:
    """Train a model file's model and write the bundle.

    What is cheap and can go wrong (the model file, the folder, the files, the labels) is looked at first.

    Args:
        files, labels, specs, preproc: see `DataGenerator`.
        model: path or name of a model file.
        fout: folder of the bundle.
        started: called when training begins.
        report: called after every epoch, with whether it is the best so far.

    Raises:
        MLaaS4HEPError: something of the above is not as it must be; the message says what to change.
    """
    params = params or Params.parse({})
    destination = Path(fout)
    check_destination(destination)
    file = load_model_file(model)
    with DataGenerator(files, labels, params, specs, preproc=preproc) as generator:
        with _explained(file):
            backend = make_backend(file, generator.shapes, len(generator.classes), params.seed)
        _own_metrics(file, _no_scores(backend.outputs))  # so that a mistake in them does not cost a training
        if started:
            started(generator, backend)
        check_parts(generator)
        with _explained(file):
            history = train(generator, backend, params, report)
        test = evaluate(generator, backend, "test")
        trained = Trained(
            model_name(destination, params.name),
            file,
            backend,
            generator,
            history,
            evaluate(generator, backend, "train"),
            test,
            _own_metrics(file, test),
        )
        write_bundle(destination, trained)
    return trained


@contextmanager
def _explained(file: ModelFile) -> Iterator[None]:
    """Say in one line what a model, loss, optimizer or training step of the user's raises."""
    try:
        yield
    except (MLaaS4HEPError, BrokenPipeError, MemoryError):
        raise
    except Exception as error:
        explain(file.path, error)


def _no_scores(outputs: int) -> Scored:
    y = np.arange(20) % 2
    return Scored(y, np.full((20, outputs), 0.5, np.float32), np.ones(20, np.float32))


def _own_metrics(file: ModelFile, test: Scored) -> dict[str, float]:
    """Ask the functions metric(y, scores) that a model file lists in `metrics`, or names in a dict."""
    metrics = file.metrics or {}
    named = (
        metrics if isinstance(metrics, dict) else {getattr(metric, "__name__", "metric"): metric for metric in metrics}
    )
    try:
        return {str(name): float(metric(test.y, test.scores)) for name, metric in named.items()}
    except Exception as error:
        raise ConfigError(
            f"a metric of {file.path} fails: {type(error).__name__}: {error}",
            hint="each takes y (events,) and scores (events, outputs) and returns a number",
        ) from error
