"""Parsing of the setting `max_length`: the maximum number of values per list in a vector.

parse_max_length("20,Jet_*=10,Jet_hits=8x30")   # (ListLength(20, 20), {"Jet_*": ListLength(10, 10), "Jet_hits": ...})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mlaas4hep.comma_lists import split_choices
from mlaas4hep.errors import ConfigError

MaxLength = int | str | Mapping[str, int | str] | None
"""Maximum length of all lists, or by pattern; see `parse_max_length`."""


class ListLength(NamedTuple):
    """Maximum length of a list, and of the lists in it if it is a list of lists."""

    outer: int
    inner: int


def parse_max_length(choice: MaxLength) -> tuple[ListLength | None, dict[str, ListLength]]:
    """Return the default maximum length, None if there is no limit, and other maximum lengths by pattern.

    Args:
        choice: a number; "20,Jet_*=10"; {"default": 20, "Jet_*": 10}; or None. A length "8x30" keeps 8 lists of 30
            values; "30" limits both to 30.

    Raises:
        ConfigError: a length is not an integer of at least 1; see also `split_choices`.
    """
    if choice is None:
        return None, {}
    if isinstance(choice, str):
        pairs: dict[str, object] = {**split_choices(choice, "max_length")}
    else:
        pairs = dict(choice) if isinstance(choice, Mapping) else {"default": choice}
    lengths = {pattern: _length(length) for pattern, length in pairs.items()}
    return lengths.pop("default", None), lengths


def _length(value: object) -> ListLength:
    parts = value.split("x") if isinstance(value, str) else [value]
    try:
        lengths = [int(part) if isinstance(part, str) else part for part in parts]
    except ValueError:
        lengths = []
    valid = [length for length in lengths if isinstance(length, int) and not isinstance(length, bool) and length >= 1]
    if not 1 <= len(valid) == len(parts) <= 2:
        raise ConfigError(
            f"invalid maximum length of a list: {value!r}",
            hint="use integers of at least 1, as in 'Jet_*=10', or 'hits=8x30' for lists of lists",
        )
    return ListLength(valid[0], valid[-1])
