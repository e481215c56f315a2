"""The distinguished names of certificates that may change models.

    allowed = AllowedNames(["/DC=ch/DC=cern/CN=Jane Doe"], "grid-mapfile")
    allowed.permit("/DC=ch/DC=cern/CN=Jane Doe")

Each line of a grid-mapfile has a name in quotes and a local user, which is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.certificates.distinguished_names import is_slash_form, normalise
from mlaas4hep.serving.http.watched_file import WatchedFile

_LINE = re.compile(r'\s*"((?:[^"\\]|\\.)*)"(?:\s+[^\s"]+)?\s*')
_HINT = "openssl x509 -in usercert.pem -noout -subject -nameopt compat shows a certificate's name"


class AllowedNames:
    """A list of names, and the names in a grid-mapfile, which is read again when it changes.

    Raises:
        FileUnreadable: the file cannot be read.
        ConfigError: the file is invalid, or a name is not in slash form.
    """

    def __init__(self, names: Iterable[str] = (), gridmap: str = "") -> None:
        self._names = frozenset(map(normalise, names))
        for name in self._names:
            if not is_slash_form(name):
                raise ConfigError(f"invalid --allow-dn {name!r}: write it as /DC=ch/DC=cern/CN=Jane Doe", hint=_HINT)
        self._gridmap = WatchedFile(gridmap, parse_gridmap, "names") if gridmap else None

    def permit(self, subject: str | None) -> bool:
        """Return whether a certificate's name is among them; an ambiguous name (None) never is."""
        listed = self._gridmap.content() or () if self._gridmap else ()
        return subject is not None and (subject in self._names or subject in listed)


def parse_gridmap(text: str) -> frozenset[str]:
    """Return the names in a grid-mapfile, normalised.

    Raises:
        ConfigError: a line is not a name and a user, or the file has no names.
    """
    names = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        name = normalise(re.sub(r'\\(["\\])', r"\1", match[1])) if match else ""
        if not is_slash_form(name):
            raise ConfigError(f'line {number} does not look like "/DC=ch/DC=cern/CN=Jane Doe" jdoe', hint=_HINT)
        names.add(name)
    if not names:
        raise ConfigError("has no names", hint='write one per line: "/DC=ch/DC=cern/CN=Jane Doe" jdoe')
    return frozenset(names)
