"""The names of columns and branches in the metadata of an untrusted ONNX graph.

    columns = read_columns(session.get_modelmeta().custom_metadata_map, "model.onnx")     # None without names

`training.onnx_graph` writes them: "mlaas4hep.keys" is a list of columns, "mlaas4hep.branches" maps each branch to its
first column, its number of columns and its kind. The numbers are checked before anything is computed from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.limits import DEFAULTS, Limits, format_size
from mlaas4hep.serving.models.rows import Columns

KEYS, BRANCHES = "mlaas4hep.keys", "mlaas4hep.branches"
_LONGEST_TEXT = 80  # characters of the JSON texts, per permitted column
_KINDS = ("flat", "fixed", "jagged")


def read_columns(metadata: Mapping[str, str], file: str, limits: Limits = DEFAULTS) -> Columns | None:
    """Return the columns that the metadata of a graph name; None if it names none.

    Args:
        file: name of the graph, for errors.

    Raises:
        ConfigError: the metadata are invalid, or describe more columns than a model may have.
    """
    if KEYS not in metadata:
        return None
    about_keys, about_branches = (f"the metadata '{key}' of {file}" for key in (KEYS, BRANCHES))
    keys = _parse(metadata[KEYS], about_keys, limits)
    branches = _parse(metadata.get(BRANCHES, "{}"), about_branches, limits)
    _check_keys(keys, about_keys, limits)
    _check_branches(branches, len(keys), about_branches, limits)
    return Columns(keys, branches)


def _parse(text: str, what: str, limits: Limits) -> Any:
    if len(text) > _LONGEST_TEXT * limits.columns:
        raise ConfigError(f"{what} is larger than {format_size(_LONGEST_TEXT * limits.columns)}")
    if text.count("[") + text.count("{") > limits.columns + 1:  # parsing more would take seconds
        raise ConfigError(f"{what} has more than {limits.columns:,} lists")
    try:
        return orjson.loads(text)
    except ValueError as error:
        raise ConfigError(f"{what} is not valid JSON: {error}") from error


def _check_keys(keys: Any, what: str, limits: Limits) -> None:
    if not isinstance(keys, list) or not all(_is_column_name(key, limits) for key in keys):
        raise ConfigError(f"{what} must be a list of names of at most {limits.column_name:,} characters")
    if len(keys) > limits.columns:
        raise ConfigError(f"{what} names {len(keys):,} columns; the limit is {limits.columns:,}")
    if len(set(keys)) < len(keys):
        raise ConfigError(f"{what} names a column twice")


def _check_branches(branches: Any, columns: int, what: str, limits: Limits) -> None:
    if not isinstance(branches, dict) or not all(_is_column_name(branch, limits) for branch in branches):
        names = f"names of at most {limits.column_name:,} characters"
        raise ConfigError(f"{what} must be an object of branches, with {names}")
    if len(branches) > limits.columns:
        raise ConfigError(f"{what} names {len(branches):,} branches; the limit is {limits.columns:,}")
    for branch, span in branches.items():
        if not _is_span(span, columns):
            raise ConfigError(
                f"{what} must map the branch '{branch[:60]}' to a first column, a number of columns and a kind "
                f"({', '.join(_KINDS)}), within {columns:,} columns"
            )
    end = 0
    for first, width in sorted((first, width) for first, width, _ in branches.values()):
        if width and first < end:
            raise ConfigError(f"{what} assigns a column to two branches")
        end = max(end, first + width)


def _is_column_name(name: Any, limits: Limits) -> bool:
    return isinstance(name, str) and 0 < len(name) <= limits.column_name


def _is_span(span: Any, columns: int) -> bool:
    """Return whether this is a valid column range; a branch whose lists were all empty has no columns."""
    if not isinstance(span, list) or len(span) != 3:
        return False
    first, width, kind = span
    if type(first) is not int or type(width) is not int or kind not in _KINDS:
        return False
    least = 1 if kind == "flat" else 0
    return first >= 0 and width >= least and first + width <= columns
