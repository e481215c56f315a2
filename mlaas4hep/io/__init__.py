"""Read columns of files: ROOT, Parquet, Arrow, Avro, CSV and JSON lines, on disk or on servers.

with open_source("data.root", tree="Events") as source:
    source.read(["MET_pt"], 0, 1000)
"""

from mlaas4hep.io.columns import Column, Columns, Jagged, Kind, Nested
from mlaas4hep.io.opening import open_source
from mlaas4hep.io.source import Source

__all__ = ["Column", "Columns", "Jagged", "Kind", "Nested", "Source", "open_source"]
