"""The report of a run: its content, its HTML, and its display in a browser."""

import html
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import awkward as ak
import numpy as np
import pytest
from browser import dump_dom
from tinyroot import write_events, write_tree

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.metrics import binary_auc
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.report import plots
from mlaas4hep.report.roc import one_vs_rest_curves
from mlaas4hep.report.run_page import write_report
from mlaas4hep.stream import PARTS, DataGenerator
from mlaas4hep.training import train_model
from mlaas4hep.training.event_content import EventContent
from mlaas4hep.training.loop import Predictions, evaluate, train
from mlaas4hep.training.trained import Fit, TrainedModel

pytestmark = pytest.mark.usefixtures("without_trial_export")

HOSTILE = ('<b>&"$x', "_ü</script>")
LINEAR = """
import torch
def model(idim, classes): return torch.nn.Linear(idim, classes if classes > 2 else 1)
def optimizer(weights): return torch.optim.AdamW(weights, 0.1)
"""
QUICK = "from sklearn.linear_model import LogisticRegression\ndef model(idim): return LogisticRegression()\n"
TRAINING = {
    "framework": "pytorch", "model_file": "any.py", "size": "5 weights", "created": "2026-01-01T00:00:00Z",
    "files": [{"name": "<a>.root", "entries": 10}], "params": {"name": ""}, "versions": {"numpy": "2"},
}  # fmt: skip
VOID = {"meta", "br"}


