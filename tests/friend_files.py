"""Friend trees with known content."""

import awkward as ak
import numpy as np
from tinyroot import write_events, write_tree

EVENTS = 1000
INDEX = ["run", "luminosityBlock", "event"]


def friend_columns(main, rows, seed=5):
    """Columns of a friend whose entries have the identifiers of some rows of the main tree."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, len(rows))
    identifiers = {name: main[name][rows] for name in INDEX}
    return {
        **identifiers,
        "score": rng.normal(size=len(rows)).astype(np.float32),
        "njet": rng.integers(0, 9, len(rows)).astype(np.int32),
        "passed": rng.random(len(rows)) > 0.5,
        "weights": ak.unflatten(rng.normal(size=counts.sum()), counts),
    }


def expected(main, friend, name):
    """The value of a column for each entry of the main tree, looked up in a dict: the first entry counts."""
    rows = {}
    for row, key in enumerate(zip(*(friend[name].tolist() for name in INDEX), strict=True)):
        rows.setdefault(key, row)
    values = ak.to_list(friend[name])
    absent = [] if name == "weights" else None
    keys = zip(*(main[name].tolist() for name in INDEX), strict=True)
    return [values[rows[key]] if key in rows else absent for key in keys]


def write_files(folder):
    """Write a.root, and f.root with its entries in another order and holes.

    Return the option for the friend `sc`, its columns, and those of the main tree.
    """
    main = write_events(folder / "a.root", EVENTS, clusters=4)
    columns = friend_columns(main, np.random.default_rng(4).permutation(EVENTS)[:900])
    write_tree(folder / "f.root", columns, 5, "scores")
    return {"sc": {"file": str(folder / "f.root"), "tree": "scores", "index": INDEX}}, columns, main
