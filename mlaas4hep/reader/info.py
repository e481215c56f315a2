"""Descriptions of a file: as a table, as text and as JSON.

print(as_table(reader, width=120))      # for terminals
print(as_text(reader))                  # in the format of the original MLaaS4HEP
json.dumps(as_json(reader))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mlaas4hep.console import shortened
from mlaas4hep.errors import printable
from mlaas4hep.io import Column, Kind
from mlaas4hep.reader.data_notices import inexact_branches
from mlaas4hep.reader.data_reader import DataReader
from mlaas4hep.specs.specs import BranchSpecs, Specs

HEADER = ("branch", "kind", "type", "dim", "min", "max", "mean", "NaN, inf")
INEXACT = "!"
"""Mark behind the type of integers that float32 does not represent exactly."""
BOLD, RESET = "\x1b[1m", "\x1b[0m"


def as_text(reader: DataReader, events: int | None = None) -> str:
    """Return the description in the format of the original MLaaS4HEP.

    Args:
        events: total number of events, if the specs of the reader are those of several files.
    """
    branches = reader.specs.branches
    lines = [f"Number of events  : {reader.num_entries if events is None else events}"]
    for label, jagged in (("# flat branches   ", False), ("# jagged branches ", True)):
        of_kind = {name: branch for name, branch in branches.items() if bool(branch.kind.depth) == jagged}
        lines.append(f"{label}: {len(of_kind)}")
        for name, branch in of_kind.items():
            invalid = "".join(f", {n} {what}" for what, n in (("NaN", branch.nan), ("inf", branch.inf)) if n)
            values = f"values in [{branch.minimum}, {branch.maximum}] range" if branch.count else "no values"
            lines.append(f"{name} {values}, dim={_dimensions(branch)}{invalid}")
    left_out = _left_out(reader)
    if left_out:
        lines.append(f"# left out        : {len(left_out)}")
        lines.extend(f"{column.name} {column.reason}" for column in left_out)
    if reader.friends:
        lines.append(f"# friends         : {len(reader.friends)}")
        lines.extend(map(str, reader.friends))
    return "\n".join(map(printable, lines))


def as_table(reader: DataReader, width: int, colour: bool = False, name: str = "", events: int | None = None) -> str:
    """Return the description as a table.

    Args:
        width: maximum number of characters per line.
        colour: whether to print headings in bold.
        name, events: description and total number of events, if the specs of the reader are those of several files.
    """
    rows = [_row(reader, name, branch) for name, branch in reader.specs.branches.items()]
    left_out = [(column.name, column.reason) for column in _left_out(reader)]
    specs = reader.specs
    total = reader.num_entries if events is None else events
    title = (
        f"{name or reader.location}: {total:,} events, {specs.num_flat} flat and {specs.num_jagged} jagged branches,"
        f" vectors of {specs.width:,} numbers"
    )
    lines = [printable(title), "", *aligned([HEADER, *rows], width, {3, 4, 5, 6, 7}, colour)]
    if reader.friends:
        lines += ["", *(shortened(f"friend {friend}", width) for friend in reader.friends)]
    if any(inexact_branches(specs)):
        lines.append(f"{INEXACT} integers beyond 2^24, which float32 does not represent exactly")
    if left_out:
        lines += ["", *aligned([(f"{len(left_out)} left out", "reason"), *left_out], width, set(), colour)]
    return "\n".join(lines)


def as_json(reader: DataReader, name: str = "", events: int | None = None) -> dict[str, Any]:
    """Return the description as a JSON object, with None for statistics without values; see `as_table`."""
    specs = reader.specs
    inexact = set(inexact_branches(specs))
    branches = {
        key: {
            "kind": branch.kind.value,
            "dtype": reader.available[key].dtype.name,
            "dim": branch.dim,
            "count": branch.count,
            "nan": branch.nan,
            "inf": branch.inf,
            "min": branch.minimum,
            "max": branch.maximum,
            "mean": branch.mean if branch.count else None,
            "std": branch.std if branch.count else None,
            "exact_in_float32": key not in inexact,
            **({"inner": branch.inner} if branch.kind is Kind.NESTED else {}),
        }
        for key, branch in specs.branches.items()
    }
    return {
        "file": name or reader.location,
        "tree": reader.options.branch,
        "friends": {
            friend.alias: {"file": friend.source.location, "tree": friend.tree, "index": dict(friend.index or {})}
            for friend in reader.friends
        },
        "events": reader.num_entries if events is None else events,
        "events_seen": specs.events,
        "columns": specs.width,
        "branches": branches,
        "left_out": {column.name: column.reason for column in _left_out(reader)},
    }


def _left_out(reader: DataReader) -> list[Column]:
    return [column for column in reader.available.values() if column.kind is Kind.OTHER]


def _row(reader: DataReader, name: str, branch: BranchSpecs) -> tuple[str, ...]:
    numbers = (branch.minimum, branch.maximum, branch.mean) if branch.count else (None, None, None)
    invalid = f"{branch.nan}, {branch.inf}" if branch.nan or branch.inf else ""
    dtype = reader.available[name].dtype.name + INEXACT * any(inexact_branches(Specs({name: branch})))
    return name, branch.kind.value, dtype, _dimensions(branch), *map(_number, numbers), invalid


def _dimensions(branch: BranchSpecs) -> str:
    """Return the size or maximum length of a branch; `8x30` for 8 lists of 30 numbers."""
    return f"{branch.dim}x{branch.inner}" if branch.kind is Kind.NESTED else str(branch.dim)


def _number(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) and abs(value) < 10**9 else f"{value:.5g}"


def aligned(rows: Sequence[Sequence[str]], width: int, right: set[int], colour: bool = False) -> Iterable[str]:
    """Yield the lines of a table with a rule below the header; the widest columns are shortened to fit `width`.

    Args:
        right: indices of right-aligned columns.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > 4:
        widths[widths.index(max(widths))] -= 1
    for index, row in enumerate(rows):
        cells = [
            shortened(cell, size).rjust(size) if column in right else shortened(cell, size).ljust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        yield f"{BOLD}{line}{RESET}" if colour and not index else line
        if not index:
            yield "  ".join("─" * size for size in widths)
