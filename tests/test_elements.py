"""Trees of vectors and of split objects: read without uproot, they have the same columns and values.

ROOT 6.40 wrote `files/elements.root` (`files/elements.py`, which has the same formulas).
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from check_source import check_source
from realdata import real_file
from test_statistics import needs_kernel

from mlaas4hep.errors import MLaaS4HEPError
from mlaas4hep.io import Kind, open_source
from mlaas4hep.io.columns import Jagged, Nested, offsets_of
from mlaas4hep.io.root.metadata.tree_record import _Parser, read_record
from mlaas4hep.io.root.tree_keys import find_tree, read_object
from mlaas4hep.io.root.uproot_source import open_root_file
from mlaas4hep.io.storage.byte_ranges import LocalRanges

PATH = Path(__file__).parent / "files" / "elements.root"
TREES = ("vectors", "split", "ntuple", "doubles")
EVENTS = np.arange(50)


def lists(counts, formula, dtype):
    """A list per event, of which number k is formula(event, k)."""
    event, k = np.repeat(EVENTS, counts), np.concatenate([np.arange(count) for count in counts])
    return Jagged(offsets_of(counts), np.asarray(formula(event, k)).astype(dtype))


def arrays(counts, size, formula, dtype):
    """A list of arrays per event; number j of array k is formula(event, k, j)."""
    event, k = np.repeat(EVENTS, counts), np.concatenate([np.arange(count) for count in counts])
    numbers = formula(event[:, None], k[:, None], np.arange(size)).astype(dtype).reshape(-1)
    return Nested(offsets_of(counts), Jagged(np.arange(len(k) + 1) * size, numbers))


def vectors():
    n = 3 * EVENTS % 4
    k = np.concatenate([np.arange(count) for count in n])
    return {
        "f": lists(n, lambda e, k: e + k / 4, "f4"),
        "d": lists(n, lambda e, k: e - k / 4, "f8"),
        "i": lists(n, lambda e, k: k - e, "i4"),
        "uc": lists(n, lambda e, k: 200 + k, "u1"),
        "b": lists(n, lambda e, k: k == 1, "?"),
        "s": lists(n, lambda e, k: -k, "i2"),
        "l": lists(n, lambda e, k: 2**40 + e, "i8"),
        "ff": Nested(offsets_of(n), Jagged(offsets_of(k), np.repeat(np.repeat(EVENTS, n), k).astype("f4"))),
        "li": lists(n, lambda e, k: e + k, "i4"),
        "se": lists(n, lambda e, k: e + k, "i4"),
        "n": n.astype("i4"),
    }


def split():
    n = EVENTS % 3
    return {
        "header/run": np.full(50, 7, "u4"),
        "header/event": 2**63 + EVENTS.astype("u8"),
        "header/x[2][2]": (EVENTS[:, None] + np.arange(4) / 4).astype("f4"),
        "tracks": n.astype("i4"),
        "tracks/tracks.pt": lists(n, lambda e, k: e + k / 4, "f4"),
        "tracks/tracks.hits[3]": arrays(n, 3, lambda e, k, j: e - k + j, "i2"),
        "tracks/tracks.good": lists(n, lambda e, k: k == 1, "?"),
        "points/points.z": lists(n, lambda e, k: e - k / 4, "f8"),
        "points/points.cell[2]": arrays(n, 2, lambda e, k, j: np.where(j, k, e), "i4"),
    }


TRUTH = {
    "vectors": vectors(),
    "split": split(),
    "ntuple": {"a": EVENTS.astype("f4"), "b": (-EVENTS / 2).astype("f4")},
    "doubles": {"a": EVENTS / 2},
}


def parts(values):
    """The arrays that values consist of."""
    if isinstance(values, Nested):
        return [values.offsets, *parts(values.lists)]
    return [values.offsets, values.content] if isinstance(values, Jagged) else [values]


def check_same(found, expected):
    assert type(found) is type(expected)
    for one, other in zip(parts(found), parts(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def read_all(path, tree):
    with open_source(str(path), tree) as source:
        names = [name for name, column in source.columns.items() if column.kind is not Kind.OTHER]
        sizes = source.cluster_sizes(names)
        return list(source.columns.values()), list(source.boundaries), sizes, source.read(names, 0, source.num_entries)


def check_with_and_without_uproot(path, tree, monkeypatch):
    ranges = LocalRanges(str(path))
    with open_root_file(ranges) as file:
        assert read_record(ranges, find_tree(file, tree, "")) is not None
    columns, boundaries, sizes, values = read_all(path, tree)
    with monkeypatch.context() as patch:
        patch.setattr("mlaas4hep.io.root.ttree.read_record", lambda *_: None)
        patch.setattr("mlaas4hep.io.root.ttree.TTreeSource._layout", lambda *_: None)
        expected = read_all(path, tree)
    assert columns == expected[0]
    assert boundaries == expected[1]
    assert sizes == expected[2]
    assert values.keys() == expected[3].keys()
    for name in values:
        check_same(values[name], expected[3][name])


@needs_kernel
@pytest.mark.parametrize("tree", TREES)
def test_values_are_those_that_were_written(tree):
    with open_source(str(PATH), tree) as source:
        values = source.read(list(TRUTH[tree]), 0, 50)
        for name, expected in TRUTH[tree].items():
            check_same(values[name], expected)
        check_source(source)


@pytest.mark.parametrize("tree", TREES)
def test_columns_and_values_agree_with_uproot(tree, monkeypatch):
    check_with_and_without_uproot(PATH, tree, monkeypatch)


@pytest.mark.parametrize(
    ("name", "tree"),
    [
        ("uproot-issue38a.root", "ntupler/tree"),
        ("uproot-vectorVectorDouble.root", "t"),
        ("uproot-issue63.root", "WtLoop_meta"),
        ("uproot-issue443.root", "muonDataTree"),
        ("uproot-sample-5.23.02-zlib.root", "sample"),
    ],
)
def test_real_trees_agree_with_uproot(name, tree, monkeypatch):
    check_with_and_without_uproot(real_file(name), tree, monkeypatch)


def test_files_with_repeated_branches_and_status_bits_agree_with_uproot(monkeypatch, capfd):
    check_with_and_without_uproot(PATH.with_name("references.root"), "Delphes", monkeypatch)
    assert "has more than one branch called 'Particle'" in capfd.readouterr().err


@pytest.mark.parametrize("tree", ["vectors", "split"])
def test_a_record_with_a_changed_byte_is_read_or_refused(tree):
    ranges = LocalRanges(str(PATH))
    with open_root_file(ranges) as file:
        key = find_tree(file, tree, "")
        content, origin = bytearray(read_object(ranges, key)), int(key.fKeylen)
    used = refused = 0
    for place in range(0, len(content), 3):
        content[place] ^= 0xFF
        try:
            record = _Parser(bytes(content), origin).tree("TTree", "")
        except Exception:  # then uproot reads the tree, or reports the damage
            refused += 1
        else:
            used += 1
            for name, column in record.columns.items():
                assert column.name == name
                record.basket_layout(name)
                record.baskets(name)
        content[place] ^= 0xFF
    assert used > 100
    assert refused > 100


@pytest.mark.parametrize("tree", TREES)
def test_damaged_files_are_read_or_refused_with_an_error(tree, tmp_path):
    content = PATH.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(content)
        damaged[int(rng.integers(300, len(content)))] ^= 1 << int(rng.integers(8))
        (tmp_path / "a.root").write_bytes(damaged)
        with suppress(MLaaS4HEPError):
            read_all(tmp_path / "a.root", tree)
