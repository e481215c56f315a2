"""Which normalisation is for which branch, as people write it.

parse_choice("auto,Jet_*=standard,nMuon=none")      # ("auto", {"Jet_*": "standard", "nMuon": "none"})
"""

from __future__ import annotations

from collections.abc import Mapping

from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.lists import split_list

METHODS = ("auto", "standard", "minmax", "none")
"""Normalisations; see `reader.normalise`."""

Choice = str | Mapping[str, str]
"""Which normalisation is for which branch; see `parse_choice`."""


def parse_choice(choice: Choice) -> tuple[str, dict[str, str]]:
    """Return the method of most branches, and that of some, by name, glob or /regular expression/.

    Args:
        choice: a method; or "auto,Jet_*=standard,nMuon=none"; or {"default": "auto", "Jet_*": "standard", ...}.

    Raises:
        ConfigError: there is no such method.
    """
    if isinstance(choice, str):
        parts = [part.rpartition("=") for part in split_list(choice) or [""]]
        pairs = {pattern.strip() or "default": method.strip() for pattern, _, method in parts}
    else:
        pairs = dict(choice)
    for method in pairs.values():
        if method not in METHODS:
            hint = "choose one of " + ", ".join(METHODS)
            raise ConfigError(f"there is no normalisation '{method}'", nearest=nearest(str(method), METHODS), hint=hint)
    return pairs.pop("default", "auto"), pairs
