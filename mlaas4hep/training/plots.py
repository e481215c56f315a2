"""The plots of a training as SVG that can stand in a page: text as text, no file beside it.

    svg = loss_curves(history)
    svg = roc_curves(one_against_others(test, ["VBF", "ggH"]))

They need matplotlib and mplhep (the extra `plot`), whose style is set for one plot at a time.
"""

from __future__ import annotations

import html
import importlib.util
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlaas4hep.training.importance import Importance
from mlaas4hep.training.loop import Epoch, History, Scored
from mlaas4hep.training.metrics import (
    Calibration,
    all_classes,
    auc_uncertainty,
    binary_auc,
    effective_events,
    roc_curve,
)
from mlaas4hep.training.page import figures

COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#94a4a2", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""Petroff's, told apart by the colour-blind (arXiv:2107.02270)."""

FONTS = "Helvetica, Arial, sans-serif"
SIZE = (5.6, 4.2)
"""In inches of 72 units; 12 units of text stay readable where a telephone shrinks a plot."""

RULES = {
    "figure.figsize": SIZE,
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.linewidth": 1,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.size": 6,
    "ytick.major.size": 6,
    "xtick.minor.size": 3,
    "ytick.minor.size": 3,
    "legend.fontsize": 11,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called $x
}

BINS = 30
STEEP = 100
"""A distribution whose highest bin is so many times the median is drawn on a logarithmic scale."""

POINTS = 300
"""Of a curve, at most."""


@dataclass(frozen=True)
class Roc:
    """The ROC curve of one class against all others.

    Attributes:
        false, true: efficiency of the others and of the class at every threshold, from 0 to 1.
        area, uncertainty: the AUC and its standard error.
        others: effective number of events of the other classes.
    """

    label: str
    false: np.ndarray
    true: np.ndarray
    area: float
    uncertainty: float
    others: float

    @property
    def rejection(self) -> np.ndarray:
        """1 / efficiency of the others; NaN where that is less than 4 events of them, half of which may be chance."""
        enough = self.false * self.others >= 4
        return np.where(enough, 1 / np.where(enough, self.false, 1), np.nan)

    def rejection_at(self, efficiency: float) -> float:
        """Return `rejection` at the tightest threshold that keeps so much of the class."""
        return float(self.rejection[np.argmax(self.true >= efficiency)])


def one_against_others(scored: Scored, classes: Sequence[str]) -> list[Roc]:
    """Return the curves of the first classes, as many as there are colours; of two classes that of the second.

    Of labels, events with one against those without it.
    """
    labels = scored.task.name == "multilabel"
    table, found = scored.scores if labels else all_classes(scored.scores), []
    for index in [1] if len(classes) == 2 and not labels else range(min(len(classes), len(COLOURS))):
        mine, score = scored.y[:, index] > 0 if labels else scored.y == index, table[:, index]
        if mine.all() or not mine.any():
            continue
        area, others = binary_auc(mine, score, scored.weight), effective_events(scored.weight[~mine])
        uncertainty = auc_uncertainty(area, effective_events(scored.weight[mine]), others)
        false, true = roc_curve(mine, score, scored.weight)
        found.append(Roc(classes[index], false, true, area, uncertainty, others))
    return found


def available() -> bool:
    """Whether there is all that plots need."""
    return all(importlib.util.find_spec(package) for package in ("matplotlib", "mplhep"))


def draw(drawings: Sequence[tuple[Callable[[], str], str]], more: str, aside: bool = True) -> str:
    """Return plots with captions, and what is said of them; that alone where nothing can be drawn.

    Args:
        aside: whether it may stand beside a plot that is the only one.
    """
    drawn = [(make(), caption) for make, caption in drawings] if available() else []
    return figures(drawn, more if aside else "") + ("" if aside else more)


