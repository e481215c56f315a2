"""Histograms hold every finite value once, and the PDF is one."""

import re
import shutil
import subprocess

import awkward as ak
import numpy as np
import pytest
from tinyroot import write_tree

from mlaas4hep.reader import DataReader
from mlaas4hep.reader.histogram_pages import ROWS
from mlaas4hep.reader.histograms import BINS, fill_histograms, write_histograms


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


def test_after_normalisation_the_bins_are_the_same_ones(pairs):
    assert pairs["x"].normalised.axes[0].edges[[0, -1]] == pytest.approx([0, 1])
    np.testing.assert_array_equal(pairs["pt"].normalised.values(), pairs["pt"].raw.values())


@pytest.fixture
def written(reader, tmp_path):
    for package in ("hist", "matplotlib", "mplhep"):
        pytest.importorskip(package, reason="histograms need more: pip install 'mlaas4hep[plot]'")
    return write_histograms(reader, tmp_path / "hists")


def test_the_pdf_has_a_page_for_every_five_branches(written):
    page, pdf = written
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", content)) == -(-3 // ROWS)
    assert sorted(path.name for path in pdf.parent.iterdir()) == [page.name, pdf.name] == ["a.html", "a.pdf"]


def test_the_page_has_two_plots_of_every_branch_whose_heights_are_the_counts(written, pairs):
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
    assert "http" not in text  # it stands alone


def test_a_real_browser_shows_all_branches(written):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", written[0].as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert ">3 of 3 branches</span>" in done.stdout  # the script counts them
