"""Flat columns that are copied to another file, for all entries of a file.

    copied_types(reader, ["mass", "ht"])                # {"mass": float32, "ht": float64}
    copied_values(reader, ["mass", "ht"], 0, 1000)      # arrays (1000,)

Columns of the file are copied as they are. Columns that preprocessing defines are float64, NaN for entries that fail
the cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlaas4hep.reader import DataReader
from mlaas4hep.reader.selection import flat_columns


def copied_types(reader: DataReader, names: Sequence[str]) -> dict[str, np.dtype[Any]]:
    """Return the types of some columns, by name.

    Raises:
        BranchNotFound: a column does not exist.
        ConfigError: a column does not have one number per event.
    """
    flat_columns(reader.available, names, reader.name)
    new = np.dtype(np.float64)
    return {name: reader.available[name].dtype if name in reader.file_columns else new for name in names}


def copied_values(reader: DataReader, names: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
    """Return the values of some columns for the entries start <= i < stop, (entries,) each.

    In damaged clusters, the values may be 0.
    """
    found = reader.flat_values([name for name in names if name in reader.file_columns], start, stop)
    new = [name for name in names if name not in found]
    if new:
        values, entries = reader.read_columns(start, stop, new)
        for name in new:
            found[name] = np.full(stop - start, np.nan)
            found[name][entries - start] = values[name]
    return {name: found[name] for name in names}
