"""What is in a file, for people and for programs.

print(as_table(reader, width=120))      # in a terminal
print(as_text(reader))                  # as the original MLaaS4HEP printed it
json.dumps(as_json(reader))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mlaas4hep.console import shortened
from mlaas4hep.io import Column, Kind
from mlaas4hep.reader.data_reader import DataReader
from mlaas4hep.reader.losses import too_large
from mlaas4hep.reader.specs import BranchSpecs, Specs

HEADER = ("branch", "kind", "type", "dim", "min", "max", "mean", "NaN, inf")
COARSE = "!"
"""What stands behind the type of whole numbers that the vector does not hold exactly."""
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


def as_text(reader: DataReader, events: int | None = None) -> str:
    """Return the description in the original's form; `events` are those of several files with the reader's specs."""
    branches = reader.specs.branches
    lines = [f"Number of events  : {reader.num_entries if events is None else events}"]
    for label, jagged in (("# flat branches   ", False), ("# jagged branches ", True)):
        chosen = {name: branch for name, branch in branches.items() if (branch.kind is Kind.JAGGED) == jagged}
        lines.append(f"{label}: {len(chosen)}")
        for name, branch in chosen.items():
            odd = "".join(f", {count} {what}" for what, count in (("NaN", branch.nan), ("inf", branch.inf)) if count)
            seen = f"values in [{branch.minimum}, {branch.maximum}] range" if branch.count else "no values"
            lines.append(f"{name} {seen}, dim={branch.dim}{odd}")
    left_out = _left_out(reader)
    if left_out:
        lines.append(f"# left out        : {len(left_out)}")
        lines.extend(f"{column.name} {column.reason}" for column in left_out)
    return "\n".join(lines)


def as_table(reader: DataReader, width: int, colour: bool = False, name: str = "", events: int | None = None) -> str:
    """Return the description as a table of at most `width` characters a line, headings bold where there is colour.

    Args:
        name, events: of several files with the reader's specs.
    """
    rows = [_row(reader, name, branch) for name, branch in reader.specs.branches.items()]
    left_out = [(column.name, column.reason) for column in _left_out(reader)]
    specs = reader.specs
    total = reader.num_entries if events is None else events
    title = (
        f"{name or reader.location}: {total:,} events, {specs.num_flat} flat and {specs.num_jagged} jagged branches,"
        f" vectors of {specs.width:,} numbers"
    )
    lines = [title, "", *_aligned([HEADER, *rows], width, {3, 4, 5, 6, 7}, colour)]
    if any(too_large(specs)):
        lines.append(f"{COARSE} whole numbers beyond 2^24, of which float32 cannot tell neighbours apart")
    if left_out:
        lines += ["", *_aligned([(f"{len(left_out)} left out", "because"), *left_out], width, set(), colour)]
    return "\n".join(lines)


def as_json(reader: DataReader, name: str = "", events: int | None = None) -> dict[str, Any]:
    """Return the description as JSON has it: no NaN, None where there are no values; see `as_table`."""
    specs = reader.specs
    coarse = set(too_large(specs))
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
            "exact_in_float32": key not in coarse,
        }
        for key, branch in specs.branches.items()
    }
    return {
        "file": name or reader.location,
        "tree": reader.options.branch,
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
    odd = f"{branch.nan}, {branch.inf}" if branch.nan or branch.inf else ""
    dtype = reader.available[name].dtype.name + COARSE * any(too_large(Specs({name: branch})))
    return name, branch.kind.value, dtype, str(branch.dim), *map(_number, numbers), odd


def _number(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) and abs(value) < 10**9 else f"{value:.5g}"


def _aligned(rows: Sequence[Sequence[str]], width: int, right: set[int], colour: bool) -> Iterable[str]:
    """Yield lines with a rule under the first; the columns that take most room give way where a line is too long."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > 4:
        widths[widths.index(max(widths))] -= 1
    for index, row in enumerate(rows):
        cells = [
            shortened(cell, room).rjust(room) if place in right else shortened(cell, room).ljust(room)
            for place, (cell, room) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        yield f"{BOLD}{line}{PLAIN}" if colour and not index else line
        if not index:
            yield "  ".join("─" * room for room in widths)
