"""Parsing of the setting `normalise`: a normalisation method for all branches, and others for some.

parse_normalisation("auto,Jet_*=standard,nMuon=none")      # ("auto", {"Jet_*": "standard", "nMuon": "none"})
"""

from __future__ import annotations

from collections.abc import Mapping

from mlaas4hep.comma_lists import split_choices
from mlaas4hep.errors import ConfigError, nearest

METHODS = ("auto", "standard", "minmax", "none")
"""Normalisation methods; see `reader.normalise`."""

NormalisationChoice = str | Mapping[str, str]
"""Normalisation methods by branch; see `parse_normalisation`."""


def parse_normalisation(choice: NormalisationChoice) -> tuple[str, dict[str, str]]:
    """Return the default method, and the methods of some branches by name, glob or /regular expression/.

    Args:
        choice: a method; or "auto,Jet_*=standard,nMuon=none"; or {"default": "auto", "Jet_*": "standard", ...}.

    Raises:
        ConfigError: a method is unknown; see also `split_choices`.
    """
    pairs = split_choices(choice, "normalise") or {"default": ""} if isinstance(choice, str) else dict(choice)
    for method in pairs.values():
        if method not in METHODS:
            hint = "choose one of " + ", ".join(METHODS)
            raise ConfigError(f"unknown normalisation '{method}'", nearest=nearest(str(method), METHODS), hint=hint)
    return pairs.pop("default", "auto"), pairs