def loss_curves(history: History) -> str:
    """Draw the losses of every epoch."""

    def paint(axes: Any) -> None:
        _curve(axes, history, lambda epoch: epoch.train_loss, "training", 0)
        _curve(axes, history, lambda epoch: epoch.loss, "validation", 2)
        _finish_epochs(axes, history)
        axes.set_ylabel("loss")

    return _svg("Loss by epoch", paint)


def metric_curves(history: History, names: Sequence[str]) -> str:
    """Draw some figures of the validation part of every epoch."""

    def paint(axes: Any) -> None:
        for index, name in enumerate(names[: len(COLOURS)]):
            shown = "AUC" if name == "auc" else name
            _curve(axes, history, lambda epoch, name=name: epoch.figures[name], shown, index)  # type: ignore[misc]
        _finish_epochs(axes, history)
        axes.set_ylabel("validation part")

    return _svg("Figures by epoch", paint)


def _curve(axes: Any, history: History, value: Callable[[Epoch], float], label: str, colour: int) -> None:
    numbers, values = zip(*((epoch.epoch, value(epoch)) for epoch in history.epochs), strict=True)
    axes.plot(numbers, values, "o-", markersize=4, color=COLOURS[colour], label=label)


def _finish_epochs(axes: Any, history: History) -> None:
    axes.axvline(history.best, color="#666", linestyle="--", linewidth=1, label="kept")
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, len(history.epochs) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(axis="x", which="minor", bottom=False, top=False)
    axes.legend()


def roc_curves(curves: Sequence[Roc]) -> str:
    """Draw efficiencies against each other."""

    def paint(axes: Any) -> None:
        for index, roc in enumerate(curves):
            x, y = _thinned(roc.false, roc.true)
            uncertainty = f" ± {roc.uncertainty:.4f}" if np.isfinite(roc.uncertainty) else ""
            axes.plot(x, y, color=COLOURS[index], label=_entry(roc.label, f": AUC {roc.area:.4f}{uncertainty}"))
        axes.plot([0, 1], [0, 1], color="#888", linestyle="--", linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel=_efficiency(curves), xlabel="efficiency of the other classes")
        if len(curves) == 1:
            axes.set_xlabel("background efficiency")
        axes.legend(loc="lower right")

    return _svg("ROC curve on the test part", paint)


def rejection_curves(curves: Sequence[Roc]) -> str:
    """Draw what is left of the background, inverse and logarithmic, against the efficiency."""

    def paint(axes: Any) -> None:
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axes.set_yscale("log")
        for index, roc in enumerate(curves):
            drawn = np.isfinite(roc.rejection)
            x, y = _thinned(roc.true[drawn], np.log(roc.rejection[drawn]))
            axes.plot(x, np.exp(y), color=COLOURS[index], label=_entry(roc.label))
        axes.set(xlim=(0, 1), xlabel=_efficiency(curves), ylabel="1 / background efficiency")
        axes.set_ylim(bottom=1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.4)
        if len(curves) > 1:
            axes.legend(loc="lower left")

    return _svg("Inverse background efficiency against signal efficiency", paint)


def _efficiency(curves: Sequence[Roc]) -> str:
    return f"signal efficiency ({_short(curves[0].label)})" if len(curves) == 1 else "efficiency of the class"


