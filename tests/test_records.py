"""Structs in TTrees: files that ROOT wrote, with the numbers that tests/files/structs.C states, and damaged bytes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import uproot
from check_source import check_slice, check_source
from scripts import run_forked
from tinyroot import damage

from mlaas4hep.errors import BranchNotFound, FileUnreadable
from mlaas4hep.io import Jagged, Kind, Nested, open_source
from mlaas4hep.io.formats.awkward_bridge import to_awkward
from mlaas4hep.io.records.branches import Form, Record, record_of
from mlaas4hep.io.records.columns import Records, members_of, unique_names, unpack
from mlaas4hep.io.records.layout import decode_collection, decode_items, decode_rows
from mlaas4hep.io.records.types import (
    Field,
    Number,
    Struct,
    TObjectPart,
    Undecodable,
    number_named,
    template_of,
)
from mlaas4hep.io.root.tree_keys import find_tree
from mlaas4hep.io.root.uproot_tree import UprootTree
from mlaas4hep.reader import DataReader

FILE = Path(__file__).parent / "files" / "structs.root"
E = np.arange(12)


def vector(name):
    """A TLorentzVector in every entry."""
    return {f"{name}.fP.fX": E, f"{name}.fP.fY": E + 1, f"{name}.fP.fZ": E + 2, f"{name}.fE": E + 3}


def lists(value):
    """A list in every entry, of e % 3 numbers."""
    return [[value(e, k) for k in range(e % 3)] for e in E]


def vectors(name, value):
    """A list of TLorentzVectors in every entry."""
    members = {"fP.fX": 0, "fP.fY": 1, "fP.fZ": 2, "fE": 3}
    return {f"{name}.{member}": lists(lambda e, k, more=more: value(e + more, k)) for member, more in members.items()}


def bits(values, size):
    return [[bool(value >> bit & 1) for bit in range(size)] for value in values.tolist()]


STEPS = 2**16 / 10
"""Steps in which track.angle is stored."""

FLAT = {
    "n": E % 3,
    "p.px": E + 0.5,
    "p.py": -E - 0.5,
    "p.n": 10 * E,
    "mixed.d": 1.5 * E,
    "mixed.l": 2**40 + E,
    "mixed.i": -E,
    "mixed.u": 4_000_000_000 + E,
    "mixed.s": E - 3,
    "mixed.o": E % 2 == 0,
    "mixed.c": 65 + E,
    "arrays.x": np.stack([E, E + 1], axis=1),
    "arrays.y": np.stack([E + 2, E + 3], axis=1),
    **vector("v"),
    **vector("custom"),
    **vector("referenced"),
    "track.id": E,
    "track.weight": E / 2,
    "track.pt": 3 * E,
    "track.at.x": E,
    "track.at.y": 2 * E,
    "track.cov": np.stack([E, E + 1, E + 2], axis=1),
    "track.good": E % 2 == 1,
    "track.hits": -E,
    "track.dxy": np.stack([E + 0.25, E + 0.75], axis=1),
    "track.colour": E % 2,
    "track.time": E / 2,
    "track.angle": np.floor(0.5 + STEPS * (E % 10)) / STEPS,
    "track.link.first": E,
    "track.link.second": E / 4,
    "track.flags": bits(E % 8, 3),
    "level1/st::Base.id": E,
    "level1/st::Base.weight": E / 2,
    "level1/pt": 3 * E,
    "level1/at.x": E,
    "level1/at.y": 2 * E,
    "level1/link.first": E,
    "level1/link.second": E / 4,
    "level1/flags": bits(E % 8, 3),
    "object.pt": E,
    "object.v.fX": E + 0.5,
    "object.v.fY": E - 0.5,
    "shadow.x": E + 2,
    "shadow.y": E + 1,
    "shadow/x": E,
    "split/flags": bits(E % 8, 3),
    "split/at/at.x": E,
    "pair.first": E,
    "pair.second": E / 2,
    "bits": bits(37 * E, 10),
    "array": np.stack([E, E + 1, E + 2], axis=1),
}
"""One number or array an entry."""

LISTS = {
    "split/ids": [[e, e + 2] for e in E],
    "split/weights/weights.first": [[e, e + 1] for e in E],
    "split/weights/weights.second": [[1, 2] for _ in E],
    **vectors("vectors", lambda number, k: (k + 1) * number),
    **vectors("mixed_vectors", lambda number, k: (k + 1) * number),
    "hits.id": lists(lambda e, k: k),
    "hits.weight": lists(lambda e, k: e / 2),
    "hits.energy": lists(lambda e, k: e + k),
    "hits.shape": lists(lambda e, k: [k, e]),
    "hits.at.x": lists(lambda e, k: e),
    "hits.at.y": lists(lambda e, k: k),
    "objects.pt": lists(lambda e, k: e),
    "objects.v.fX": lists(lambda e, k: e + 0.5),
    "objects.v.fY": lists(lambda e, k: e - 0.5),
    "split_objects/split_objects.pt": lists(lambda e, k: e),
    "split_objects/split_objects.v.fX": lists(lambda e, k: e + 0.5),
    "split_objects/split_objects.v.fY": lists(lambda e, k: e - 0.5),
    "points.x": lists(lambda e, k: e),
    "points.y": lists(lambda e, k: k),
    "pairs.first": lists(lambda e, k: k),
    "pairs.second": lists(lambda e, k: e + 0.5),
    "map.first": lists(lambda e, k: e + k),
    "map.second": lists(lambda e, k: k / 2),
    "split_map/split_map.first": lists(lambda e, k: e + k),
    "split_map/split_map.second": lists(lambda e, k: k / 2),
    "vector_map/vector_map.first": lists(lambda e, k: k),
    **vectors("vector_map/vector_map.second", lambda number, k: number),
    "set": lists(lambda e, k: e + k),
    "multiset": lists(lambda e, k: e),
    "list": lists(lambda e, k: e + k),
    "deque": lists(lambda e, k: e + k),
    "unordered": [[e] if e % 3 else [] for e in E],
    "rvec": lists(lambda e, k: e + k),
}
"""A list in every entry."""

LEFT_OUT = {
    "ragged": "leaf list: its leaf 'w' has a variable length",
    "text": "st::Text: its member 'name' is of type string",
    "dated.time.fDatime": "st::Dated: its bytes do not match the description of the class: .* TDatime has no length",
    "dated.i": "st::Dated: its bytes do not match the description of the class: .* TDatime has no length",
    "names": "std::set<std::string>: not a number",
    "bit_lists": "std::vector<std::bitset<4>>: not a number",
}
"""What cannot be a feature, and why."""


@pytest.fixture(scope="module")
def source():
    with open_source(str(FILE)) as source:
        yield source


def as_lists(values):
    if isinstance(values, Nested):
        return to_awkward(values).tolist()
    return [piece.tolist() for piece in np.split(values.content, values.offsets[1:-1])]


def test_structs_fulfil_the_contract_of_sources(source):
    check_source(source)


@pytest.mark.parametrize("name", FLAT)
def test_a_member_has_the_numbers_that_root_wrote(source, name):
    np.testing.assert_array_equal(source.read([name], 0, 12)[name], np.array(FLAT[name], source.columns[name].dtype))


@pytest.mark.parametrize("name", LISTS)
def test_a_member_of_objects_in_a_collection_has_the_numbers_that_root_wrote(source, name):
    assert as_lists(source.read([name], 0, 12)[name]) == LISTS[name]


def test_undecodable_structs_are_left_out_with_the_reason(source):
    left_out = {name: column.reason for name, column in source.columns.items() if column.kind is Kind.OTHER}
    assert list(left_out) == list(LEFT_OUT)
    for name, reason in LEFT_OUT.items():
        assert re.fullmatch(reason, left_out[name])


def test_branches_next_to_structs_keep_their_names(source):
    names = list(source.columns)
    assert names[:4] == ["n", "p.px", "p.py", "p.n"]
    assert "split/ids" in names
    assert "p" not in names


def test_a_branch_of_structs_is_read_once_for_all_of_its_columns():
    with uproot.open(FILE) as file:
        branches = dict(file["Events"].iteritems(filter_name=["n", "p", "v"]))
        records = Records.of(branches)
        assert list(records.names) == ["n", "p.px", "p.py", "p.n", "v.fP.fX", "v.fP.fY", "v.fP.fZ", "v.fE"]
        assert len(records.stored(["p.px", "n", "p.n", "v.fE", "p.py", "v.fP.fX"])) == 3


def test_uproot_reads_the_same_values_as_the_basket_reader(source):
    names = [*FLAT, *LISTS]
    with uproot.open(FILE) as file:
        tree = UprootTree(find_tree(file, "Events", str(FILE)))
        for start, stop in ((0, 12), (5, 9)):
            stored = tree.read(tree.records.stored(names), start, stop)
            slow, fast = tree.records.unpack(names, stored), source.read(names, start, stop)
            for name in names:
                check_slice(slow[name], fast[name], 0, stop - start)


def test_uproot_reads_the_same_numbers_if_it_knows_the_struct(source):
    with uproot.open(FILE) as file:
        tree = file["Events"]
        for name in ("p", "mixed"):
            array = tree[name].array(library="np")
            for field in array.dtype.names:
                np.testing.assert_array_equal(source.read([f"{name}.{field}"], 0, 12)[f"{name}.{field}"], array[field])
        for name in ("v", "custom.", "vectors"):
            array, column = tree[name].array(), f"{name.rstrip('.')}.fP.fY"
            found = source.read([column], 0, 12)[column]
            assert (as_lists(found) if isinstance(found, Jagged) else found.tolist()) == array.fP.fY.tolist()


def test_the_error_for_damaged_structs_names_the_branch(tmp_path):
    shutil.copy(FILE, tmp_path / "a.root")
    damage(tmp_path / "a.root", "vectors", 0)
    with open_source(str(tmp_path / "a.root")) as source:
        assert source.columns["vectors.fE"].kind is Kind.JAGGED
        source.read(["vectors.fE", "v.fE"], 8, 12)
        with pytest.raises(FileUnreadable, match=r"cannot read branch 'vectors' of .*a\.root, entries 0 to 7: "):
            source.read(["vectors.fE", "v.fE"], 0, 8)


def test_the_error_for_a_missing_member_suggests_the_nearest_and_for_a_struct_its_members(source):
    with pytest.raises(BranchNotFound, match=r"closest: 'p\.px'"):
        source.read(["p.pxx"], 0, 1)
    with pytest.raises(BranchNotFound, match=r"closest: 'p\.px', 'p\.py', 'p\.n'"):
        source.read(["p"], 0, 1)


def test_vectors_without_their_tobject_are_read():
    with open_source(str(FILE.parent / "bare.root")) as source:
        check_source(source)
        names = [f"{name}.fP.fX" for name in ("whole", "vector", "vectors")]
        found = source.read(names, 0, 6)
    assert found[names[0]].tolist() == found[names[1]].tolist() == [0, 1, 2, 3, 4, 5]
    assert as_lists(found[names[2]]) == [[], [1], [2, 2], [], [4], [5, 5]]


def test_a_branch_keeps_its_name_beside_a_leaf_of_the_same_name():
    with open_source(str(FILE.parent / "bare.root")) as source:
        found = source.read(["q.x", "q/x", "q.y"], 0, 6)
        np.testing.assert_array_equal(found["q.x"], 100 * np.arange(6))
        np.testing.assert_array_equal(found["q/x"], np.arange(6))
        np.testing.assert_array_equal(found["q.y"], 10 * np.arange(6))


# In readers and scripts


def test_members_are_selected_excluded_cut_on_and_made_into_vectors(tmp_path):
    cut = {
        "define": {"pt2": "`p.px`**2 + `p.py`**2", "most": "max(`vectors.fE`)"},
        "cut": "`p.n` >= 30 & `mixed.s` < 8",
    }
    (tmp_path / "cut.json").write_text(json.dumps(cut))
    options = {"selected_branches": ["p.*", "vectors.fE", "pt2", "most"], "exclude_branches": ["p.n"]}
    with DataReader(FILE, preproc=tmp_path / "cut.json", **options) as reader:
        assert list(reader.specs.branches) == ["most", "p.px", "p.py", "pt2", "vectors.fE"]
        assert (reader.specs.branches["p.px"].minimum, reader.specs.branches["p.px"].maximum) == (3.5, 10.5)
        assert reader.specs.branches["most"].maximum == 2 * (8 + 3)
        assert sum(map(len, reader)) == 8


def test_reader_prints_the_members_of_structs(tmp_path):
    done = run_forked("reader.py", "--fin", FILE, "--info", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["branches"]["p.px"]["min"], found["branches"]["p.px"]["max"]) == (0.5, 11.5)
    assert (found["branches"]["vectors.fE"]["dim"], found["branches"]["vectors.fE"]["max"]) == (2, 28)
    assert found["left_out"].keys() == {*LEFT_OUT, "hits.shape"}
    assert "--nested=pad" in found["left_out"]["hits.shape"]


CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "reading"


@pytest.mark.skipif(not CASES.exists(), reason="the files of these cases are not here")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("leaflist.root", {"p4.px": np.arange(100), "p4.py": 2 * np.arange(100), "p4.q": np.arange(100) % 3 - 1}),
        ("leafarr.root", {"q.x": [[i, 0] for i in range(20)], "q.y": np.zeros((20, 2)), "e": np.arange(20)}),
        ("evstruct.root", {"event.event": np.arange(100), "event.run": np.ones(100), "event.lumi": np.full(100, 2)}),
    ],
)
def test_leaf_lists_in_files_of_users_are_read(name, expected):
    with open_source(str(CASES / name)) as source:
        check_source(source)
        for column, values in source.read(list(expected), 0, source.num_entries).items():
            np.testing.assert_array_equal(values, expected[column])


# Bytes


def header(size, version=1):
    return (0x40000000 | size + 2).to_bytes(4, "big") + version.to_bytes(2, "big")


POINT = Struct("Point", (Field("x", Number.plain("f4")), Field("y", Number.plain("f4"))), True, 1, 5)


def point(x, y, version=1):
    return header(8, version) + np.array([x, y], ">f4").tobytes()


def decode_points(data, *sizes, decode=decode_rows):
    array = np.frombuffer(data, np.uint8)
    ends = np.cumsum(sizes)
    if decode is decode_rows:
        return decode_rows(array, ends - sizes, np.array(sizes), POINT, [0, 1])
    return decode(array, np.array([0, *ends]), POINT, [0, 1])


def test_headers_are_skipped():
    found = decode_points(point(1, 2) + point(3, 4), 14, 14)
    assert found[0].tolist() == [1, 3]
    assert found[1].tolist() == [2, 4]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (point(1, 2)[:-1], "has no length"),
        (point(1, 2, version=2), "version 2 instead of 1"),
        (bytes(14), "has no length"),
        (header(4) + bytes(8), "the length of an object of class .* differs from its description"),
    ],
)
def test_an_object_that_does_not_match_its_description_is_undecodable(data, reason):
    with pytest.raises(Undecodable, match=reason):
        decode_points(point(1, 2) + data, 14, len(data))


def test_a_referenced_object_is_two_bytes_longer():
    struct = Struct("Object", (Field("", TObjectPart()), Field("x", Number.plain("i4"))))
    plain, referenced = bytes([0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), bytes([0, 1, 0, 0, 0, 7, 0, 0, 0, 0x10, 0, 9])
    data = plain + b"\0\0\0\1" + referenced + b"\0\0\0\2" + plain + b"\0\0\0\3"
    found = decode_rows(np.frombuffer(data, np.uint8), np.array([0, 14, 30]), np.array([14, 16, 14]), struct, [0])
    assert found[0].tolist() == [1, 2, 3]
    begins, ends = np.array([0, 14]), np.array([14, 44])
    (lists,) = decode_items(np.frombuffer(data, np.uint8), begins, ends, struct, [0]).values()
    assert as_lists(lists) == [[1], [2, 3]]


def test_a_collection_with_an_absurd_number_of_objects_does_not_allocate_memory():
    for content in (b"\x00\x0a" + b"\x7f\xff\xff\xff", b"\x40\x0a\x00\x01" + b"\x7f\xff\xff\xff"):
        data = (0x40000000 | len(content) + 8).to_bytes(4, "big") + content + bytes(8)
        with pytest.raises(Undecodable):
            decode_points(data, len(data), decode=decode_collection)


def test_damaged_bytes_are_undecodable_or_numbers_but_never_another_error():
    rng = np.random.default_rng(5)
    undecodable = decoded = 0
    with uproot.open(FILE) as file:
        for branch in file["Events"].itervalues(recursive=True):
            try:
                record = record_of(branch)
            except Undecodable:
                continue
            if record is None or record.size:
                continue
            members = {member.column.name: member for member in members_of(branch.name, record)}
            basket = branch.basket(0)
            offsets, data = np.array(basket.byte_offsets, np.int64), np.array(basket.data)
            for _ in range(60):
                damaged = data.copy()
                damaged[rng.integers(0, len(data), 2)] = rng.integers(0, 256, 2)
                try:
                    found = unpack(members, record, Jagged(offsets, damaged))
                except Undecodable:
                    undecodable += 1
                    continue
                decoded += 1
                assert {len(values) for values in found.values()} == {8}
    assert undecodable > 50
    assert decoded > 50


# Names


def test_a_member_with_the_name_of_a_branch_is_named_with_a_slash():
    content = Struct("", (Field("px", Number.plain("f4")), Field("px", Number.plain("f4"))))
    members = members_of("p", Record(Form.ROWS, content, 8))
    assert list(unique_names([members], {"p.px"})) == ["p/px#2", "p/px"]


def test_names_of_templates_are_parsed():
    assert template_of("std::map<int, pair<int,float> >") == ("map", ["int", "pair<int,float>"])
    assert template_of("ROOT::VecOps::RVec<float>") == ("RVec", ["float"])
    assert template_of("st::Point") == ("st::Point", [])
    assert number_named("unsigned int").stored == np.dtype(">u4")
    assert number_named("st::Point") is None
