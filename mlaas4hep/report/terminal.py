"""Terminal output of a training run: one line per epoch, and the result.

print_epoch(epoch, best=True)
print_result(trained, Path("model"))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlaas4hep import console
from mlaas4hep.report.page import metric_title
from mlaas4hep.shell import quoted

if TYPE_CHECKING:
    from mlaas4hep.config import Params
    from mlaas4hep.training.history import Epoch
    from mlaas4hep.training.trained import TrainedModel


PRINTED_ROUNDS = 25
"""Boosted trees may have more rounds than `epochs`; of the rounds after this number, every 25th is printed."""


class EpochPrinter:
    """Prints a line for each epoch, or for some of the rounds of boosted trees; a callback `on_epoch_end`.

    Attributes:
        noun: what an epoch is called: "epoch" or "round".
    """

    def __init__(self, params: Params) -> None:
        self.noun = "epoch"
        self._params = params
        self._fold, self._rounds, self._seconds = 0, 0, 0.0

    def __call__(self, epoch: Epoch, best: bool, fold: int) -> None:
        """Print the epoch; the line of a round has the time of all rounds since the previous line."""
        if fold != self._fold:
            self._fold, self._rounds, self._seconds = fold, 0, 0.0
        self._rounds, self._seconds = self._rounds + 1, self._seconds + epoch.seconds
        if epoch.epoch <= self._params.epochs or epoch.epoch % PRINTED_ROUNDS == 0:
            whole = replace(epoch, seconds=self._seconds, events=epoch.events * self._rounds)
            print_epoch(whole, best, fold if self._params.kfold else None, title=self.noun, rounds=self._rounds)
            self._rounds, self._seconds = 0, 0.0


def print_epoch(
    epoch: Epoch, best: bool, fold: int | None = None, noun: str = "events", title: str = "epoch", rounds: int = 1
) -> None:
    """Print one line per epoch.

    Args:
        epoch: the losses and metrics of the epoch.
        best: whether the epoch is the best so far.
        fold: index of the fold; None without cross-validation.
        noun: plural noun for the events, such as "images".
        title: "epoch" or "round".
        rounds: number of rounds of which the epoch has the time and the events.
    """
    metrics = format_metrics({name: value for name, value in epoch.metrics.items() if name != "loss"})
    console.print_line(
        f"{'' if fold is None else f'fold {fold}  '}{title} {epoch.epoch:3d}  training loss {epoch.train_loss:.4f}"
        f"  validation loss {epoch.loss:.4f}{metrics}  {epoch.seconds:6.1f} s"
        f"{f' for {rounds} {title}s' if rounds > 1 else ''}  {epoch.events / max(epoch.seconds, 1e-9):,.0f} {noun}/s"
        f"  {epoch.waiting / max(epoch.seconds, 1e-9):.0%} data wait{'  best so far' if best else ''}"
    )


def format_metrics(metrics: Mapping[str, float | None], uncertainty: float | None = None) -> str:
    """Format metrics as names and values, each after two spaces.

    Args:
        metrics: values by name; None for a value that is undefined.
        uncertainty: standard error of the AUC.
    """
    formatted = []
    for name, value in metrics.items():
        error = f" +- {uncertainty:.4f}" if name == "auc" and uncertainty else ""
        shown = f"{value:.4g}" if value and abs(value) >= 10 else f"{value or 0:.4f}"
        if value is None:
            shown = "undefined: a class is missing" if name == "auc" else "not a number"
        formatted.append(f"  {metric_title(name)} {shown}{error}")
    return "".join(formatted)


def print_result(trained: TrainedModel, folder: Path, noun: str = "events") -> None:
    """Print the metrics on the test set and the paths of the outputs; for `noun` see `print_epoch`."""
    for line in trained.content.skipped_data():
        console.notice(line)
    metrics = dict(trained.metrics()["test"])
    events, uncertainty = metrics.pop("events"), metrics.pop("auc_uncertainty", None)
    noun_of_round = trained.backend.round_noun
    weights = f"{'weights' if noun_of_round == 'epoch' else 'trees'} of {noun_of_round} {trained.fits[0].history.best}"
    if trained.folds:
        weights = "each event scored by the model that was not trained on it"
    console.print_line(f"Test  : {events} {noun}{format_metrics(metrics, uncertainty)}  ({weights})")
    console.print_line(f"Report: {folder / 'report.html'}")
    use = f"serve it: tfaas_client.py --upload={quoted(str(folder / 'upload.json'))}"
    if not (folder / "upload.json").exists():
        use = f"score events: workflow.py --predict={quoted(str(folder))} --model={quoted(str(folder / 'model.py'))}"
    console.print_line(f"Bundle: {folder} ({use})")
