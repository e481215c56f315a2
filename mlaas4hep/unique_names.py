"""Checks of names that must be unique because they are used as keys.

check_unique(["x", "y", "x"])                               # ConfigError: two columns are called 'x'
json.loads('{"a": 1, "a": 2}', object_pairs_hook=unique_keys)       # RepeatedKey
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

from mlaas4hep.errors import ConfigError

Name = TypeVar("Name")

_MAX_SHOWN = 100  # characters of a key in an error message


class RepeatedKey(ValueError):
    """A JSON object has the same key twice."""


def first_repeated(names: Iterable[Name]) -> Name | None:
    """Return the first name that occurs more than once; None if all names are unique."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def check_unique(names: Iterable[str]) -> None:
    """Raise ConfigError if two columns have the same name."""
    name = first_repeated(names)
    if name is not None:
        which = f"are called '{name}'" if name else "have no name"
        raise ConfigError(f"two columns {which}", hint="give them different names")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict, as an `object_pairs_hook` of `json.loads`; raise RepeatedKey if a key repeats."""
    content = dict(pairs)
    if len(content) < len(pairs):
        key = first_repeated(key for key, _ in pairs) or ""
        raise RepeatedKey(f"an object has the key '{key[:_MAX_SHOWN]}' twice")
    return content
