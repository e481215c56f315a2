"""Comma lists on command lines, in params.json and in messages.

split_list("nMuon, /Jet_p.{1,3}/, MET_*")      # ["nMuon", "/Jet_p.{1,3}/", "MET_*"]
split_list('"x, y",MET_pt')                    # ["x, y", "MET_pt"]
join_list(["x, y", "MET_pt"])                  # '"x, y",MET_pt'
abbreviated(["ggH", "VBF", "WH", "ZH"], 2)     # "ggH, VBF, ..."
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from mlaas4hep.errors import ConfigError
from mlaas4hep.shell import quoted

_QUOTED = r'"((?:[^"]|"")*)"'
_ITEM = re.compile(rf"{_QUOTED}(?=\s*(?:[,=]|$))[^,]*|/.+?/(?=\s*(?:[,=]|$))[^,]*|[^,\s][^,]*")
_QUOTED_ITEM = re.compile(rf"{_QUOTED}(?=\s*(?:=|$))")


def split_list(text: str) -> list[str]:
    """Return the items of a comma list, without blank items and surrounding whitespace.

    An item that contains a comma must be in double quotes, as in CSV (`"x, y"`), in which quotes are doubled. A
    /regular expression/ needs no quotes: it ends at a slash before a comma, before an equals sign
    (`/Jet_.{2,3}/=none`), or at the end.
    """
    return [item for found in _ITEM.finditer(text) if (item := _unquoted(found[0].strip()))]


def _unquoted(item: str) -> str:
    match = _QUOTED_ITEM.match(item)
    return match[1].replace('""', '"') + item[match.end() :].strip() if match else item


def split_choices(text: str, setting: str) -> dict[str, str]:
    """Return the values in a comma list such as "auto,Jet_*=standard", by pattern; the key without one is "default".

    Args:
        setting: name of the setting, for error messages.

    Raises:
        ConfigError: an equals sign has no pattern before it, or a pattern has two values.
    """
    choices: dict[str, str] = {}
    for item in split_list(text):
        pattern, sign, choice = (part.strip() for part in item.rpartition("="))
        if sign and not pattern:
            raise ConfigError(f"{setting} has no branch before '{item}'", hint=f"write '{choice}' or 'Jet_*={choice}'")
        key = pattern or "default"
        if key in choices:
            what = f"for '{pattern}'" if pattern else "for all branches"
            raise ConfigError(
                f"{setting} has two values {what}: '{choices[key]}' and '{choice}'", hint="give one of them"
            )
        choices[key] = choice
    return choices


def join_list(items: Iterable[str]) -> str:
    """Return the comma list for which `split_list` returns these items."""
    return ",".join(map(_quoted, items))


def _quoted(item: str) -> str:
    plain = item == item.strip() and "," not in item and not item.startswith(('"', "/"))
    return item if plain else '"' + item.replace('"', '""') + '"'


def list_setting(flag: str, key: str, items: Sequence[str]) -> str:
    """Return a hint on how to pass a list to reader.py, quoted for a shell, and in params.json."""
    return f'--{flag}={quoted(join_list(items))} of reader.py, or "{key}": {json.dumps(items)} in params.json'


def first_few(names: Sequence[str], limit: int = 3, separator: str = ", ") -> str:
    """Return the first names, as in "a, b, c and 4 more" if there are more than `limit`."""
    return separator.join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def abbreviated(names: Sequence[str], limit: int = 10) -> str:
    """Return the first names, separated by commas, with an ellipsis if there are more than `limit`."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
