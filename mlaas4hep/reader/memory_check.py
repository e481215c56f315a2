"""Check that vectors fit into memory.

    check_memory(inputs, rows=10_000, noun="chunk", option="--chunk-size")

All vectors are padded to the longest list, so that one list of 300,000 numbers makes a chunk of 10,000 events take
15 GB.
"""

from __future__ import annotations

import json
import math

from mlaas4hep.comma_lists import join_list
from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Kind
from mlaas4hep.machine.memory import available_memory
from mlaas4hep.reader.inputs import Inputs
from mlaas4hep.reader.layout import Slot
from mlaas4hep.reader.selection import pattern_of
from mlaas4hep.shell import quoted

BYTES_PER_VALUE = 5
"""For a float32 and its mask."""

BLOCK_BYTES = 256_000_000
"""Size of a block of vectors in bytes, above which it is computed in pieces."""

MEMORY_FRACTION = 0.5
"""Fraction of the available memory that vectors may take at the same time."""


def row_bytes(inputs: Inputs, raw: bool = False) -> int:
    """Return the size of the inputs of one event in bytes, or with `raw` of its vector of raw values."""
    return BYTES_PER_VALUE * max(inputs.layout.width if raw else inputs.width, 1)


def check_memory(
    inputs: Inputs, rows: int, noun: str, option: str, column_bytes: int = 0, purpose: str = "", instead: str = ""
) -> None:
    """Check that the inputs of `rows` events fit into MEMORY_FRACTION of the available memory.

    Args:
        noun, option: a noun for these events, such as "chunk", and the option that sets their number.
        column_bytes, purpose: additional memory per column, for example for its name, and its purpose.
        instead: how the user can reduce the additional memory.

    Raises:
        ConfigError: the inputs do not fit; the message names the branch with most columns, and solutions.
    """
    needed = rows * row_bytes(inputs) + inputs.width * column_bytes
    if needed <= BLOCK_BYTES:
        return
    limit = MEMORY_FRACTION * available_memory()
    if needed <= limit:
        return
    widest = _widest_list(inputs)
    max_columns = int(limit) // (2 * (BYTES_PER_VALUE * rows + column_bytes))
    solutions = _solutions(inputs, widest, max_columns, option)
    takes = f"takes {_gigabytes(needed)} {purpose}".rstrip()
    raise ConfigError(
        f"a {noun} of {rows} event{'s' * (rows != 1)} {takes}, but the limit is {_gigabytes(limit)}, half of the"
        f" available memory: {_reason(inputs, widest)}",
        hint=f"{solutions}; or {instead}" if instead else solutions,
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"


def _widest_list(inputs: Inputs) -> Slot | None:
    """Return the columns of the branch with most of them, if it is a list."""
    widest = max(inputs.layout.slots, key=lambda slot: slot.width, default=None)
    return widest if widest is not None and widest.kind.depth else None


def _reason(inputs: Inputs, widest: Slot | None) -> str:
    if widest is None:
        return f"a vector has {inputs.width} numbers"
    if widest.kind is Kind.NESTED:
        return f"every vector is padded to {widest.length} lists of {widest.inner} numbers of '{widest.branch}'"
    return f"every vector is padded to the longest list of '{widest.branch}', which has {widest.width} numbers"


def _solutions(inputs: Inputs, widest: Slot | None, max_columns: int, option: str) -> str:
    """Return how the user can reduce the memory; `max_columns` columns are certain to fit."""
    if widest is None:
        return f"lower {option}, or select fewer branches"
    solutions = f"lower {option}, exclude the branch, or use it in an input with a 'length'"
    max_width = max_columns - (inputs.width - widest.width)
    if max_width < 1:
        return solutions
    length = _shorter_length(widest, min(max_width, widest.width // 2))  # half, since the available memory may change
    pattern = pattern_of(widest.branch)
    setting = quoted(f"{join_list([pattern])}={length}")
    return (
        f"shorten the lists: --max-length={setting} of reader.py, or"
        f' "max_length": {json.dumps({pattern: length})} in params.json; or {solutions}'
    )


def _shorter_length(slot: Slot, width: int) -> int | str:
    """Return a maximum length of lists, or of lists of lists ("8x30"), that gives at most `width` columns."""
    if slot.kind is not Kind.NESTED:
        return _round_down(width)
    outer = _round_down(min(slot.length, math.isqrt(width)))
    return f"{outer}x{_round_down(min(slot.inner, width // outer))}"


def _round_down(number: int) -> int:
    """Round down to one significant digit, at least 1."""
    text = str(max(number, 1))
    return int(text[0] + "0" * (len(text) - 1))
