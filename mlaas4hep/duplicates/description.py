"""Descriptions of duplicate events: as text and as JSON.

print(as_text(found, width=120))
json.dumps(as_json(found))
"""

from __future__ import annotations

from typing import Any

from mlaas4hep.duplicates.search import Duplicates, SharedEvents
from mlaas4hep.errors import printable
from mlaas4hep.reader.info import aligned

MAX_ROWS = 20
"""Maximum number of pairs of files in the table."""

_HEADER = ("shared", "file", "other file", "first shared event", "entries")


def as_text(found: Duplicates, width: int) -> str:
    """Return the numbers of events and a table of the pairs of files that share the most events.

    Args:
        width: maximum number of characters per line of the table.
    """
    lines = [
        f"Events           : {found.events:,} of {len(found.files)} files, identified by {', '.join(found.identifier)}",
        f"Distinct events  : {found.distinct:,}",
        f"Duplicate events : {found.events - found.distinct:,}, copies of {found.repeated:,} events",
    ]
    lines = list(map(printable, lines))
    if found.pairs:
        rows = [_row(pair) for pair in found.pairs[:MAX_ROWS]]
        lines += ["", *aligned([_HEADER, *rows], width, {0})]
    if len(found.pairs) > MAX_ROWS:
        lines.append(f"... and {len(found.pairs) - MAX_ROWS} more pairs")
    return "\n".join(lines)


def _row(pair: SharedEvents) -> tuple[str, ...]:
    file, other = pair.files
    event = ", ".join(f"{name} {value}" for name, value in pair.example.items())
    entry, other_entry = pair.entries
    return f"{pair.shared:,}", file, "the same file" if pair.is_within_file else other, event, f"{entry}, {other_entry}"


def as_json(found: Duplicates) -> dict[str, Any]:
    """Return all that was found as a JSON object."""
    return {
        "files": list(found.files),
        "identifier": list(found.identifier),
        "events": found.events,
        "distinct": found.distinct,
        "repeated": found.repeated,
        "pairs": [
            {
                "files": list(pair.files),
                "within_file": pair.is_within_file,
                "shared": pair.shared,
                "example": dict(pair.example),
                "entries": list(pair.entries),
            }
            for pair in found.pairs
        ],
    }
