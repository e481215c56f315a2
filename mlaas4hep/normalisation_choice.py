"""Parsing of the setting `normalise`: a normalisation method for all branches, and others for some.

parse_normalisation("auto,Jet_*=standard,nMuon=none")      # ("auto", {"Jet_*": "standard", "nMuon": "none"})
parse_normalisation({"Jet_pt": {"centre": 50, "scale": 0.02, "clip": [-5, 5]}})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlaas4hep.comma_lists import split_choices
from mlaas4hep.errors import ConfigError, nearest

METHODS = ("auto", "standard", "minmax", "none")
"""Normalisation methods; see `reader.normalise`."""


class FixedNormalisation(NamedTuple):
    """A normalisation that does not depend on the sample: clip((x - centre) * scale, *clip)."""

    centre: float = 0.0
    scale: float = 1.0
    clip: tuple[float, float] | None = None

    def __str__(self) -> str:
        limits = f", clipped to [{self.clip[0]:g}, {self.clip[1]:g}]" if self.clip else ""
        return f"(x - {self.centre:g}) * {self.scale:g}{limits}"


Method = str | FixedNormalisation
"""One of METHODS, or fixed constants."""

NormalisationChoice = str | Mapping[str, str | dict[str, float | list[float]]]
"""Normalisation methods by branch; see `parse_normalisation`."""

LARGEST = 1e15
"""Largest constant; the inverse is the smallest scale."""

_EXAMPLE = 'as in {"centre": 50, "scale": 0.02, "clip": [-5, 5]}'


def parse_normalisation(choice: NormalisationChoice) -> tuple[Method, dict[str, Method]]:
    """Return the default method, and the methods of some branches by name, glob or /regular expression/.

    Args:
        choice: a method; or "auto,Jet_*=standard,nMuon=none"; or {"default": "auto", "Jet_*": "standard", ...}, where
            an object with `centre`, `scale` and `clip` sets the constants of some branches.

    Raises:
        ConfigError: a method is unknown, or a constant is invalid; see also `split_choices`.
    """
    pairs = split_choices(choice, "normalise") or {"default": ""} if isinstance(choice, str) else dict(choice)
    methods = {pattern: _method(pattern, method) for pattern, method in pairs.items()}
    return methods.pop("default", "auto"), methods


def _method(pattern: str, method: Any) -> Method:
    if isinstance(method, Mapping):
        return _constants(pattern, method)
    if method not in METHODS:
        hint = "choose one of " + ", ".join(METHODS)
        raise ConfigError(f"unknown normalisation '{method}'", nearest=nearest(str(method), METHODS), hint=hint)
    return str(method)


def _constants(pattern: str, values: Mapping[str, Any]) -> FixedNormalisation:
    for name in values:
        if name not in FixedNormalisation._fields:
            known = FixedNormalisation._fields
            raise ConfigError(
                f"the normalisation of '{pattern}' has an unknown key '{name}'",
                nearest=nearest(name, known),
                hint=_EXAMPLE,
            )
    clip = values.get("clip")
    limits = clip if isinstance(clip, (list, tuple)) else []
    numbers = [values.get("centre", 0.0), values.get("scale", 1.0), *limits]
    are_numbers = all(isinstance(one, (int, float)) and abs(one) < LARGEST for one in numbers)
    if not are_numbers or abs(numbers[1]) < 1 / LARGEST or not (clip is None or _ascend(limits)):
        raise ConfigError(
            f"the normalisation of '{pattern}' is {dict(values)}",
            hint=f"give numbers below {LARGEST:g}, a scale other than 0, and two ascending limits, {_EXAMPLE}",
        )
    centre, scale = float(numbers[0]), float(numbers[1])
    return FixedNormalisation(centre, scale, (float(limits[0]), float(limits[1])) if limits else None)


def _ascend(limits: Sequence[float]) -> bool:
    return len(limits) == 2 and limits[0] < limits[1]
