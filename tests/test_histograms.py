"""Histograms hold every finite value once, and the PDF is one."""

import re

import awkward as ak
import numpy as np
import pytest
from tinyroot import write_tree

from mlaas4hep.reader import DataReader
from mlaas4hep.reader.histograms import BINS, ROWS, fill_histograms, write_histograms


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


def test_every_finite_value_is_counted_once_before_normalisation(reader):
    raw, _ = fill_histograms(reader)
    assert {name: int(histogram.counts.sum()) for name, histogram in raw.items()} == {"same": 6, "x": 4, "pt": 4}
    assert raw["pt"].edges[[0, -1]].tolist() == [1, 61]
    assert raw["pt"].counts.nonzero()[0].tolist() == [0, 1, 2, BINS - 1]
    assert raw["same"].counts[BINS // 2] == 6


def test_after_normalisation_the_bins_are_the_same_ones(reader):
    raw, normalised = fill_histograms(reader)
    assert normalised["x"].edges[[0, -1]].tolist() == [0, 1]
    np.testing.assert_array_equal(normalised["pt"].counts, raw["pt"].counts)


def test_the_pdf_has_a_page_for_every_five_branches(reader, tmp_path):
    pytest.importorskip("matplotlib", reason="histograms need matplotlib: pip install 'mlaas4hep[plot]'")
    write_histograms(reader, tmp_path / "hists" / "a.pdf")
    content = (tmp_path / "hists" / "a.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", content)) == -(-3 // ROWS)
    assert [path.name for path in (tmp_path / "hists").iterdir()] == ["a.pdf"]
