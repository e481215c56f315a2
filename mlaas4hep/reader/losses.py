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


def not_finite(specs: Specs) -> list[str]:
    """Return a line that says which branches have NaN or infinite values, those with most of them first; or none."""
    odd = {name: branch for name, branch in specs.branches.items() if branch.nan or branch.inf}
    if not odd:
        return []
    worst = sorted(odd, key=lambda name: (-odd[name].nan - odd[name].inf, name))
    counts = [
        f"'{name}' ("
        + ", ".join(f"{n} {what}" for n, what in ((odd[name].nan, "NaN"), (odd[name].inf, "inf")) if n)
        + ")"
        for name in worst[:3]
    ]
    more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
    nan, inf = (sum(getattr(branch, what) for branch in odd.values()) for what in ("nan", "inf"))
    return [
        f"the specs count {nan} values that are not a number, which the mask leaves out, and {inf} that are infinite:"
        f" {', '.join(counts)}{more}"
    ]


def too_large(specs: Specs) -> Iterable[str]:
    """Yield the branches of whole numbers that float32 does not hold exactly."""
    for name, branch in specs.branches.items():
        ends = (branch.minimum, branch.maximum)
        if all(isinstance(end, int) for end in ends) and max(abs(end) for end in ends if end is not None) > EXACT:
            yield name
