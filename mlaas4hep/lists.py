"""Comma lists, as people write them on command lines and in params.json.

split_list("nMuon, /Jet_p.{1,3}/, MET_*")      # ["nMuon", "/Jet_p.{1,3}/", "MET_*"]
"""

from __future__ import annotations

import re

_ITEM = re.compile(r"/.+?/(?=\s*(?:[,=]|$))[^,]*|[^,\s][^,]*")


def split_list(text: str) -> list[str]:
    """Return the items of a comma list, without blank ones and surrounding space.

    A /regular expression/ may have commas of its own: it ends with a slash before a comma, before what is said of it
    (`/Jet_.{2,3}/=none`), or at the end.
    """
    return [item.strip() for item in _ITEM.findall(text)]