def scores(train: Scored, test: Scored, column: int, groups: Sequence[tuple[str, Sequence[int]]], of: str) -> str:
    """Draw distributions of one class's score: training filled, test as points with errors.

    Args:
        column: the class.
        groups: what to tell apart: labels, and the classes that each is of.
        of: the class's name.
    """
    edges = np.linspace(0, 1, BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2

    def paint(axes: Any) -> None:
        heights = []
        for index, (name, members) in enumerate(groups):
            for part, scored in (("training", train), ("test", test)):
                mine = np.isin(scored.y, members)
                found = _density(all_classes(scored.scores)[mine, column], scored.weight[mine], edges)
                if found is None:
                    continue
                density, error = found
                heights.append(density)
                if scored is train:
                    axes.stairs(
                        density, edges, fill=True, alpha=0.4, color=COLOURS[2 * index], label=_entry(name, f", {part}")
                    )
                else:
                    more = {"fmt": "o", "markersize": 3.5, "elinewidth": 1, "color": COLOURS[2 * index]}
                    axes.errorbar(centres, density, error, label=_entry(name, f", {part}"), **more)
        axes.set(xlabel=f"score of {_short(of)}", ylabel="events, area 1", xlim=(0, 1))
        every = np.concatenate(heights) if heights else np.zeros(0)
        if (every >= 0).all() and every.max(initial=0) > STEEP * np.median(every[every > 0]):
            from matplotlib.ticker import FuncFormatter

            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.set_ylim(top=every.max() * 30)
        else:
            axes.set_ylim(top=1.35 * axes.get_ylim()[1])
        axes.legend(loc="upper center", ncols=2 if len(groups) == 2 else 1)

    return _svg(f"Distribution of the score of {of}", paint)


def _density(values: np.ndarray, weight: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return density and standard error in each bin; None where the weights add up to nothing."""
    weight = weight.astype(np.float64)
    unit = abs(float(weight.sum())) * (edges[1] - edges[0])
    if not unit:
        return None
    sums, _ = np.histogram(values, edges, weights=weight)
    squares, _ = np.histogram(values, edges, weights=weight**2)
    return sums / unit, np.sqrt(squares) / unit


def residuals(train: Scored, test: Scored, column: int, name: str) -> str:
    """Draw distributions of estimate minus truth of one target: training filled, test as points with errors."""
    errors = {part: part_of.scores[:, column].astype(np.float64) - part_of.y[:, column]
              for part, part_of in (("training", train), ("test", test))}  # fmt: skip
    low, high = np.quantile(errors["test"], (0.005, 0.995))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)

    def paint(axes: Any) -> None:
        for (part, values), scored in zip(errors.items(), (train, test), strict=True):
            found = _density(values, scored.weight, edges)
            if found is None:
                continue
            density, error = found
            if scored is train:
                axes.stairs(density, edges, fill=True, alpha=0.4, color=COLOURS[0], label=part)
            else:
                centres = (edges[1:] + edges[:-1]) / 2
                axes.errorbar(centres, density, error, fmt="o", markersize=3.5, color=COLOURS[0], label=part)
        axes.set(xlabel=f"estimate - truth of {_short(name)}", ylabel="events, area 1", ylim=(0, None))
        axes.legend()

    return _svg(f"Residuals of {name}", paint)


def truth(test: Scored, column: int, name: str) -> str:
    """Draw mean and standard deviation of the estimate in bins of equal numbers of events of the truth."""
    y, estimate = test.y[:, column].astype(np.float64), test.scores[:, column].astype(np.float64)
    edges = np.unique(np.quantile(y, np.linspace(0, 1, 16)))
    which = np.clip(np.searchsorted(edges, y, side="right") - 1, 0, max(len(edges) - 2, 0))
    groups = [which == index for index in range(max(len(edges) - 1, 1)) if (which == index).any()]

    def paint(axes: Any) -> None:
        centres, means, spreads = zip(
            *((y[mine].mean(), estimate[mine].mean(), estimate[mine].std()) for mine in groups), strict=True
        )
        axes.plot([edges[0], edges[-1]], [edges[0], edges[-1]], color="#888", linestyle="--", linewidth=1)
        axes.errorbar(centres, means, spreads, fmt="o", markersize=4, color=COLOURS[0])
        axes.set(xlabel=f"truth of {_short(name)}", ylabel="estimate, mean and spread")

    return _svg(f"Estimate of {name} against the truth", paint)


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Draw shares of what each class is taken for, (classes, classes), with numbers in the cells."""
    count = len(classes)
    side = 1.6 + 0.62 * count
    digits = 3 if count <= 4 else 2

    def paint(axes: Any) -> None:
        edges = np.arange(count + 1) - 0.5
        axes.pcolormesh(edges, edges, matrix, cmap="Blues", vmin=0, vmax=1)  # imshow would be a bitmap
        axes.set_aspect("equal")
        axes.invert_yaxis()
        for row, column in np.ndindex(matrix.shape):
            value = matrix[row, column]
            text = f"{value:.{digits}f}" if np.isfinite(value) else "–"
            axes.text(column, row, text, ha="center", va="center", color="white" if value > 0.55 else "#111")
        names = [_short(name, 14) for name in classes]
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(count), names, **(turned if max(map(len, names)) * count > 24 else {}))
        axes.set_yticks(range(count), names)
        axes.tick_params(which="both", length=0)
        axes.minorticks_off()
        axes.set(xlabel="most probable class", ylabel="true class")

    return _svg("Confusion matrix", paint, (max(SIZE[0], side), max(SIZE[1], side * 0.9)))


def reliability(found: Calibration, of: str) -> str:
    """Draw what is so against what is predicted, with errors, and how many events there are of each prediction."""

    def paint(axes: Any) -> None:
        error = np.abs([found.observed - found.low, found.high - found.observed])
        axes.bar(found.predicted, found.share, 0.03, color="#c9d6e4", label="share of events")
        axes.plot([0, 1], [0, 1], color="#888", linestyle="--", linewidth=1)
        axes.errorbar(
            found.predicted, found.observed, error, fmt="o-", markersize=4, color=COLOURS[0], label="observed"
        )
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=f"predicted probability {_short(of, 30)}", ylabel="observed share")
        axes.legend(loc="upper left")

    return _svg("Calibration", paint)


