"""Files of events from others: ROOT files and their parts, Parquet, Arrow, Avro, CSV and JSON lines."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import uproot
import xxhash

from fuzz.checks import Fault, Parse, Target
from fuzz.root_mutations import mutate_root
from mlaas4hep.compiled import KERNEL
from mlaas4hep.errors import BranchNotFound, FileUnreadable, TreeNotFound
from mlaas4hep.io import Jagged, Kind, open_source
from mlaas4hep.io.rntuple import decode as decode_module
from mlaas4hep.io.rntuple import page_lists as page_lists_module
from mlaas4hep.io.rntuple.decode import Outcome
from mlaas4hep.io.rntuple.encodings import Code
from mlaas4hep.io.rntuple.envelopes import CHECKSUM, DamagedMetadata
from mlaas4hep.io.rntuple.page_lists import Clusters
from mlaas4hep.io.root.basket_reader import BasketReader
from mlaas4hep.io.root.baskets import BasketLayout, UnsupportedBasket, decode
from mlaas4hep.io.root.compression import DamagedBlock, decompress
from mlaas4hep.io.storage.byte_ranges import LocalRanges

_MOST_EVENTS = 5000
_MOST_FAILURES = 3
CORPUS = Path(__file__).parents[1] / "corpus"


def read_everything(path: Path) -> None:
    """Read every column of numbers in a file, alone and together."""
    try:
        source = open_source(str(path))
    except TreeNotFound:
        source = open_source(str(path), "events")
    with source:
        names = [name for name, column in source.columns.items() if column.kind is not Kind.OTHER]
        if list(source.boundaries) != sorted(set(source.boundaries)):
            raise Fault("the boundaries of clusters are not in order")
        stop, failed = min(source.num_entries, _MOST_EVENTS), 0
        for some in [names, *([name] for name in names)]:
            try:
                values = source.read(some, 0, stop) if stop > 0 else {}
            except (FileUnreadable, BranchNotFound):
                failed += 1
                if failed == _MOST_FAILURES:
                    return  # each may take uproot a second, and the next would teach nothing new
                continue
            for name, column in values.items():
                _check(name, column, stop)


def _check(name: str, column: Any, events: int) -> None:
    if len(column) != events:
        raise Fault(f"{len(column)} events instead of {events}")
    if isinstance(column, np.ndarray):
        column.tobytes()
        return
    content = column.content if isinstance(column, Jagged) else column.lists
    offsets = column.offsets
    if offsets[0] != 0 or (np.diff(offsets) < 0).any() or offsets[-1] != len(content):
        raise Fault("the offsets of lists are out of order")
    _check(name, content, len(content))


def _whole_file(ending: str) -> Callable[[Path, ExitStack], Parse]:
    """Return how to open a target whose input is a whole file."""

    def open_target(folder: Path, stack: ExitStack) -> Parse:
        path = folder / f"fuzz{ending}"

        def parse(data: bytes) -> None:
            path.write_bytes(data)
            read_everything(path)

        return parse

    return open_target


_KEY = struct.Struct(">ihiIhhqq")  # of a TKey with places of 64 bits, from fNbytes to fSeekPdir


def _tree_record(folder: Path, stack: ExitStack) -> Parse:
    """The input is the record of the tree, which is put at the end of a valid file."""
    template = (CORPUS / "root_file" / "seed-tree").read_bytes()
    original = folder / "template.root"
    original.write_bytes(template)
    with uproot.open(original) as file:
        key = file.file.root_directory.key("Events")
    at, header_size = int(key.fSeekKey), int(key.fKeylen)
    header = template[at : at + header_size]
    path = folder / "fuzz.root"

    def parse(data: bytes) -> None:
        fields = list(_KEY.unpack_from(header))
        fields[0], fields[2], fields[6] = header_size + len(data), len(data), len(template)
        changed = _KEY.pack(*fields) + header[_KEY.size :]
        path.write_bytes(template.replace(header, changed) + changed + data)
        read_everything(path)

    return parse


_LAYOUTS = [
    BasketLayout(np.dtype(kind), shape, header, np.empty(0, np.int64), np.ones(1, np.int64), np.ones(1, np.int64))
    for kind, shape, header in [
        (">f4", (), 0),
        (">f4", None, 0),
        (">f8", None, 10),
        (">i8", (3,), 0),
        ("?", None, 1),
        (">i2", None, 0),
    ]
]


def _basket(folder: Path, stack: ExitStack) -> Parse:
    """The input is a byte for the type, a byte for the number of entries, and a basket.

    It is tried a second time with the length and the checksums that belong to it. The compiled loop and NumPy must
    agree.
    """
    path = folder / "basket"

    def parse(data: bytes) -> None:
        if len(data) < 2:
            return
        layout, entries = _LAYOUTS[data[0] % len(_LAYOUTS)], data[1]
        for basket in (data[2:], consistent(data[2:])):
            if not basket:
                continue
            path.write_bytes(basket)
            edges, size = np.array([0, entries], np.int64), np.array([len(basket)], np.int64)
            own = BasketLayout(layout.dtype, layout.shape, layout.header, edges, np.zeros(1, np.int64), size)
            _compare(own, path, basket)

    return parse


def _compare(layout: BasketLayout, path: Path, basket: bytes) -> None:
    try:
        expected = decode(layout, 0, memoryview(basket))
    except UnsupportedBasket:
        expected = None
    if KERNEL is None or not layout.edges[-1]:
        return
    with closing(LocalRanges(str(path))) as ranges:
        found = BasketReader(ranges).read({"x": layout}, 0, int(layout.edges[-1])).get("x")
    if found is None or expected is None:
        if found is not expected:
            raise Fault("the compiled loop knows a basket that NumPy refuses, or the other way round")
        return
    _check("x", found, int(layout.edges[-1]))
    one, other = ((part.content, part.offsets) if isinstance(part, Jagged) else (part,) for part in (found, expected))
    if [part.tobytes() for part in one] != [part.tobytes() for part in other]:
        raise Fault("the compiled loop and NumPy decode a basket differently")


def consistent(basket: bytes) -> bytes:
    """Return a basket whose length is what its key says, and whose LZ4 checksum is right."""
    content = bytearray(basket)
    content[:4] = len(content).to_bytes(4, "big")
    key = int.from_bytes(content[14:16], "big")
    if content[key : key + 2] == b"L4":
        content[key + 9 : key + 17] = xxhash.xxh64_digest(bytes(content[key + 17 :]))
    return bytes(content[: max(len(basket), 4)])


ENCODINGS = [
    *((Code.BIT, 1), (Code.PLAIN, 8), (Code.PLAIN, 64), (Code.SPLIT, 16), (Code.SPLIT, 32), (Code.SPLIT, 64)),
    *((Code.ZIGZAG, 16), (Code.ZIGZAG, 32), (Code.ZIGZAG, 64), (Code.INDEX, 32), (Code.INDEX, 64)),
    *((Code.DELTA, 32), (Code.DELTA, 64), (Code.TRUNCATED, 10), (Code.TRUNCATED, 31), (Code.QUANTISED, 1)),
    *((Code.QUANTISED, 13), (Code.QUANTISED, 32)),
]
_PAGE_HEAD = 5
"""Bytes of the input before the page: encoding, elements (two bytes), elements to skip, whether there is a checksum."""


def _rntuple_page(folder: Path, stack: ExitStack) -> Parse:
    """The input is a description of a page, and the page. The compiled loop and NumPy must agree.

    A page with a checksum is tried a second time with the one that belongs to it.
    """

    def parse(data: bytes) -> None:
        if len(data) < _PAGE_HEAD:
            return
        code, bits = ENCODINGS[data[0] % len(ENCODINGS)]
        elements, checked = int.from_bytes(data[1:3], "little"), data[4] % 2
        skip = min(data[3], elements)
        page = data[_PAGE_HEAD:]
        size = len(page) - CHECKSUM * checked
        if size < 0:
            return
        low, high = np.array([-1.0, 2.5]).view(np.int64).tolist()
        job = [0, 0, size, checked, elements, skip, elements - skip, code, bits, 0, low, high]
        for one in (page, page[:size] + xxhash.xxh3_64_digest(page[:size])[::-1] * checked):
            _compare_page(one, np.array([job], np.int64))

    return parse


def _compare_page(page: bytes, job: np.ndarray) -> None:
    results = []
    for kernel in (None, KERNEL):
        content = np.zeros(8 * 65536, np.uint8)
        with patch.object(decode_module, "KERNEL", kernel):
            outcomes = decode_module.decode_pages([memoryview(page)], job, content).tolist()
        results.append((outcomes, content.tobytes() if outcomes == [Outcome.DECODED] else b""))
    if results[0] != results[1]:
        raise Fault("the compiled loop and NumPy decode a page differently")


def _page_list(folder: Path, stack: ExitStack) -> Parse:
    """The input is the number of columns, and their pages in a cluster. The compiled loop and NumPy must agree."""

    def parse(data: bytes) -> None:
        if not data:
            return
        results = []
        for kernel in (None, KERNEL):
            clusters = Clusters([0, 1], data[0] % 16, [data[1:]], np.array([[0, 0, len(data) - 1]], np.int64))
            with patch.object(page_lists_module, "KERNEL", kernel):
                try:
                    results.append([part.tolist() for part in clusters.pages(0, 1)])
                except DamagedMetadata:
                    results.append([])
        if results[0] != results[1]:
            raise Fault("the compiled loop and NumPy read a page list differently")

    return parse


def _block(folder: Path, stack: ExitStack) -> Parse:
    """The input is the length of the content, two bytes, and a compressed record."""

    def parse(data: bytes) -> None:
        length = int.from_bytes(data[:2], "little")
        record = bytearray(data[2:])
        if record[:2] == b"L4":
            record[9:17] = xxhash.xxh64_digest(bytes(record[17:]))
        for one in (data[2:], bytes(record)):
            try:
                content = decompress(memoryview(one), length)
            except DamagedBlock:
                continue
            if len(bytes(content)) != length:
                raise Fault(f"{len(bytes(content))} bytes instead of {length}")

    return parse


TARGETS = [
    Target("root_file", _whole_file(".root"), 32_768, variants=50, mutate=mutate_root),
    Target("rntuple", _whole_file(".root"), 16_384, variants=50, mutate=mutate_root),
    Target("tree_record", _tree_record),
    Target("basket", _basket, 4096),
    Target("rntuple_page", _rntuple_page, 4096),
    Target("page_list", _page_list, 4096),
    Target("block", _block, 4096),
    Target("parquet", _whole_file(".parquet")),
    Target("arrow", _whole_file(".feather")),
    Target("avro", _whole_file(".avro"), 4096),
    Target("csv", _whole_file(".csv"), 4096),
    Target("json_lines", _whole_file(".jsonl"), 4096),
]
