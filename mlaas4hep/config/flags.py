"""Command-line flags and documentation tables from the fields of a model such as `ReadParams`.

A field's name, type, default, bounds and description are written once. Here they become a flag and a table row:

    add_flags(parser, ReadParams)           # --branch, --identifier, --branches, --exclude-branches, --nevts, ...
    parse_flags(args, ReadParams)           # ReadParams(branch="Events", ...)
    print(key_table(Params))                # Markdown: the keys of params.json
    print(flag_table(ReadParams))           # Markdown: the flags of reader.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlaas4hep.config.checked import CheckedModel
from mlaas4hep.console import non_empty

Model = TypeVar("Model", bound=CheckedModel)


@dataclass(frozen=True)
class Option:
    """Properties of the flag of a field, in addition to default, bounds and description.

    Attributes:
        flag: name of the flag if it is not the field's name with dashes; "" for a field without a flag.
        metavar: placeholder of the value in help texts.
        default: description of the default if its value is not self-explanatory.
    """

    flag: str | None = None
    metavar: str | None = None
    default: str = ""


def _option_of(field: FieldInfo) -> Option:
    return next((item for item in field.metadata if isinstance(item, Option)), Option())


def flag_of(model: type[BaseModel], name: str) -> str:
    """Return the flag of a field, or "" if it has none."""
    flag = _option_of(model.model_fields[name]).flag
    return f"--{name.replace('_', '-')}" if flag is None else flag


def add_flags(parser: argparse.ArgumentParser, model: type[BaseModel]) -> None:
    """Add a flag for every field of a model that has one."""
    for name, field in model.model_fields.items():
        flag, option, default = flag_of(model, name), _option_of(field), _default(field)
        if flag:
            parser.add_argument(
                flag,
                dest=name,
                metavar=option.metavar,
                type=_TYPES.get(type(default), non_empty),
                default=default,
                help=f"{field.description} (default: {option.default or _shown(default)})".translate(_PLAIN),
            )


_PLAIN = {ord("`"): "", ord("%"): "%%"}
"""Descriptions are Markdown, and argparse interpolates %."""

_TYPES: dict[type, Callable[[str], Any]] = {int: int, float: float, list: str}
"""Conversions of values by the type of the default; only lists may be empty."""


def parse_flags(args: argparse.Namespace, model: type[Model]) -> Model:
    """Return a model with the values of its flags; raise ConfigError if one is invalid."""
    given = {name: getattr(args, name) for name in model.model_fields if hasattr(args, name)}
    return model.parse(given, "the command line", {name: flag_of(model, name) for name in given})


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def _shown(default: Any) -> str:
    return ",".join(default) if isinstance(default, list) else str(default)


def _json(field: FieldInfo) -> str:
    return "(required)" if field.is_required() else json.dumps(_default(field))


def key_table(model: type[BaseModel]) -> str:
    """Return a Markdown table of a model's fields: key, default, values, meaning."""
    rows = [
        f"| `{name}` | {_json(field)} | {_values(field)} | {field.description} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| key | default | values | meaning |", "|---|---|---|---|", *rows])


def flag_table(model: type[BaseModel]) -> str:
    """Return a Markdown table of a model's flags: flag, default, meaning."""
    rows = [
        f"| `{flag}` | {_option_of(field).default or _shown(_default(field))} | {field.description} |"
        for name, field in model.model_fields.items()
        if (flag := flag_of(model, name))
    ]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])


def _values(field: FieldInfo) -> str:
    """Return the type and the bounds of a field, as in "integer ≥ 1"."""
    kinds = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
    bounds = [
        f" {sign} {getattr(item, bound)}"
        for item in field.metadata
        for bound, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if hasattr(item, bound)
    ]
    return " or ".join(map(_kind, kinds)) + ",".join(bounds)


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation) or annotation
    if isinstance(origin, type) and issubclass(origin, BaseModel):
        return "object"
    if origin is Literal:
        return ", ".join(f'"{value}"' for value in get_args(annotation))
    return _KINDS[origin]


_KINDS = {
    bool: "true, false",
    int: "integer",
    float: "number",
    str: "string",
    list: "list",
    dict: "object",
    type(None): "null",
}
"""JSON names of types."""
