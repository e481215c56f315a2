"""Pydantic models whose validation errors are one line that names the key, the value and the nearest known key.

class Params(CheckedModel):
    epochs: int = Field(20, ge=1)

Params.parse({"epoch": 5})      # ConfigError: params has an unknown key 'epoch'; closest: 'epochs'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from typing_extensions import Self

from mlaas4hep.comma_lists import split_list
from mlaas4hep.errors import ConfigError, nearest


def _as_list(value: Any) -> Any:
    """Convert a comma list, as in the original's params.json, a tuple or another iterable, and None to a list."""
    if isinstance(value, str):
        return split_list(value)
    if value is None:
        return []
    return list(value) if isinstance(value, Iterable) and not isinstance(value, Mapping) else value


Names = Annotated[list[str], BeforeValidator(_as_list)]
"""A list of names; also given as a comma list."""


class CheckedModel(BaseModel):
    """An immutable model without unknown keys, conversions between types, NaN or infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, content: Mapping[str, Any], where: str = "params", flags: Mapping[str, str] | None = None) -> Self:
        """Validate keys and values.

        Args:
            where, flags: names of the mapping, and of its keys on a command line, for error messages.

        Raises:
            ConfigError: a key is unknown or a value is invalid.
        """
        try:
            return cls.model_validate({key: _plain(value) for key, value in content.items()})
        except ValidationError as error:
            raise _explain(error, where, cls, flags or {}) from error


def _plain(value: Any) -> Any:
    """Convert NumPy numbers to Python numbers, which strict validation requires."""
    if isinstance(value, bool):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


def _explain(error: ValidationError, where: str, model: type[BaseModel], flags: Mapping[str, str]) -> ConfigError:
    first = error.errors(include_url=False)[0]
    path = [str(step) for step in first["loc"]]
    nested = _model_of_values(model, path[0]) if len(path) > 1 else None
    single = _model_of_field(model, path[0]) if path else None
    if nested is not None:
        where, path, model = f"{path[0].removesuffix('s')} '{path[1]}' of {where}", path[2:], nested
    elif single is not None and (len(path) > 1 or first["type"] == "value_error"):
        where, path, model = f"'{path[0]}' of {where}", path[1:], single
    known = model.model_fields
    key = path[0] if path else ""
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"{where} has an unknown key '{key}'", nearest=nearest(key, known), hint="known keys: " + ", ".join(known)
        )
    reason = first["msg"].removeprefix("Value error, ")
    if not key and first["type"] == "value_error":
        return ConfigError(f"{where}: {reason}")
    name = flags.get(key) or (f"'{key}' in {where}" if key else where)
    what = f"{name} cannot be {first['input']!r}"
    if first["type"] == "missing":
        what = f"{where} has no '{key}'"
    return ConfigError(f"{what}: {reason[0].lower()}{reason[1:]}")


def _model_of_field(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the model of a field of type `model | None`; None for fields of other types."""
    types = get_args(model.model_fields[key].annotation) if key in model.model_fields else ()
    first = types[0] if types else None
    return first if isinstance(first, type) and issubclass(first, BaseModel) else None


def _model_of_values(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the model of the values of a field of type `dict[str, model]`; None for fields of other types."""
    types = get_args(model.model_fields[key].annotation) if key in model.model_fields else ()
    last = types[-1] if types else None
    return last if isinstance(last, type) and issubclass(last, BaseModel) else None
