"""ROOT's compressed records."""

import lzma
import tracemalloc

import numpy as np
import pytest
import uproot
from tinyroot import write_tree

from mlaas4hep.io import open_source
from mlaas4hep.io.root.compression import DamagedBlock, decompress


def record(algorithm, content, level=1):
    """A compressed record as uproot writes it."""
    compressor = {"ZL": uproot.ZLIB, "XZ": uproot.LZMA, "L4": uproot.LZ4, "ZS": uproot.ZSTD}[algorithm](level)
    return memoryview(uproot.compression.compress(content, compressor))


@pytest.mark.parametrize("algorithm", ["ZL", "XZ", "L4", "ZS"])
@pytest.mark.parametrize("length", [1000, 20_000_000])
def test_records_that_uproot_compressed_are_decompressed_from_one_or_several_blocks(algorithm, length):
    content = np.random.default_rng(0).integers(0, 3, length, np.uint8).tobytes()
    packed = record(algorithm, content)
    assert bytes(packed[:2]) == algorithm.encode()
    assert bytes(decompress(packed, length)) == content


def test_uncompressed_records_are_returned_unchanged():
    assert bytes(decompress(memoryview(b"abc"), 3)) == b"abc"


@pytest.mark.parametrize("algorithm", ["ZL", "XZ", "L4", "ZS"])
def test_damaged_blocks_are_an_error(algorithm):
    content = np.random.default_rng(0).normal(size=1000).round(1).tobytes()
    packed = record(algorithm, content)
    with pytest.raises(DamagedBlock):
        decompress(packed[:-5], len(content))
    with pytest.raises(DamagedBlock):
        decompress(packed, len(content) + 1)
    with pytest.raises(DamagedBlock, match="unknown compression algorithm"):
        decompress(memoryview(b"??" + bytes(packed[2:])), len(content))


@pytest.mark.parametrize("algorithm", ["ZL", "L4"])
def test_the_checksum_detects_a_flipped_bit(algorithm):
    content = np.arange(3000, dtype=np.float64).tobytes()
    packed = bytearray(record(algorithm, content))
    for position in range(9, len(packed), 97):
        packed[position] ^= 16
        with pytest.raises(DamagedBlock):
            decompress(memoryview(bytes(packed)), len(content))
        packed[position] ^= 16


def test_a_basket_of_more_than_one_block_is_read(tmp_path):
    values = np.random.default_rng(0).integers(0, 100, 5_000_000).astype(np.int32)
    write_tree(tmp_path / "a.root", {"x": values})
    with open_source(str(tmp_path / "a.root")) as source:
        np.testing.assert_array_equal(source.read(["x"], 123, 4_900_000)["x"], values[123:4_900_000])


def test_a_small_lzma_block_that_expands_beyond_its_declared_length_is_refused():
    block = lzma.compress(bytes(300_000_000), preset=0)
    header = b"XZ\x00" + len(block).to_bytes(3, "little") + (1000).to_bytes(3, "little")
    tracemalloc.start()
    with pytest.raises(DamagedBlock, match="its length differs from that in its header"):
        decompress(memoryview(header + block), 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000
