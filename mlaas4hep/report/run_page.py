"""The report of a run: one self-contained HTML file.

    write_report(Path("report.html"), trained, training)

Plots need the extra `plot`; without it, the report has only the tables and a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.backends.metrics import auc_uncertainty, effective_events
from mlaas4hep.errors import error_summary
from mlaas4hep.report import plots
from mlaas4hep.report.page import details, metric_title, number, page, paragraph, table, text, total
from mlaas4hep.report.roc import MIN_BACKGROUND, RocCurve, one_vs_rest_curves
from mlaas4hep.report.scores import (
    MAX_PLOTS,
    calibration_curve,
    confusion,
    label_calibration_curves,
    label_score_distributions,
    score_distributions,
)

if TYPE_CHECKING:
    from mlaas4hep.training.history import History
    from mlaas4hep.training.loop import Predictions
    from mlaas4hep.training.trained import Section, TrainedModel

EFFICIENCIES = (0.3, 0.5, 0.7, 0.9)
"""Signal efficiencies for which the background rejection is listed."""


_LOSS_CAPTION = (
    "Loss. If the model is trained batch by batch, the training loss is the average during the epoch, and the"
    " validation loss is computed at its end."
)


def write_report(path: Path, trained: TrainedModel, training: Mapping[str, Any]) -> None:
    """Write the report of a run.

    Args:
        path: the file to write.
        trained: the run.
        training: the content of training.json.
    """
    content, first = trained.content, trained.fits[0]
    parts = {"training": first.train, "validation": first.valid, "test": first.test}
    classes = trained.source.labels.classes
    function = training.get("model_function", "model")
    file = training["model_file"] if function == "model" else f"{training['model_file']}:{function}"
    model = f"{training['framework']} model of {file}, {training['size']}"
    lead = f"{model}, trained {training['created']}"
    sections: list[Section] = [
        ("Result", lambda: _result(trained, parts)),
        ("Sample", lambda: _sample(trained, parts) + content.sample_section(training)),
        *content.first_sections(),
        ("Training", lambda: _epochs(first.history, first.backend.round_noun)),
    ]
    task = trained.test.task.name
    if task == "regression":
        sections.append(("Residuals", lambda: _residuals(first.train, first.test)))
    else:
        sections.append(("ROC", lambda: _roc(trained.test, classes)))
    if task == "classification":
        sections += [
            ("Scores", lambda: score_distributions(first.train, first.test, classes)),
            ("Confusion", lambda: confusion(trained.test, classes)),
            ("Calibration", lambda: calibration_curve(trained.test, classes)),
        ]
    if task == "multilabel":
        sections += [
            ("Scores", lambda: label_score_distributions(first.train, first.test)),
            ("Calibration", lambda: label_calibration_curves(trained.test)),
        ]
    sections += [
        *content.last_sections(trained),
        ("Parameters", lambda: _key_value_table("Parameters of the run.", training["params"])),
        ("Versions", lambda: _key_value_table("Versions of Python and packages.", training["versions"])),
    ]
    html = [(name, _make_section(name, make)) for name, make in sections]
    path.write_text(page(trained.name, lead, html), encoding="utf-8")


def _make_section(name: str, make: Callable[[], str]) -> str:
    """Return the HTML of a section, or a note if it fails, since the bundle must be written in any case."""
    try:
        return make()
    except Exception as error:
        console.notice(f"the report has no section '{name}': {error_summary(error)}")
        return paragraph(f"This section could not be created: {error_summary(error)}", note=True)


def _key_value_table(caption: str, values: Mapping[str, Any]) -> str:
    shown = {key: value if isinstance(value, str) and value else repr(value) for key, value in values.items()}
    return table(caption, ["key", "value"], list(map(list, shown.items())))


def _result(trained: TrainedModel, parts: Mapping[str, Predictions]) -> str:
    test = trained.metrics()["test"]
    names = [name for name in trained.test.metrics() if name != "loss"]
    uncertainty = f" ± {test['auc_uncertainty']:.4f}" if test.get("auc_uncertainty") else ""
    rows = []
    all_parts = {**parts, "all folds": trained.test} if trained.folds else parts
    for part, predictions in all_parts.items():
        metrics = predictions.metrics()
        rows.append([part, *(number(metrics[name]) for name in ("loss", *names))])
    notes = []
    if trained.source.labels.uses_shuffled_copies:
        notes.append(
            "The sample has no labels: the model is trained to distinguish the events from copies, in which collections"
            " and other branches are shuffled among the events. The AUC measures how strongly these are correlated."
        )
    if trained.source.labels.are_files:
        notes.append(_files_told_apart(trained))
    if trained.folds:
        notes.append(
            f"Each of the {len(trained.fits)} models was trained without one fold. The metrics at the top, ROC,"
            " confusion and calibration use all events, each scored by the model that was not trained on it. All other"
            " sections describe the first model, whose test set is the first fold."
        )
    if not plots.available():
        notes.append("There are no plots: they need matplotlib and mplhep, pip install 'mlaas4hep[plot]'.")
    own = [[name, number(value)] for name, value in trained.custom_metrics.items()]
    first = next((name for name in names if name == "auc"), (names or ["loss"])[0])
    others = ", ".join(f"{text(metric_title(name))} {number(test[name])}" for name in (*names, "loss") if name != first)
    events = f"the test set of {test['events']:,} events"
    if trained.folds:
        events = f"all {test['events']:,} events, each scored by the model that was not trained on it"
    return (
        f"<p><span class=big>{text(metric_title(first))} {number(test[first])}{uncertainty}</span><br>"
        f"{others} on {events}</p>"
        + "".join(paragraph(note, note=True) for note in notes)
        + table(
            f"Metrics with the model of the best {trained.backend.round_noun}.",
            ["part", "loss", *map(metric_title, names)],
            rows,
            1,
        )
        + (table("Metrics of the model file on the test set.", ["metric", "value"], own, 1) if own else "")
    )


def _files_told_apart(trained: TrainedModel) -> str:
    """Compare the AUC with 0.5, which is expected for files that are alike."""
    test = trained.test
    note = "The sample has no labels: the model is trained to distinguish its files. If they are alike, the AUC is 0.5"
    if not test.task.is_binary:
        return f"{note} for each file; the ROC section lists the AUC of each file with its error."
    events = [effective_events(test.weight[test.y == label]) for label in (1, 0)]
    error, area = auc_uncertainty(0.5, *events), test.metrics()["auc"]
    return (
        f"{note} ± {error:.4f} for this test set. The AUC of {area:.4f} differs from this by"
        f" {(area - 0.5) / error:+.1f} standard errors."
    )


def _sample(trained: TrainedModel, parts: Mapping[str, Predictions]) -> str:
    params = trained.source.params
    weights = np.concatenate([predictions.weight for predictions in parts.values()])
    noun = {"classification": "class", "multilabel": "label", "regression": ""}[params.task]
    columns, caption = ["events"], f"Events by {noun and f'{noun} and '}part; all have weight 1."
    if (weights != 1).any():
        columns += ["Σw", "effective"]
        caption = (
            f"Events by {noun and f'{noun} and '}part, sum of their weights w, and effective number of events:"
            " (Σw)² / Σw², the number of events of weight 1 with the same relative error."
        )
    rows = []
    classes = () if params.task == "regression" else trained.source.labels.classes
    for index, name in [*enumerate(classes), (None, "all")]:
        row = [name]
        for predictions in parts.values():
            weight = predictions.weight if index is None else predictions.weight[predictions.members(index)]
            cells = [f"{len(weight):,}", total(float(weight.sum(dtype=float))), f"{effective_events(weight):,.0f}"]
            row += cells[: len(columns)]
        rows.append(row)
    head = [noun, *(f"{part} {column}" for part in parts for column in columns)]
    note, share = "", float((weights < 0).mean())
    if share:
        note = (
            f"{share:.2%} of the events have a negative weight. All metrics and plots use the signed weights, so that"
            " curves may be non-monotonic and bins may be negative."
        )
    return paragraph(note, note=True) + table(caption, head, rows, 1)


def _epochs(history: History, noun: str) -> str:
    timed = any(epoch.waiting for epoch in history.epochs)
    names = [name for name in history.epochs[0].metrics if name != "loss"]
    rows = []
    for epoch in history.epochs:
        row = [f"{epoch.epoch}\N{NO-BREAK SPACE}(best)" if epoch.epoch == history.best else str(epoch.epoch)]
        row += [number(value) for value in (epoch.train_loss, epoch.loss, *(epoch.metrics[name] for name in names))]
        row += [f"{epoch.seconds:.1f}", *([f"{epoch.waiting:.1f}"] if timed else [])]
        rows.append([*row, f"{epoch.events / max(epoch.seconds, 1e-9):,.0f}"])
    head = [noun, "training loss", "validation loss", *map(metric_title, names), "seconds"]
    head += [*(["waiting for data (s)"] if timed else []), "events/s"]
    caption = "Seconds and events/s of training, without validation."
    drawings = [(partial(plots.loss_curves, history), _LOSS_CAPTION)]
    if names:
        drawings.append((partial(plots.metric_curves, history, names), "Metrics on the validation set."))
    epochs = details(f"Every {noun}", table(caption, head, rows, 1), opened=len(rows) <= 30)
    return plots.draw(drawings, paragraph(_timing(history, noun)) + epochs)


def _timing(history: History, noun: str) -> str:
    epochs = history.epochs
    seconds, events, waiting = (sum(getattr(one, name) for one in epochs) for name in ("seconds", "events", "waiting"))
    rate = f"{len(epochs)} {noun}s in {seconds:,.1f} s, {events / max(seconds, 1e-9):,.0f} events/s"
    if not waiting:
        return f"{rate}, without validation."
    return (
        f"{rate}, without validation: {seconds - waiting:,.1f} s of training, and {waiting:,.1f} s"
        f" ({waiting / max(seconds, 1e-9):.0%}) of waiting for data."
    )


def _roc(test: Predictions, classes: Sequence[str]) -> str:
    curves = one_vs_rest_curves(test, classes)
    if not curves:
        return paragraph("There is no ROC curve: all events of the test set have the same class.")
    comparison = "" if len(curves) == 1 else " Each class versus all others."
    if test.task.name == "multilabel":
        comparison = " Events with a label versus events without it."
    if len(classes) > len(plots.COLOURS):
        comparison += f" The plot shows the first {len(plots.COLOURS)} of {len(classes)} classes."
    rows = [
        [roc.label, f"{roc.area:.4f} ± {roc.uncertainty:.4f}", *(_rejection(roc, at) for at in EFFICIENCIES)]
        for roc in curves
    ]
    head = ["class", "AUC", *(f"at {at:.0%}" for at in EFFICIENCIES)]
    minimum = f"{MIN_BACKGROUND} background events"
    if (test.weight != 1).any():
        minimum = f"{MIN_BACKGROUND} effective background events, (Σw)² / Σw²"
    caption = f"Rejection (1 / background efficiency) at fixed signal efficiencies; empty for fewer than {minimum}."
    ends = f"Background rejection; the curve ends at fewer than {minimum}.{comparison}"
    drawings = [
        (partial(plots.roc_curves, curves), f"ROC curve on the test set, with event weights.{comparison}"),
        (partial(plots.rejection_curves, curves), ends),
    ]
    return plots.draw(drawings, table(caption, head, rows, 1))


def _rejection(roc: RocCurve, efficiency: float) -> str:
    value = roc.rejection_at(efficiency)
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" if np.isfinite(value) else ""


def _residuals(train: Predictions, test: Predictions) -> str:
    names = test.task.classes
    rows = []
    for index, name in enumerate(names):
        error = test.scores[:, index].astype(np.float64) - test.y[:, index]
        weight = test.weight / test.weight.sum(dtype=np.float64)
        edges = [number(float(value)) for value in np.quantile(error, (0.16, 0.5, 0.84))]
        moments = (weight * error).sum(), np.sqrt((weight * error**2).sum())
        rows.append([name, *(number(float(moment)) for moment in moments), *edges])
    head = ["target", "mean", "root mean square", "16%", "median", "84%"]
    drawings: list[tuple[Callable[[], str], str]] = []
    residual_caption = "Prediction minus truth. Filled: training set, points: test set."
    truth_caption = "Mean and standard deviation of the prediction in bins of the truth, on the test set."
    for index, name in enumerate(names[:MAX_PLOTS]):
        drawings += [
            (partial(plots.residuals, train, test, index, name), residual_caption),
            (partial(plots.truth, test, index, name), truth_caption),
        ]
    caption = "Prediction minus truth on the test set; quantiles ignore weights."
    return plots.draw(drawings, table(caption, head, rows, 1))
