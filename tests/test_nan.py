"""NaN of any sign and payload, signalling ones too: the same specs, vectors, objects and identity as the usual NaN."""

import awkward as ak
import numpy as np
import pytest
from test_bools import COMPILED
from tinyroot import write_tree

from mlaas4hep.reader import DataReader
from mlaas4hep.stream.split import identity_hash

EVENTS = 200
USUAL = {"f4": [0x7FC00000], "f8": [0x7FF8000000000000]}
OTHERS = {
    "f4": [0x7F800001, 0xFFC00001, 0xFF800001, 0x7FFFFFFF],
    "f8": [0x7FF0000000000001, 0xFFF8000000000000, 0xFFF0000000000001, 0xFFFFFFFFFFFFFFFF],
}


def numbers(kind, count, patterns):
    """Return numbers, every third of which is a NaN of one of the bit patterns."""
    values = np.random.default_rng(count).normal(size=count).astype(kind)
    bits = values.view(f"u{kind[1]}")
    bits[::3] = np.resize(np.array(patterns[kind], bits.dtype), len(bits[::3]))
    return values


def write(path, patterns):
    counts = np.arange(EVENTS) % 5
    lists = {kind: ak.unflatten(numbers(kind, int(counts.sum()), patterns), counts) for kind in ("f4", "f8")}
    flat = {f"flat_{kind}": numbers(kind, EVENTS, patterns) for kind in ("f4", "f8")}
    write_tree(path, {**flat, **{f"list_{kind}": values for kind, values in lists.items()}}, clusters=2)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("normalise", ["auto", "none"])
def test_every_nan_is_the_same_nan(tmp_path, monkeypatch, compiled, normalise):
    if not compiled:
        for module in COMPILED:
            monkeypatch.setattr(f"mlaas4hep.{module}.KERNEL", None)
    objects = {
        "up": {"branches": ["list*"], "length": 3, "sort": "list_f4"},
        "down": {"branches": ["list*"], "length": 3, "sort": "-list_f8"},
    }
    made = []
    for patterns in (USUAL, OTHERS):
        write(tmp_path / "a.root", patterns)
        for inputs in (None, objects):
            with DataReader(tmp_path / "a.root", normalise=normalise, nan=0.0, inputs=inputs) as reader:
                assert all(branch.nan > 0 for name, branch in reader.specs.branches.items() if name[0] != "n")
                tensors = [{name: part.tobytes() for name, part in chunk.inputs.items()} for chunk in reader]
            made.append((reader.specs.branches, tensors))
    assert made[:2] == made[2:]


def test_identifiers_that_are_nan_are_alike(tmp_path):
    hashes = []
    for patterns in (USUAL, OTHERS):
        write(tmp_path / "a.root", patterns)
        with DataReader(tmp_path / "a.root", identifier=["flat_f4", "flat_f8"]) as reader:
            chunk = next(iter(reader))
        hashes.append(identity_hash(chunk.ids, chunk.entries, "").tolist())
    assert hashes[0] == hashes[1]
