"""Comma lists, as people write them on command lines and in params.json, and as they read them in messages.

split_list("nMuon, /Jet_p.{1,3}/, MET_*")      # ["nMuon", "/Jet_p.{1,3}/", "MET_*"]
some(["ggH", "VBF", "WH", "ZH"], 2)            # "ggH, VBF, ..."
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ITEM = re.compile(r"/.+?/(?=\s*(?:[,=]|$))[^,]*|[^,\s][^,]*")


def split_list(text: str) -> list[str]:
    """Return the items of a comma list, without blank ones and surrounding space.

    A /regular expression/ may have commas of its own: it ends with a slash before a comma, before what is said of it
    (`/Jet_.{2,3}/=none`), or at the end.
    """
    return [item.strip() for item in _ITEM.findall(text)]


def some(names: Sequence[str], most: int = 10) -> str:
    """Return the first of some names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
