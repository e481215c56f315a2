"""The plots of a report as inline SVG with real text.

    svg = loss_curves(history)
    svg = roc_curves(one_vs_rest_curves(test, ["VBF", "ggH"]))

They need matplotlib and mplhep (the extra `plot`). The style is set for one plot at a time, not globally.
"""

from __future__ import annotations

import html
import importlib.util
import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas4hep.backends.metrics import Calibration, all_classes
from mlaas4hep.report.importance import Importance
from mlaas4hep.report.page import metric_title, plot_grid
from mlaas4hep.report.roc import RocCurve

if TYPE_CHECKING:
    from mlaas4hep.training.history import History
    from mlaas4hep.training.loop import Predictions

COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#94a4a2", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""Petroff's colours, which the colour-blind can distinguish (arXiv:2107.02270)."""

FONTS = "Helvetica, Arial, sans-serif"
SIZE = (5.6, 4.2)
"""Inches of 72 points; text of 12 points stays readable on the screen of a phone."""

STYLE = {
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
    "text.parse_math": False,  # a class may be named $x
}

BINS = 30
LOG_SCALE_RATIO = 100
"""Ratio of the highest bin to the median from which a distribution has a logarithmic scale."""

MAX_POINTS = 300
"""Largest number of points of a curve."""

Group = tuple[str, Sequence[int]]
"""The name of a distribution, and the classes in it."""


def available() -> bool:
    """Return whether the packages for plots are installed."""
    return all(importlib.util.find_spec(package) for package in ("matplotlib", "mplhep"))


def draw(drawings: Sequence[tuple[Callable[[], str], str]], content: str, beside: bool = True) -> str:
    """Return plots with captions and other content as HTML; only the content if plots are not available.

    Args:
        drawings: functions that return an SVG element, and captions.
        content: HTML that belongs to the plots.
        beside: whether the content may be placed beside a single plot.
    """
    plots = [(make(), caption) for make, caption in drawings] if available() else []
    return plot_grid(plots, content if beside else "") + ("" if beside else content)


def loss_curves(history: History) -> str:
    """Draw training and validation loss by epoch."""

    def paint(axes: Any) -> None:
        _curve(axes, history, [epoch.train_loss for epoch in history.epochs], "training", 0)
        _curve(axes, history, [epoch.loss for epoch in history.epochs], "validation", 2)
        _finish_epochs(axes, history)
        axes.set_ylabel("loss")

    return _svg("Loss by epoch", paint)


def metric_curves(history: History, names: Sequence[str]) -> str:
    """Draw metrics on the validation set by epoch."""

    def paint(axes: Any) -> None:
        for index, name in enumerate(names[: len(COLOURS)]):
            _curve(axes, history, [epoch.metrics[name] for epoch in history.epochs], metric_title(name), index)
        _finish_epochs(axes, history)
        axes.set_ylabel("validation set")

    return _svg("Metrics by epoch", paint)


def _curve(axes: Any, history: History, values: Sequence[float], label: str, colour: int) -> None:
    numbers = [epoch.epoch for epoch in history.epochs]
    axes.plot(numbers, values, "o-", markersize=4, color=COLOURS[colour], label=label)


def _finish_epochs(axes: Any, history: History) -> None:
    axes.axvline(history.best, color="#666", linestyle="--", linewidth=1, label="best epoch")
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, len(history.epochs) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(axis="x", which="minor", bottom=False, top=False)
    axes.legend()


def roc_curves(curves: Sequence[RocCurve]) -> str:
    """Draw signal efficiency against background efficiency."""

    def paint(axes: Any) -> None:
        for index, roc in enumerate(curves):
            x, y = _thin_out(roc.background, roc.signal)
            uncertainty = f" ± {roc.uncertainty:.4f}" if np.isfinite(roc.uncertainty) else ""
            axes.plot(x, y, color=COLOURS[index], label=_legend_entry(roc.label, f": AUC {roc.area:.4f}{uncertainty}"))
        axes.plot([0, 1], [0, 1], color="#888", linestyle="--", linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel=_efficiency(curves), xlabel="efficiency of the other classes")
        if len(curves) == 1:
            axes.set_xlabel("background efficiency")
        axes.legend(loc="lower right")

    return _svg("ROC curve on the test set", paint)


def rejection_curves(curves: Sequence[RocCurve]) -> str:
    """Draw background rejection on a logarithmic scale against signal efficiency."""

    def paint(axes: Any) -> None:
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axes.set_yscale("log")
        for index, roc in enumerate(curves):
            valid = np.isfinite(roc.rejection)
            x, y = _thin_out(roc.signal[valid], np.log(roc.rejection[valid]))
            axes.plot(x, np.exp(y), color=COLOURS[index], label=_legend_entry(roc.label))
        axes.set(xlim=(0, 1), xlabel=_efficiency(curves), ylabel="1 / background efficiency")
        axes.set_ylim(bottom=1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.4)
        if len(curves) > 1:
            axes.legend(loc="lower left")

    return _svg("Inverse background efficiency against signal efficiency", paint)