def importance(found: Importance) -> str:
    """Draw how much worse the model is without each of the best branches."""
    names = [_short(drop.branch, 32) for drop in found.drops][::-1]

    def paint(axes: Any) -> None:
        place = np.arange(len(names))
        values, errors = [[getattr(drop, key) for drop in found.drops][::-1] for key in ("value", "uncertainty")]
        axes.barh(place, values, 0.7, xerr=errors, color=COLOURS[0], error_kw={"elinewidth": 1, "ecolor": "#222"})
        axes.axvline(0, color="#222", linewidth=1)
        axes.set_yticks(place, names)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.tick_params(axis="y", which="both", left=False, right=False)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("drop of the AUC" if found.measure == "AUC" else "rise of the loss")

    return _svg("Permutation importance by branch", paint, (SIZE[0], 0.9 + 0.24 * len(names)))


def _entry(name: str, more: str = "") -> str:
    """Return an entry of a legend; matplotlib leaves out those that begin with _."""
    return f"{' ' if name.startswith('_') else ''}{_short(name)}{more}"


def _short(name: str, most: int = 20) -> str:
    """Return a name that fits into a plot."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most POINTS points of a curve, at equal distances along it, the ends among them."""
    if len(x) <= POINTS:
        return x, y
    steps = np.hypot(np.diff(x) / (np.ptp(x) or 1), np.diff(y) / (np.ptp(y) or 1))
    along = np.append(0.0, np.cumsum(steps))
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], POINTS)))
    return x[kept], y[kept]


def _svg(title: str, paint: Callable[[Any], None], size: tuple[float, float] = SIZE) -> str:
    """Return an SVG element with a title."""
    import matplotlib
    import mplhep
    from matplotlib.figure import Figure

    text, title = io.StringIO(), html.escape(title)
    rules = {**mplhep.style.CMS, **RULES, "svg.hashsalt": title}
    with matplotlib.rc_context(rules), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has it
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.subplots())
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    svg = re.sub(r"(font-family: |font: [^;\"]*?px )[^;\"]*", rf"\1{FONTS}", svg[svg.index("<svg") :])
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    head = f'<svg role="img" aria-label="{title}" {"class=wide " if size[0] > 1.2 * SIZE[0] else ""}'
    return svg.replace("<svg ", head, 1).replace(">", f"><title>{title}</title>", 1)
