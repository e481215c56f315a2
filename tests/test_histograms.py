"""Histograms of every branch, as PDF and HTML."""

import re

import awkward as ak
import numpy as np
import pytest
from browser import dump_dom
from scripts import run_forked
from tinyroot import write_tree

from mlaas4hep.histograms.fill import BINS, fill_histograms
from mlaas4hep.histograms.pdf import ROWS
from mlaas4hep.histograms.write import write_histograms
from mlaas4hep.reader import DataReader


@pytest.fixture
def reader(tmp_path):
    columns = {
        "x": np.array([0.0, 1.0, 2.0, 6.0, np.nan, np.inf]),
        "same": np.full(6, 5, np.int32),
        "pt": ak.Array([[1.0, 2.0], [], [3.0], [], [], [61.0]]),
    }
    write_tree(tmp_path / "a.root", columns, clusters=2)
    with DataReader(tmp_path / "a.root", exclude_branches=["npt"], normalise="minmax") as reader:
        yield reader


@pytest.fixture
def pairs(reader):
    pytest.importorskip("hist", reason="histograms need hist: pip install 'mlaas4hep[plot]'")
    return {pair.branch: pair for pair in fill_histograms(reader)}


def test_every_finite_value_is_counted_once_before_normalisation(pairs):
    assert {name: int(pair.raw.values().sum()) for name, pair in pairs.items()} == {"same": 6, "x": 4, "pt": 4}
    assert pairs["pt"].raw.axes[0].edges[[0, -1]] == pytest.approx([1, 61])
    assert pairs["pt"].raw.values().nonzero()[0].tolist() == [0, 1, 2, BINS - 1]
    assert pairs["same"].raw.values()[BINS // 2] == 6


def test_normalised_values_fall_into_the_same_bins(pairs):
    assert pairs["x"].normalised.axes[0].edges[[0, -1]] == pytest.approx([0, 1])
    np.testing.assert_array_equal(pairs["pt"].normalised.values(), pairs["pt"].raw.values())


@pytest.fixture
def written(reader, tmp_path):
    for package in ("hist", "matplotlib", "mplhep"):
        pytest.importorskip(package, reason="histograms need more: pip install 'mlaas4hep[plot]'")
    return write_histograms(reader, tmp_path / "hists")


def test_the_pdf_has_one_page_per_five_branches(written):
    page, pdf = written
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", content)) == -(-3 // ROWS)
    assert sorted(path.name for path in pdf.parent.iterdir()) == [page.name, pdf.name] == ["a.html", "a.pdf"]


def test_the_html_page_has_two_plots_per_branch_with_the_right_heights(written, pairs):
    text = written[0].read_text(encoding="utf-8")
    assert re.findall(r'<article id="([^"]+)"', text) == list(pairs)
    for name, pair in pairs.items():
        for what, histogram in (("as read", pair.raw), ("normalised: minmax", pair.normalised)):
            label = re.escape(f'aria-label="Histogram of {name}, {what}"')
            (path,) = re.findall(label + r'><path d="M0 110(.*?)V110Z"', text)
            heights = [110 - float(top) for top in re.findall(r"V([^H]+)H", path)]
            counts = histogram.values()
            assert heights == pytest.approx((110 * counts / counts.max()).tolist(), abs=0.1)
    assert "1 NaN" in text
    assert "http" not in text  # it loads nothing from elsewhere


def test_odd_names_steep_histograms_and_zeros_print_no_warnings(tmp_path):
    steep = np.zeros(6000)
    steep[:3] = 1, 2, 3  # needs a logarithmic scale
    names = ("esc\x1b[31m", "nl\nx", "z$\\frac$", "中")
    write_tree(tmp_path / "a.root", {"steep": steep, "zeros": np.zeros(6000), **dict.fromkeys(names, steep)})
    done = run_forked("reader.py", "--fin=a.root", "--hists", "--normalise=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("note: histograms of 6 branches written to ") for line in lines), lines


def test_a_real_browser_shows_all_branches(written):
    document, _ = dump_dom(written[0].as_uri())
    assert ">3 of 3 branches</span>" in document  # the script counts them