def _efficiency(curves: Sequence[RocCurve]) -> str:
    return f"signal efficiency ({_short(curves[0].label)})" if len(curves) == 1 else "efficiency of the class"


def scores(train: Predictions, test: Predictions, column: int, groups: Sequence[Group], of: str) -> str:
    """Draw distributions of the score of one class: training set filled, test set as points with errors.

    Args:
        train, test: the scores.
        column: index of the class.
        groups: the distributions.
        of: name of the class.
    """
    edges = np.linspace(0, 1, BINS + 1)

    def paint(axes: Any) -> None:
        heights = []
        for index, (name, members) in enumerate(groups):
            for part, predictions in (("training", train), ("test", test)):
                selected = np.isin(predictions.y, members)
                values = all_classes(predictions.scores)[selected, column]
                label, colour = _legend_entry(name, f", {part}"), COLOURS[2 * index]
                heights.append(_histogram(axes, values, predictions.weight[selected], edges, part, label, colour))
        axes.set(xlabel=f"score of {_short(of)}", ylabel="normalised events", xlim=(0, 1))
        every = np.concatenate(heights)
        if (every >= 0).all() and every.max(initial=0) > LOG_SCALE_RATIO * np.median(every[every > 0]):
            from matplotlib.ticker import FuncFormatter

            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.set_ylim(top=every.max() * 30)
        else:
            axes.set_ylim(top=1.35 * axes.get_ylim()[1])
        axes.legend(loc="upper center", ncols=2 if len(groups) == 2 else 1)

    return _svg(f"Distribution of the score of {of}", paint)


def _histogram(
    axes: Any, values: np.ndarray, weight: np.ndarray, edges: np.ndarray, part: str, label: str, colour: str
) -> np.ndarray:
    """Draw a normalised distribution, for training filled, else as points with errors; return the density in each bin.

    If the sum of weights is 0, nothing is drawn, and the returned array is empty.
    """
    weight = weight.astype(np.float64)
    unit = abs(float(weight.sum())) * (edges[1] - edges[0])
    if not unit:
        return np.zeros(0)
    density: np.ndarray = np.histogram(values, edges, weights=weight)[0] / unit
    if part == "training":
        axes.stairs(density, edges, fill=True, alpha=0.4, color=colour, label=label)
    else:
        error = np.sqrt(np.histogram(values, edges, weights=weight**2)[0]) / unit
        centres, style = (edges[1:] + edges[:-1]) / 2, {"fmt": "o", "markersize": 3.5, "elinewidth": 1}
        axes.errorbar(centres, density, error, color=colour, label=label, **style)
    return density


def residuals(train: Predictions, test: Predictions, column: int, name: str) -> str:
    """Draw distributions of prediction minus truth of a target: training set filled, test set as points with errors."""
    errors = {part: predictions.scores[:, column].astype(np.float64) - predictions.y[:, column]
              for part, predictions in (("training", train), ("test", test))}  # fmt: skip
    low, high = np.quantile(errors["test"], (0.005, 0.995))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)

    def paint(axes: Any) -> None:
        for (part, values), predictions in zip(errors.items(), (train, test), strict=True):
            _histogram(axes, values, predictions.weight, edges, part, part, COLOURS[0])
        axes.set(xlabel=f"prediction - truth of {_short(name)}", ylabel="normalised events", ylim=(0, None))
        axes.legend()

    return _svg(f"Residuals of {name}", paint)


def truth(test: Predictions, column: int, name: str) -> str:
    """Draw mean and standard deviation of the prediction in bins of the truth with equal numbers of events."""
    y, prediction = test.y[:, column].astype(np.float64), test.scores[:, column].astype(np.float64)
    edges = np.unique(np.quantile(y, np.linspace(0, 1, 16)))
    bins = np.clip(np.searchsorted(edges, y, side="right") - 1, 0, max(len(edges) - 2, 0))
    groups = [bins == index for index in range(max(len(edges) - 1, 1)) if (bins == index).any()]

    def paint(axes: Any) -> None:
        centres, means, spreads = zip(
            *((y[group].mean(), prediction[group].mean(), prediction[group].std()) for group in groups), strict=True
        )
        axes.plot([edges[0], edges[-1]], [edges[0], edges[-1]], color="#888", linestyle="--", linewidth=1)
        axes.errorbar(centres, means, spreads, fmt="o", markersize=4, color=COLOURS[0])
        axes.set(xlabel=f"truth of {_short(name)}", ylabel="prediction (mean, standard deviation)")

    return _svg(f"Prediction of {name} against the truth", paint)


