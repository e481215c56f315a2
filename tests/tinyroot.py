"""Tiny ROOT files with known content."""

from itertools import pairwise

import awkward as ak
import numpy as np
import uproot


def write_events(path, events, *, seed=0, run=1, clusters=3, first_event=0, **more):
    """Write a tree Events with identifiers, a flat and a jagged branch, in several clusters; return its columns."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, events)
    columns = {
        "run": np.full(events, run, np.uint32),
        "luminosityBlock": (np.arange(events) // 7).astype(np.uint32),
        "event": (np.arange(events) + first_event).astype(np.uint64),
        "met": rng.exponential(30, events).astype(np.float32),
        "pt": ak.unflatten(rng.exponential(20, counts.sum()).astype(np.float32), counts),
        **more,
    }
    write_tree(path, columns, clusters)
    return columns


def write_tree(path, columns, clusters=1, name="Events"):
    """Write columns (NumPy arrays, or awkward arrays of lists) as a TTree with so many clusters."""
    events = len(next(iter(columns.values())))
    types = {
        key: values.dtype if isinstance(values, np.ndarray) else f"var * {ak.to_numpy(ak.flatten(values)).dtype}"
        for key, values in columns.items()
    }
    types = {
        key: np.dtype((dtype, columns[key].shape[1:]))
        if getattr(columns[key], "ndim", 1) > 1 and dtype_is_array(dtype)
        else dtype
        for key, dtype in types.items()
    }
    with uproot.recreate(path) as file:
        tree = file.mktree(name, types)
        edges = [events * index // clusters for index in range(clusters + 1)]
        for start, stop in pairwise(edges):
            if stop > start:
                tree.extend({key: values[start:stop] for key, values in columns.items()})


def dtype_is_array(dtype):
    """Whether a branch type is one of NumPy arrays, not of lists."""
    return isinstance(dtype, np.dtype)
