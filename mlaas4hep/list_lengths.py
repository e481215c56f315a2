"""Parsing of the setting `max_length`: the maximum number of values per list in a vector.

parse_max_length("20,Jet_*=10")      # (20, {"Jet_*": 10})
"""

from __future__ import annotations

from collections.abc import Mapping

from mlaas4hep.comma_lists import split_choices
from mlaas4hep.errors import ConfigError

MaxLength = int | str | Mapping[str, int] | None
"""Maximum length of all lists, or by pattern; see `parse_max_length`."""


def parse_max_length(choice: MaxLength) -> tuple[int | None, dict[str, int]]:
    """Return the default maximum length, None if there is no limit, and other maximum lengths by pattern.

    Args:
        choice: a number; "20,Jet_*=10"; {"default": 20, "Jet_*": 10}; or None.

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


def _length(value: object) -> int:
    try:
        length = int(value) if isinstance(value, str) else value
    except ValueError:
        length = None
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ConfigError(
            f"invalid maximum length of a list: {value!r}", hint="use integers of at least 1, as in 'Jet_*=10'"
        )
    return length
