"""One file with a bit flipped here or cut off there, many times over, in a process that must survive it.

python damage_in_process.py parquet events.parquet       # prints how it ended, how often
"""

import faulthandler
import json
import math
import sys
from collections import Counter
from pathlib import Path

import awkward as ak
import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uproot

from mlaas4hep.errors import MLaaS4HEPError
from mlaas4hep.io import Jagged, Kind, open_source

FLIPS, CUTS = 240, 20
PATIENCE = 60
"""Seconds after which one attempt counts as hanging, and ends the process."""


def read(path):
    """Return what we read, column by column: a list an event, or the error."""
    with open_source(str(path)) as source:
        names = [name for name, column in source.columns.items() if column.kind is not Kind.OTHER]
        return {name: attempt(lambda name=name: as_lists(source, name)) for name in names}


def attempt(work):
    """Return what work returns, or the error that a user would see."""
    try:
        return work()
    except MLaaS4HEPError as error:
        return error


def as_lists(source, name):
    values = source.read([name], 0, source.num_entries)[name]
    if isinstance(values, Jagged):
        return [part.tolist() for part in np.split(values.content, values.offsets[1:-1])] if len(values) else []
    return [np.ravel(value).tolist() for value in values]


def library(kind, path, field):
    """Return the values of a top-level field as the format's own library reads them, one an event."""
    if kind == "parquet":
        return pq.read_table(path, columns=[field], use_threads=False).column(field).to_pylist()
    if kind == "feather":
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        table.validate(full=True)
        return table.column(field).to_pylist()
    if kind == "avro":
        with path.open("rb") as file:
            return [row[field] for row in fastavro.reader(file)]
    return ak.to_list(uproot.open(path)["Events"].arrays(filter_name=[field])[field])


def flat(value, members):
    """Return the numbers that a value, or a member of each of its items, holds."""
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in flat(item, members)]
    if isinstance(value, dict):
        return flat(value[members[0]], members[1:])
    return [math.nan if value is None else value]


def same(ours, theirs):
    """Whether the numbers of all events are the same."""
    return len(ours) == len(theirs) and all(
        len(one) == len(other) and np.array_equal(np.array(one, float), np.array(other, float), equal_nan=True)
        for one, other in zip(ours, theirs, strict=True)
    )


def check(kind, path, truth):
    """Check one damaged file; return how it ended."""
    found = attempt(lambda: read(path))
    if isinstance(found, MLaaS4HEPError):
        found = {"": found}
    ends = set()
    for name, values in found.items():
        if isinstance(values, MLaaS4HEPError):
            assert str(path) in str(values), values
            assert "\n" not in str(values), values
            ends.add("refused")
        elif name in truth and same(values, truth[name]):
            ends.add("right")
        else:
            field, *members = name.split(".")
            theirs = [flat([] if value is None else value, members) for value in library(kind, path, field)]
            assert same(values, theirs), f"{name} is neither what it was nor what the library reads"
            ends.add("as the library")
    return max(ends, key=["right", "as the library", "refused"].index)


def main():
    """Damage a file again and again."""
    kind, original = sys.argv[1], Path(sys.argv[2])
    content = bytearray(original.read_bytes())
    truth = read(original)
    path = original.with_name("damaged.data")
    rng = np.random.default_rng(1)
    ends = Counter()
    first = np.where(np.arange(FLIPS) % 2, 0, len(content) * 3 // 4)  # half of them where formats have their index
    places = zip(rng.integers(first, len(content)), rng.integers(0, 8, FLIPS), strict=True)
    damages = [(int(place), 1 << int(bit), len(content)) for place, bit in places]
    damages += [(0, 0, int(length)) for length in np.linspace(0, len(content) - 1, CUTS)]
    for place, bit, length in damages:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        content[place] ^= bit
        path.write_bytes(content[:length])
        content[place] ^= bit
        print(place, bit, length, file=sys.stderr, flush=True)
        ends[check(kind, path, truth)] += 1
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(ends))


if __name__ == "__main__":
    faulthandler.enable()
    main()
