"""Floor 1: names → bytes → columns.

with open_source("data.root", tree="Events") as source:
    source.read(["MET_pt"], 0, 1000)
"""

from mlaas4hep.io.columns import Column, Columns, Jagged, Kind
from mlaas4hep.io.source import Source, open_source

__all__ = ["Column", "Columns", "Jagged", "Kind", "Source", "open_source"]
