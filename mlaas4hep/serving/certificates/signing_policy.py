"""Signing policies: the subjects that a grid authority may issue certificates for.

    policy = parse_signing_policy(Path("1d879c6c.signing_policy").read_text())
    policy.permits("/O=Grid/CN=Authority", "/O=Grid/CN=Jane Doe")

A file is a list of entries:

    access_id_CA   X509    '/O=Grid/CN=Authority'
    pos_rights     globus  CA:sign
    cond_subjects  globus  '"/O=Grid/*" "/O=Laboratory/*"'

`*` stands for any characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.certificates.distinguished_names import normalise

_WORD = re.compile(r"""'[^']*'|"[^"]*"|[^\s'"]+""")
_QUOTED = re.compile(r'"([^"]*)"')


@dataclass(frozen=True)
class SigningPolicy:
    """The content of one file.

    Attributes:
        subjects: patterns of the subjects that an authority may certify, by authority.
    """

    subjects: dict[str, tuple[re.Pattern[str], ...]]

    def permits(self, authority: str | None, subject: str | None) -> bool:
        """Return whether an authority may certify a subject; both are in normalised slash form.

        Ambiguous names (None) and authorities that the file does not mention are not permitted.
        """
        if authority is None or subject is None:
            return False
        return any(pattern.fullmatch(subject) for pattern in self.subjects.get(authority, ()))


def parse_signing_policy(text: str) -> SigningPolicy:
    """Parse the content of a signing policy file.

    Raises:
        ConfigError: a line is invalid; it might restrict the permissions of the other lines.
    """
    subjects: dict[str, tuple[re.Pattern[str], ...]] = {}
    authorities: list[str] = []
    previous, signs = "", False
    for number, line in enumerate(text.splitlines(), 1):
        words = _words(line)
        if not words:
            continue
        keyword = words[0].lower()
        if len(words) < 3:
            raise ConfigError(f"line {number} of a signing policy has no value: {line.strip()!r}")
        if keyword == "access_id_ca":
            authorities = [*authorities, normalise(words[2])] if previous == keyword else [normalise(words[2])]
            signs = False
        elif keyword == "pos_rights":
            signs = words[2].lower() == "ca:sign"
        elif keyword == "cond_subjects":
            if signs:
                globs = [glob for word in words[2:] for glob in _QUOTED.findall(word) or [word]]  # several in one word
                patterns = tuple(map(_pattern, globs))
                subjects |= {name: subjects.get(name, ()) + patterns for name in authorities}
        else:
            raise ConfigError(f"line {number} of a signing policy has the unknown keyword {words[0]!r}")
        previous = keyword
    return SigningPolicy(subjects)


def _words(line: str) -> list[str]:
    """Split a line into words; remove quotes and the comment."""
    words = []
    for match in _WORD.finditer(line):
        word = match[0]
        if word.startswith("#"):
            break
        words.append(word[1:-1] if word[0] in "'\"" else word)
    return words


def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, normalise(glob).split("*"))), re.DOTALL)