class Page(HTMLParser):
    """A parsed page, whose tags must be nested correctly, with its texts by tag."""

    def __init__(self, source):
        super().__init__()
        self.open, self.texts, self.ids, self.links, self.attributes = [], [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key in ("href", "xlink:href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data))

    def all(self, tag):
        """Texts directly inside a tag."""
        return [text for inside, text in self.texts if inside == tag]

    @property
    def words(self):
        """All visible text."""
        return " ".join(text for tag, text in self.texts if tag != "style")


def make(folder, classes=2, events=1500, more=None):
    """Train a linear model on a file in which the mean of `signal` depends on the class."""
    rng = np.random.default_rng(0)
    label = np.arange(events) % classes
    counts = rng.integers(0, 3, events)
    columns = {
        "event": np.arange(events).astype(np.uint64),
        "label": label,
        "signal": rng.normal(2 * label, 1),
        "noise": rng.normal(size=events),
        "pt": ak.unflatten(rng.exponential(20, counts.sum()), counts),
        "w": rng.choice([2.0, 1.0, 1.0, -1.0], events),
        **(more or {}),
    }
    write_tree(folder / "a.root", columns)
    (folder / "any.py").write_text(LINEAR)
    file = load_model_file(str(folder / "any.py"))
    params = {"identifier": ["event"], "epochs": 2, "batch_size": 64, "exclude_branches": ["w", "event"], "weight": "w"}
    generator = DataGenerator([folder / "a.root"], "label", params)
    backend = make_backend(file, generator.shapes, Task.of(generator.sample.labels), Params())
    history = train(generator, backend, Params.parse(params))
    parts = [evaluate(generator, backend, part) for part in PARTS]
    content = EventContent(generator, [generator])
    return TrainedModel(
        "model", file, generator, content, (Fit(backend, generator, history, *parts),), "key", {"own": 0.125}
    )


def make_other(folder, task, labels):
    """Train a linear model on several labels or on regression targets."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 2))
    columns = {"event": np.arange(900).astype(np.uint64), "x": x[:, 0], "y": x[:, 1], "is_a": (x[:, 0] > 0) * 1,
               "is_b": (x[:, 1] > 0.5) * 1, "mass": 125 + 10 * x[:, 0], "<width>": x[:, 1]}  # fmt: skip
    write_tree(folder / "a.root", columns)
    model = LINEAR.replace("classes if classes > 2 else 1", "outputs").replace("classes", "outputs")
    (folder / "any.py").write_text(model)
    given = {"identifier": ["event"], "epochs": 5, "batch_size": 64, "selected_branches": ["x", "y"], "tfaas": False}
    params = Params(task=task, **given)
    return train_model(str(folder / "a.root"), labels, str(folder / "any.py"), params, fout=folder / "out")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A model with two labels, and its report."""
    folder = tmp_path_factory.mktemp("labelled")
    return make_other(folder, "multilabel", "is_a,is_b"), (folder / "out" / "report.html").read_text(encoding="utf-8")


def check_sections(source, sections, shown):
    page = Page(source)
    assert [name for name in ("roc", "residuals", "scores", "confusion", "calibration") if name in page.ids] == sections
    assert shown in page.words
    assert "importance" in page.ids


def test_the_sections_of_a_multilabel_report(labelled):
    check_sections(labelled[1], ["roc", "scores", "calibration"], "AUC 0.9")


def test_the_sections_of_a_regression_report(tmp_path):
    make_other(tmp_path, "regression", "mass,<width>")
    source = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    check_sections(source, ["residuals"], "rmse_mass ")


def rows_of(page_text, head):
    """The rows of each table whose first column has this title."""
    tables = re.findall(r"<table.*?</table>", page_text)
    found = [[re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", one)]
             for one in tables]  # fmt: skip
    return [rows[1:] for rows in found if rows[0][0] == head]


def test_each_label_has_its_scores_and_its_calibration(labelled):
    trained, source = labelled
    for name in ("is_a", "is_b"):
        assert f'aria-label="Distribution of the score of {name}"' in source
    assert source.count('aria-label="Calibration"') == 2
    test, tables = trained.test, rows_of(source, "predicted")
    for label, rows in enumerate(tables):
        inside = (test.scores[:, label] * 10).astype(int) == int(float(rows[0][0]) * 10)
        assert float(rows[0][1]) == pytest.approx(test.y[inside, label].mean(), abs=1e-4)
        assert float(rows[0][4]) == pytest.approx(inside.mean(), abs=1e-4)
    compared = [rows for rows in rows_of(source, "class") if rows[0][0].startswith("without")]
    assert [[row[0] for row in rows] for rows in compared] == [
        ["without is_a", "with is_a"],
        ["without is_b", "with is_b"],
    ]
    assert int(compared[1][1][4]) == (test.y[:, 1] > 0).sum()


def test_with_folds_the_overtraining_test_compares_scores_of_one_model(tmp_path):
    write_tree(tmp_path / "a.root", {"event": np.arange(900), "x": np.arange(900.0) % 7, "label": np.arange(900) % 2})
    (tmp_path / "any.py").write_text(QUICK)
    params = Params(identifier=["event"], epochs=1, kfold=5, tfaas=False)
    trained = train_model(str(tmp_path / "a.root"), "label", str(tmp_path / "any.py"), params, fout=tmp_path / "out")
    source = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "For each of the 5 models: 66% training, 14% validation, 20% test, chosen by a hash" in source
    first = trained.fits[0]
    sizes = [len(part.y) for part in (first.train, first.valid, first.test)]
    assert sizes == pytest.approx([0.66 * 900, 0.14 * 900, 0.2 * 900], abs=45)
    compared = next(rows for rows in rows_of(source, "class") if len(rows[0]) == 5)
    assert [int(row[4]) for row in compared] == [(first.test.y == label).sum() for label in (0, 1)]
    parts = {row[0]: row[1] for row in rows_of(source, "part")[0]}
    assert float(parts["test"]) == pytest.approx(first.test.metrics()["loss"], abs=1e-4)
    assert float(parts["all folds"]) == pytest.approx(trained.test.metrics()["loss"], abs=1e-4)


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_metrics_of_balanced_training_use_every_event_once(balance, tmp_path):
    for name, events in (("b", 900), ("s", 300)):
        write_events(tmp_path / f"{name}.root", events, seed=events, run=events)
    files = [tmp_path / "b.root", tmp_path / "s.root"]
    (tmp_path / "any.py").write_text(QUICK)
    params = Params(balance=balance, epochs=1, tfaas=False)
    trained = train_model(files, ["b", "s"], str(tmp_path / "any.py"), params, fout=tmp_path / "out")
    (fit,) = trained.fits
    for part, scored in zip(PARTS, (fit.train, fit.valid, fit.test), strict=True):
        truth = trained.source.sample.composition.events[PARTS.index(part)]
        assert np.bincount(scored.y).tolist() == truth.tolist()
        assert (scored.weight == 1).all()


LOOK = """<script>
const size = svg => [svg.getBoundingClientRect().width, svg.getBoundingClientRect().height];
const found = {
  width: innerWidth, scrolled: document.documentElement.scrollWidth,
  sizes: [...document.querySelectorAll("svg")].map(size),
  requests: performance.getEntriesByType("resource").map(entry => entry.name),
  headings: [...document.querySelectorAll("h2")].map(heading => heading.innerText),
  words: document.body.innerText,
};
document.body.innerHTML = "<pre></pre>";
document.querySelector("pre").textContent = JSON.stringify(found);
</script></body>"""


def in_a_browser(pages, widths):
    """Render each page at each width in one start of a browser; return sizes and texts."""
    for page in pages:
        source = page.read_text(encoding="utf-8")
        page.with_name("look.html").write_text(source.replace("</body>", LOOK), encoding="utf-8")
    looked_at = [(page.with_name("look.html").as_uri(), width) for page in pages for width in widths]
    frames = [
        f'<iframe src="{uri}" width="{width}" height="800" style="border: 0"></iframe>' for uri, width in looked_at
    ]
    windows = pages[0].with_name("windows.html")
    windows.write_text(  # a window of its own would be at least 500 pixels wide
        "".join(frames)
        + """<script>onload = () => {
        const found = [...document.querySelectorAll("iframe")].map(one => one.contentDocument.body.innerText);
        document.body.textContent = "[" + found.join() + "]" } </script>"""
    )
    document, console = dump_dom(
        windows.as_uri(), "--window-size=1400,900", "--enable-logging=stderr", "--allow-file-access-from-files"
    )
    assert "CONSOLE" not in console
    found = json.loads(html.unescape(re.search(r"<body>(.*)</body>", document, re.DOTALL)[1]))
    return [found[first : first + len(widths)] for first in range(0, len(found), len(widths))]


KINDS = {
    "binary": ("label", {"weight": "w"}),
    "classes": ("three", {}),
    "labels": (["is_a", "is_b"], {"task": "multilabel"}),
    "numbers": (["mass", "a_name_that_is_so_long_that_no_telephone_shows_it"], {"task": "regression"}),
}
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The report of each kind of model, and its display in a browser at the widths WIDTHS."""
    folder = tmp_path_factory.mktemp("reports")
    rng, number = np.random.default_rng(0), np.arange(900)
    x = rng.normal(size=(900, 2))
    columns = {
        "event": number.astype(np.uint64), "x": x[:, 0] + number % 3, "y": x[:, 1], "label": number % 2,
        "three": number % 3, "is_a": (x[:, 0] > 0) * 1, "is_b": (x[:, 1] > 0) * 1, "mass": 125 + x[:, 0],
        "w": rng.choice([2.0, 1.0, -1.0], 900), "a_name_that_is_so_long_that_no_telephone_shows_it": x[:, 1],
    }  # fmt: skip
    write_tree(folder / "a.root", columns)
    (folder / "any.py").write_text(
        LINEAR.replace("classes if classes > 2 else 1", "outputs").replace("classes", "outputs")
    )
    pages = []
    for kind, (labels, more) in KINDS.items():
        params = Params(identifier=["event"], epochs=2, selected_branches=["x", "y"], tfaas=False, **more)
        train_model(str(folder / "a.root"), labels, str(folder / "any.py"), params, fout=folder / kind)
        pages.append(folder / kind / "report.html")
    sources = [page.read_text(encoding="utf-8") for page in pages]
    return dict(zip(KINDS, zip(sources, in_a_browser(pages, WIDTHS), strict=True), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_browser_shows_every_report_on_desktops_and_phones(kind, reports):
    source, windows = reports[kind]
    for width, found in zip(WIDTHS, windows, strict=True):
        assert found["width"] == width
        assert found["scrolled"] <= width
        assert len(found["sizes"]) == source.count("<svg") >= 4
        assert all(wide > 200 and high > 50 for wide, high in found["sizes"])
        assert found["requests"] == []
        assert found["headings"][:4] == ["Result", "Sample", "Features", "Training"]
        assert found["headings"][-3:] == ["Importance", "Parameters", "Versions"]
        assert re.search(r"(AUC|rmse\w*) \d+\.\d+", found["words"])
        assert "could not be created" not in found["words"]


def test_the_bundle_is_written_if_a_section_fails(tmp_path, monkeypatch, capsys):
    write_tree(tmp_path / "a.root", {"event": np.arange(400), "x": np.arange(400.0) % 7, "label": np.arange(400) % 2})
    (tmp_path / "any.py").write_text(LINEAR)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "mplhep.py").write_text("raise RuntimeError('an installation that is damaged')")
    monkeypatch.delitem(sys.modules, "mplhep", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "broken")
    params = Params(identifier=["event"], epochs=1, tfaas=False)
    train_model(str(tmp_path / "a.root"), "label", str(tmp_path / "any.py"), params, fout=tmp_path / "out")
    said = capsys.readouterr().err
    assert "note: the report has no section 'ROC': RuntimeError: an installation that is damaged" in said
    assert {"model.onnx", "metrics.json", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "This section could not be created" in page.words
    assert str(tmp_path / "a.root") in page.all("td")


def changed(trained, **changes):
    """The same run with changes of its model."""
    return replace(trained, fits=(replace(trained.fits[0], **changes),))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    found = make(tmp_path_factory.mktemp("two"))
    yield found
    found.source.close()


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    """The report of `trained`."""
    return report(trained, tmp_path_factory.mktemp("report"))


def words(trained, folder, monkeypatch):
    """The text of the report without plots, which are slow."""
    monkeypatch.setattr(plots, "available", lambda: False)
    return report(trained, folder)[1].words


def report(trained, folder, training=TRAINING):
    """Write the report; return its source and the parsed page."""
    write_report(folder / "report.html", trained, training)
    source = (folder / "report.html").read_text(encoding="utf-8")
    return source, Page(source)


def test_the_page_is_well_formed_and_self_contained(written):
    source, page = written
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "//" not in re.sub(r'xmlns(:xlink)?="http://www\.w3\.org/[^"]+"', "", source)
    assert re.findall(r"url\((?!#)|@import|<script", source) == []
    assert set(re.findall(r"url\(#([^)]+)\)", source)) <= set(page.ids)
    assert source.count("<svg") == 8
    assert source.count("<svg") == len(page.all("title")) - 1
    drawn = [attributes for tag, attributes in page.attributes if tag == "svg"]
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in drawn)
    assert all(attributes["aria-label"] for tag, attributes in page.attributes if tag == "table")
    fonts = set(re.findall(r"font-family: ([^;\"]+)", source))
    assert fonts == {plots.FONTS}


def test_the_same_run_gives_the_same_plots(trained):
    assert plots.loss_curves(trained.fits[0].history) == plots.loss_curves(trained.fits[0].history)


def test_the_page_shows_the_numbers_of_the_sample(trained, written):
    source, page = written
    parts = (trained.fits[0].train, trained.fits[0].valid, trained.test)
    rows = re.findall(r"<tr>(.*?)</tr>", source)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]
    head = next(row for row in cells if row[0] == "class")
    assert head[1:4] == ["training events", "training Σw", "training effective"]
    for index, name in enumerate(trained.source.classes):
        found = next(row for row in cells if row[0] == name)
        assert [int(cell.replace(",", "")) for cell in found[1::3]] == [int((one.y == index).sum()) for one in parts]
        sums = [float(cell.replace(",", "")) for cell in found[2::3]]
        assert sums == pytest.approx([one.weight[one.y == index].sum() for one in parts], abs=0.5)
    test = trained.metrics()["test"]
    assert f"AUC {test['auc']:.4f} ± {test['auc_uncertainty']:.4f}" in page.words
    assert ["own", "0.1250"] in cells
    assert sum(len(one.y) for one in parts) == 1500


def test_negative_weights_are_reported(trained, written, tmp_path, monkeypatch):
    weights = np.concatenate([one.weight for one in (trained.fits[0].train, trained.fits[0].valid, trained.test)])
    assert f"{(weights < 0).mean():.2%} of the events have a negative weight" in written[1].words
    ones = changed(trained, train=unit(trained.fits[0].train), test=unit(trained.test),
                   valid=unit(trained.fits[0].valid))  # fmt: skip
    said = words(ones, tmp_path, monkeypatch)
    assert "negative" not in said
    assert "all have weight 1" in said
    assert "Σw" not in said


def unit(scored):
    """The same with weights of 1."""
    return replace(scored, weight=np.ones_like(scored.weight))


def test_the_uncertainty_of_the_auc_depends_on_effective_events(trained):
    doubled = changed(trained, test=replace(trained.test, weight=2 * trained.test.weight))
    figures, again = trained.metrics()["test"], doubled.metrics()["test"]
    assert again["auc_uncertainty"] == pytest.approx(figures["auc_uncertainty"])
    plain = changed(trained, test=unit(trained.test)).metrics()["test"]
    assert figures["auc_uncertainty"] > 1.2 * plain["auc_uncertainty"]  # weights of both signs


def test_special_characters_in_names_are_escaped(trained, tmp_path, monkeypatch):
    labels = trained.source.sample.labels
    monkeypatch.setattr(trained.source.sample, "labels", replace(labels, classes=HOSTILE))
    source, page = report(replace(trained, name="<i>&'\""), tmp_path)
    assert page.all("h1") == ["<i>&'\""]
    for name in HOSTILE:
        assert name in page.all("td")
        assert sum(name in text for text in page.all("text")) > 2
        assert name not in source
    assert "<a>.root" in page.all("td")


def test_without_matplotlib_there_are_only_tables(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "available", lambda: False)
    source, page = report(trained, tmp_path)
    assert "<svg" not in source
    assert "pip install 'mlaas4hep[plot]'" in page.words
    assert {"signal", "noise", "pt"} <= set(page.all("td"))


def test_overtraining_is_reported(trained, written, tmp_path, monkeypatch):
    assert "No sign of overtraining." in written[1].words
    known = replace(
        trained.fits[0].train, scores=np.where(trained.fits[0].train.y[:, None] == 1, 0.99, 0.01).astype(np.float32)
    )
    said = words(changed(trained, train=known), tmp_path, monkeypatch)
    assert re.search(r"Overtraining\. The scores .* differ significantly for classes 0, 1 \(p < 0\.005\)", said)


def test_the_time_spent_waiting_for_data_is_reported(trained, tmp_path, monkeypatch):
    history = trained.fits[0].history
    unknown = replace(history, epochs=tuple(replace(epoch, waiting=0.0) for epoch in history.epochs))
    assert "waiting" not in words(changed(trained, history=unknown), tmp_path, monkeypatch)
    epochs = tuple(replace(epoch, seconds=10.0, waiting=2.5, events=1000) for epoch in trained.fits[0].history.epochs)
    said = words(changed(trained, history=replace(trained.fits[0].history, epochs=epochs)), tmp_path, monkeypatch)
    count = len(epochs)
    assert f"{count * 7.5} s of training, and {count * 2.5} s (25%) of waiting for data" in said
    assert f"{count} epochs in {count * 10.0} s, 100 events/s" in said


def test_the_most_important_branch_is_first(written):
    source, page = written
    section = source[source.index('<section id="importance">') :]
    assert re.search(r"<td>(\w+)</td>", section)[1] == "signal"
    assert "from 4 of 4 branches" in page.words  # uproot adds npt


@pytest.mark.parametrize(("classes", "drawn"), [(3, 2 + 2 + 3 + 1 + 1 + 1), (25, 2 + 2 + 6 + 0 + 1 + 1)])
def test_the_number_of_plots_for_many_classes_is_limited(classes, drawn, tmp_path):
    trained = make(tmp_path, classes, events=4000)
    with trained.source:
        source, page = report(trained, tmp_path)
    assert source.count("<svg") == drawn
    assert "increase of the loss" in page.words
    if classes == 3:
        shares = [text for text in page.all("text") if re.fullmatch(r"[01]\.\d{3}", text)]
        assert len(shares) >= 9
    else:
        assert "The plot shows the first 10 of 25 classes" in page.words
        assert "The most frequent confusions of 25 classes" in page.words


def test_a_test_set_of_one_class_has_a_report(trained, tmp_path):
    ones = trained.test.y == 1
    test = replace(trained.test, y=trained.test.y[ones], scores=trained.test.scores[ones],
                   weight=trained.test.weight[ones])  # fmt: skip
    _, page = report(changed(trained, test=test), tmp_path)
    assert "all events of the test set have the same class" in page.words


def test_the_report_of_nine_hundred_branches_is_below_one_megabyte(tmp_path):
    rng = np.random.default_rng(1)
    more = {f"Collection_ofBranches_number{index:03d}": rng.normal(size=300).astype("f4") for index in range(943)}
    trained = make(tmp_path, events=300, more=more)
    with trained.source:
        source, page = report(trained, tmp_path)
    assert f"{len(trained.source.specs.branches)} branches" in page.words
    assert len(source) < 1_000_000


def test_the_roc_curve_of_many_events_has_few_points():
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 200_000)
    scores = 1 / (1 + np.exp(-rng.normal(y, 1)))[:, None]
    curve = one_vs_rest_curves(scored(y, scores), ["a", "b"])
    assert curve[0].area == binary_auc(y == 1, scores[:, 0])
    assert len(plots.roc_curves(curve)) < 40_000
    assert len(plots.rejection_curves(curve)) < 40_000


def test_rejection_is_the_inverse_of_the_background_efficiency():
    score = np.concatenate([np.linspace(0.5, 1, 100), np.linspace(0, 0.75, 100)])[:, None]
    (curve,) = one_vs_rest_curves(scored(np.repeat([1, 0], 100), score), ["background", "signal"])
    assert curve.rejection_at(0.8) == pytest.approx(100 / (score[100:, 0] >= score[20, 0]).sum())
    assert np.isnan(curve.rejection_at(0.3))  # no background remains


def scored(y, scores):
    """Scores with weights of 1."""
    return Predictions(y, scores, np.ones(len(y), np.float32), Task.classification(2))
