"""Tiny ROOT files with known content."""

import uuid
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


def write_large_clusters(path, clusters, baskets, rows, **options):
    """Write a tree as `write_events` does, of clusters that have so many baskets of `rows` events; return its columns.

    What makes a cluster is that the baskets of all branches begin with it. Within clusters, those of a further branch
    `unread` are said to begin one event later than the others do; nobody can read it.
    """
    count = clusters * baskets
    columns = write_events(path, count * rows, clusters=count, **options, unread=np.zeros(count * rows, np.int8))
    edges = np.arange(count + 1) * rows
    old, new = (edge.astype(">i8").tobytes() for edge in (edges, edges + (np.arange(count + 1) % baskets > 0)))
    before, found, after = path.read_bytes().rpartition(old)
    assert found
    path.write_bytes(before + new + after)
    return columns


def copy_with_new_uuid(source, path):
    """Write a copy of a ROOT file that counts as another file."""
    with uproot.open(source) as file:
        identity = file.file.uuid.bytes
    path.write_bytes(source.read_bytes().replace(identity, uuid.uuid4().bytes))


def damage(path, branch, basket, tree="Events"):
    """Overwrite a part of one basket's content."""
    with uproot.open(path) as file:
        member = file[tree][branch].member
        seek, size = int(member("fBasketSeek")[basket]), int(member("fBasketBytes")[basket])
    content = bytearray(path.read_bytes())
    content[seek + size // 2 : seek + size // 2 + 200] = bytes(200)
    path.write_bytes(content)


def rename_branch(path, old, new):
    """Change a branch's name in the metadata of a tree to one of the same length; `old` is found nowhere else."""
    content = path.read_bytes()
    assert old.encode() in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old.encode(), new.encode()))
