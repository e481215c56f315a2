"""What did not make it from the file into the vectors, in words.

for line in losses(reader.truncated, reader.skipped, reader.specs):
    console.notice(line)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlaas4hep.reader.specs import Specs

EXACT = 2**24
"""The largest number up to which float32 holds every whole number."""


def losses(truncated: Mapping[str, int], skipped: Mapping[tuple[int, int], str], specs: Specs) -> list[str]:
    """Return a line for every loss.

    Args:
        truncated: by jagged branch, how many values were cut off; or by input, how many objects.
        skipped: stretches of entries that were left out, and why.
        specs: what is known of the branches.
    """
    lines = [
        f"{count} values of '{name}' lie beyond the longest list that the specs know, and were cut off"
        if name in specs.branches
        else f"{count} objects of input '{name}' lie beyond its length, and were cut off"
        for name, count in truncated.items()
    ]
    lines += [
        f"skipped {stop - start} events, entries {start} to {stop - 1}: {skipped[start, stop]}"
        for start, stop in sorted(skipped)
    ]
    coarse = list(too_large(specs))
    if coarse:
        more = f" and {len(coarse) - 3} more" if len(coarse) > 3 else ""
        lines.append(
            f"{', '.join(coarse[:3])}{more}: whole numbers beyond 2^24, of which float32 cannot tell neighbours apart;"
            " leave them out with --exclude-branches unless that does not matter"
        )
    return lines


def too_large(specs: Specs) -> Iterable[str]:
    """Yield the branches of whole numbers that float32 does not hold exactly."""
    for name, branch in specs.branches.items():
        ends = (branch.minimum, branch.maximum)
        if all(isinstance(end, int) for end in ends) and max(abs(end) for end in ends if end is not None) > EXACT:
            yield name
