"""The people who may change models, by the distinguished names of their certificates.

    allowed = AllowedNames(["/DC=ch/DC=cern/CN=Jane Doe"], "grid-mapfile")
    allowed.permit("/DC=ch/DC=cern/CN=Jane Doe")

A grid-mapfile has a name in quotes and a local user on each line; the user is not needed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.distinguished_names import is_slash_form, normalise
from mlaas4hep.serving.watched_file import WatchedFile

_LINE = re.compile(r'\s*"((?:[^"\\]|\\.)*)"(?:\s+[^\s"]+)?\s*')
_HINT = "openssl x509 -in usercert.pem -noout -subject -nameopt compat shows a certificate's name"


class AllowedNames:
    """Names that were given one by one, and those of a grid-mapfile, which is read again when it changes.

    Raises:
        FileUnreadable, ConfigError: the file cannot be used, or a name is not in slash form.
    """

    def __init__(self, names: Iterable[str] = (), gridmap: str = "") -> None:
        self._names = frozenset(map(normalise, names))
        for name in self._names:
            if not is_slash_form(name):
                raise ConfigError(f"--allow-dn: {name!r} is not a name like /DC=ch/DC=cern/CN=Jane Doe", hint=_HINT)
        self._gridmap = WatchedFile(gridmap, parse_gridmap, "names") if gridmap else None

    def permit(self, subject: str | None) -> bool:
        """Say whether a certificate's name is among them; None, a name that is not clear, never is."""
        if subject is None:
            return False
        return subject in self._names or (self._gridmap is not None and subject in (self._gridmap.content() or ()))


def parse_gridmap(text: str) -> frozenset[str]:
    """Return the names in a grid-mapfile, normalised.

    Raises:
        ConfigError: a line is not a name and a user, or there is no line.
    """
    names = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        name = normalise(re.sub(r'\\(["\\])', r"\1", found[1])) if found else ""
        if not is_slash_form(name):
            raise ConfigError(f'line {number} is not like "/DC=ch/DC=cern/CN=Jane Doe" jdoe', hint=_HINT)
        names.add(name)
    if not names:
        raise ConfigError("holds no names", hint='one a line: "/DC=ch/DC=cern/CN=Jane Doe" jdoe')
    return frozenset(names)
