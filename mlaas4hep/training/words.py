"""What a training says on a terminal: a line an epoch, and the result.

print_epoch(epoch, best=True)
print_result(trained, Path("model"))
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlaas4hep import console

if TYPE_CHECKING:
    from mlaas4hep.training.bundle import Trained
    from mlaas4hep.training.loop import Epoch


def print_epoch(epoch: Epoch, best: bool, fold: int | None = None, noun: str = "events") -> None:
    """Print one line an epoch.

    Args:
        best: whether it is the best so far.
        fold: of which model it is, if there are several.
        noun: what is trained on.
    """
    figures = in_words({name: value for name, value in epoch.figures.items() if name != "loss"})
    console.say(
        f"{'' if fold is None else f'fold {fold}  '}epoch {epoch.epoch:3d}  training loss {epoch.train_loss:.4f}"
        f"  validation loss {epoch.loss:.4f}{figures}  {epoch.seconds:6.1f} s"
        f"  {epoch.events / max(epoch.seconds, 1e-9):,.0f} {noun}/s"
        f"  waiting {epoch.waiting / max(epoch.seconds, 1e-9):.0%}{'  *' if best else ''}",
    )


def in_words(figures: Mapping[str, float | None], uncertainty: float | None = None) -> str:
    """Return figures of merit by name, two spaces before each."""
    words = []
    for name, value in figures.items():
        more = f" +- {uncertainty:.4f}" if name == "auc" and uncertainty else ""
        shown = f"{value:.4g}" if value and abs(value) >= 10 else f"{value or 0:.4f}"
        missing = "unknown: a class is missing" if name == "auc" else "not a number"
        shown = missing if value is None else shown
        words.append(f"  {'AUC' if name == 'auc' else name} {shown}{more}")
    return "".join(words)


def print_result(trained: Trained, folder: Path, noun: str = "events") -> None:
    """Print the figures of the test part, and where everything lies; `noun`: what was trained on."""
    for line in trained.content.losses():
        console.notice(line)
    figures = dict(trained.metrics()["test"])
    events, uncertainty = figures.pop("events"), figures.pop("auc_uncertainty", None)
    whose = "each fold by the model that did not see it"
    if not trained.folds:
        whose = f"weights of epoch {trained.fits[0].history.best}"
    console.say(f"Test  : {events} {noun}{in_words(figures, uncertainty)}  ({whose})")
    console.say(f"Report: {folder / 'report.html'}")
    console.say(f"Bundle: {folder} (serve it: tfaas_client.py --upload={shlex.quote(str(folder / 'upload.json'))})")
