"""Write histograms of every branch, before and after normalisation, as a PDF and as an HTML page.

write_histograms(DataReader("data.root"), "hists")      # hists/data.pdf and hists/data.html
"""

from __future__ import annotations

import os
from pathlib import Path

from mlaas4hep.errors import require
from mlaas4hep.files import check_replaceable, is_from_mlaas4hep
from mlaas4hep.histograms.fill import fill_histograms
from mlaas4hep.histograms.html_page import write_html
from mlaas4hep.histograms.pdf import write_pdf
from mlaas4hep.reader.data_reader import DataReader


def write_histograms(reader: DataReader, folder: str | os.PathLike[str], name: str = "") -> list[Path]:
    """Read all events and write a PDF and an HTML page.

    Args:
        name: name of the two files without the suffix (default: that of the input file).

    Returns:
        The paths of the HTML page and of the PDF.

    Raises:
        PackageMissing: hist, matplotlib or mplhep is not installed.
        ConfigError: one of the files exists and was not written by MLaaS4HEP.
        FileUnreadable: a file cannot be written.
    """
    for package in ("matplotlib", "mplhep", "hist"):
        require(package, "plot", "histograms")
    stem = name or Path(reader.location).stem
    paths = [Path(folder) / f"{stem}{ending}" for ending in (".html", ".pdf")]
    for path in paths:
        check_replaceable(path, is_from_mlaas4hep, "histograms of MLaaS4HEP", "move it, or name another folder")
    pairs = fill_histograms(reader)
    write_html(reader, pairs, paths[0])
    write_pdf(pairs, paths[1])
    return paths
