"""Damaged variants of given inputs, always the same ones for the same seed.

mutations = Mutations([b"..."], seed=1, largest=8192)
next(mutations)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from fuzz.checks import Mutate

STRUCTURED = 0.6
"""Share of the variants that keep the structure of the input, if the target knows how to make them."""

_NUMBERS = [
    number.to_bytes(size, order, signed=number < 0)
    for size in (1, 2, 4, 8)
    for number in (0, 1, -1, 127, -128, 2 ** (8 * size - 1) - 1, -(2 ** (8 * size - 1)), 10 ** (2 * size))
    for order in ("big", "little")
    if -(2 ** (8 * size - 1)) <= number < 2 ** (8 * size - 1)
]
TOKENS = [
    *(b"\0", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"[" * 50, b"{" * 50, b'"', b"\\ud800", b"../", b"/", b"%00"),
    b"\xff" * 16,
    *(b"1e999", b"-1", b"99999999999999999999", b"NaN", b"null", b"true", b"[]", b"{}", b"1000000000000"),
]  # fmt: skip


class Mutations(Iterator[bytes]):
    """An endless sequence of variants of the originals; `mutate` makes some of them, see `Target`."""

    def __init__(self, originals: Sequence[bytes], seed: int, largest: int, mutate: Mutate | None = None) -> None:
        self._mutate = mutate
        self._originals = list(originals) or [b""]
        self._random = random.Random(seed)
        self._largest = largest

    def __next__(self) -> bytes:
        """Return the next variant."""
        original = self._random.choice(self._originals)
        if self._mutate and self._random.random() < STRUCTURED:
            variant = self._mutate(original, self._random)
            if variant is not None:
                return variant[: self._largest]
        data = bytearray(original)
        for _ in range(self._random.choice((1, 1, 1, 2, 2, 4, 8))):
            self._change(data)
        return bytes(data[: self._largest])

    def _change(self, data: bytearray) -> None:
        rng = self._random
        at = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 2, 4, 16, 64, 512)), len(data) - at)
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 2:
            number = rng.choice(_NUMBERS)
            data[at : at + len(number)] = number
        elif kind == 3:
            data[at:at] = rng.choice(TOKENS)
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[at : at + length] * rng.choice((1, 1, 3, 50))
        elif kind == 6:
            other = rng.choice(self._originals)
            start = rng.randrange(len(other) + 1)
            data[at : at + length] = other[start : start + rng.choice((4, 64, 512))]
        else:
            del data[at:]


def guided(mutate: Mutate, change_bytes: Callable[[bytes, int], bytes]) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator for libFuzzer, whose own one is `change_bytes`."""

    def change(data: bytes, largest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        variant = mutate(data, rng) if rng.random() < STRUCTURED else None
        return change_bytes(data, largest) if variant is None else variant[:largest]

    return change


def escaped(token: bytes) -> str:
    """Return a token as it stands in a dictionary of libFuzzer."""
    return "".join(f"\\x{byte:02x}" for byte in token)
