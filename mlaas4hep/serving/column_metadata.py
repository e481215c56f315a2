"""The names of a graph's columns and branches, from metadata that anybody may have written.

    columns = read_columns(session.get_modelmeta().custom_metadata_map, "model.onnx")     # None where it has none

`training.onnx_graph` writes them: "mlaas4hep.keys" is a list of columns, "mlaas4hep.branches" maps each branch to its
first column, its number of columns and its kind. Nothing is computed from these numbers before they are checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.rows import Columns

KEYS, BRANCHES = "mlaas4hep.keys", "mlaas4hep.branches"
MOST_COLUMNS = 100_000
_LARGEST = 16_000_000  # bytes of each text
_LONGEST = 1000  # characters of a name
_KINDS = ("flat", "fixed", "jagged")


def read_columns(metadata: Mapping[str, str], file: str) -> Columns | None:
    """Return the columns that the metadata of a graph name; None where there are none.

    Args:
        file: the graph's, named in errors.

    Raises:
        ConfigError: the metadata are invalid, or describe more columns than a model may have.
    """
    if KEYS not in metadata:
        return None
    keys = _parse(metadata[KEYS], f"the metadata '{KEYS}' of {file}")
    branches = _parse(metadata.get(BRANCHES, "{}"), f"the metadata '{BRANCHES}' of {file}")
    _check_keys(keys, f"the metadata '{KEYS}' of {file}")
    _check_branches(branches, len(keys), f"the metadata '{BRANCHES}' of {file}")
    return Columns(keys, branches)


def _parse(text: str, what: str) -> Any:
    if len(text) > _LARGEST:
        raise ConfigError(f"{what} are larger than {_LARGEST / 1e6:.0f} MB")
    try:
        return orjson.loads(text)
    except ValueError as error:
        raise ConfigError(f"{what} are not JSON: {error}") from error


def _check_keys(keys: Any, what: str) -> None:
    if not isinstance(keys, list) or not all(map(_is_column_name, keys)):
        raise ConfigError(f"{what} must be a list of names of at most {_LONGEST:,} characters")
    if len(keys) > MOST_COLUMNS:
        raise ConfigError(f"{what} name {len(keys):,} columns, and may name {MOST_COLUMNS:,}")
    if len(set(keys)) < len(keys):
        raise ConfigError(f"{what} name a column twice")


def _check_branches(branches: Any, columns: int, what: str) -> None:
    if not isinstance(branches, dict) or not all(map(_is_column_name, branches)):
        raise ConfigError(f"{what} must be an object of branches, with names of at most {_LONGEST:,} characters")
    if len(branches) > MOST_COLUMNS:
        raise ConfigError(f"{what} name {len(branches):,} branches, and may name {MOST_COLUMNS:,}")
    for branch, span in branches.items():
        if not _is_span(span, columns):
            raise ConfigError(
                f"{what} must give the branch '{branch[:60]}' a first column, a number of columns and a kind "
                f"({', '.join(_KINDS)}) that lie within {columns:,} columns"
            )
    end = 0
    for first, width in sorted((first, width) for first, width, _ in branches.values()):
        if width and first < end:
            raise ConfigError(f"{what} give a column to two branches")
        end = max(end, first + width)


def _is_column_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _LONGEST


def _is_span(span: Any, columns: int) -> bool:
    """Return whether this is the place of a branch; a branch whose lists were all empty has no columns."""
    if not isinstance(span, list) or len(span) != 3:
        return False
    first, width, kind = span
    if type(first) is not int or type(width) is not int or kind not in _KINDS:
        return False
    least = 1 if kind == "flat" else 0
    return first >= 0 and width >= least and first + width <= columns