def reweighted(text: str, edges: Sequence[float], before: np.ndarray, after: np.ndarray, classes: Sequence[str]) -> str:
    """Draw the fraction of the weights of a class in each bin, before and after reweighting, (classes, bins) each."""

    def paint(axes: Any) -> None:
        for index, name in enumerate(classes[: len(COLOURS)]):
            for contents, style, when in ((before, "--", "before"), (after, "-", "after")):
                share = contents[index] / contents[index].sum()
                label = _legend_entry(name, f", {when}")
                axes.stairs(share, edges, color=COLOURS[index], linestyle=style, linewidth=1.6, label=label)
        axes.set(xlabel=_short(text, 40), ylabel="fraction of the weights per bin", xlim=(edges[0], edges[-1]))
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]), top=1.35 * axes.get_ylim()[1])
        axes.legend(loc="upper center", ncols=2)

    return _svg(f"Distribution of {text} before and after reweighting", paint)


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Draw a confusion matrix, (true classes, predicted classes), with numbers in the cells."""
    count = len(classes)
    side = 1.6 + 0.62 * count
    digits = 3 if count <= 4 else 2

    def paint(axes: Any) -> None:
        edges = np.arange(count + 1) - 0.5
        axes.pcolormesh(edges, edges, matrix, cmap="Blues", vmin=0, vmax=1)  # imshow would embed a bitmap
        axes.set_aspect("equal")
        axes.invert_yaxis()
        for row, column in np.ndindex(matrix.shape):
            value = matrix[row, column]
            text = f"{value:.{digits}f}" if np.isfinite(value) else "–"
            axes.text(column, row, text, ha="center", va="center", color="white" if value > 0.55 else "#111")
        names = [_short(name, 14) for name in classes]
        rotated = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(count), names, **(rotated if max(map(len, names)) * count > 24 else {}))
        axes.set_yticks(range(count), names)
        axes.tick_params(which="both", length=0)
        axes.minorticks_off()
        axes.set(xlabel="predicted class", ylabel="true class")

    return _svg("Confusion matrix", paint, (max(SIZE[0], side), max(SIZE[1], side * 0.9)))


def reliability(calibration: Calibration, of: str) -> str:
    """Draw the observed fraction against the predicted probability with errors, and the distribution of predictions."""

    def paint(axes: Any) -> None:
        x, y = calibration.predicted, calibration.observed
        axes.bar(x, calibration.share, 0.03, color="#c9d6e4", label="fraction of events")
        axes.plot([0, 1], [0, 1], color="#888", linestyle="--", linewidth=1)
        error = np.abs([y - calibration.low, calibration.high - y])
        axes.errorbar(x, y, error, fmt="o-", markersize=4, color=COLOURS[0], label="observed")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="observed fraction")
        axes.set_xlabel(f"predicted probability {_short(of, 30)}")
        axes.legend(loc="upper left")

    return _svg("Calibration", paint)


def importance(result: Importance) -> str:
    """Draw the importance of the most important branches."""
    drops = result.drops[::-1]
    names = [_short(drop.branch, 32) for drop in drops]

    def paint(axes: Any) -> None:
        positions, error_style = np.arange(len(names)), {"elinewidth": 1, "ecolor": "#222"}
        values, errors = [drop.value for drop in drops], [drop.uncertainty for drop in drops]
        axes.barh(positions, values, 0.7, xerr=errors, color=COLOURS[0], error_kw=error_style)
        axes.axvline(0, color="#222", linewidth=1)
        axes.set_yticks(positions, names)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.tick_params(axis="y", which="both", left=False, right=False)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(result.change)

    return _svg("Permutation importance by branch", paint, (SIZE[0], 0.9 + 0.24 * len(names)))


def _legend_entry(name: str, suffix: str = "") -> str:
    """Return an entry of a legend; matplotlib omits entries that begin with _."""
    return f"{' ' if name.startswith('_') else ''}{_short(name)}{suffix}"


def _short(name: str, max_length: int = 20) -> str:
    """Shorten a name to fit into a plot."""
    return name if len(name) <= max_length else f"{name[: max_length - 1]}…"


def _thin_out(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `MAX_POINTS` points of a curve, equidistant along the curve, including its ends."""
    if len(x) <= MAX_POINTS:
        return x, y
    steps = np.hypot(np.diff(x) / (np.ptp(x) or 1), np.diff(y) / (np.ptp(y) or 1))
    distance = np.append(0.0, np.cumsum(steps))
    selected = np.unique(np.searchsorted(distance, np.linspace(0, distance[-1], MAX_POINTS)))
    return x[selected], y[selected]


def _svg(title: str, paint: Callable[[Any], None], size: tuple[float, float] = SIZE) -> str:
    """Return an SVG element with a title."""
    import matplotlib
    import mplhep
    from matplotlib.figure import Figure

    text, title = io.StringIO(), html.escape(title)
    style = {**mplhep.style.CMS, **STYLE, "svg.hashsalt": title}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has these glyphs
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.subplots())
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    svg = re.sub(r"(font-family: |font: [^;\"]*?px )[^;\"]*", rf"\1{FONTS}", svg[svg.index("<svg") :])
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", svg)
    head = f'<svg role="img" aria-label="{title}" {"class=wide " if size[0] > 1.2 * SIZE[0] else ""}'
    return svg.replace("<svg ", head, 1).replace(">", f"><title>{title}</title>", 1)
