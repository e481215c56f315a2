"""Quoting of text in commands that users can copy into a shell.

quoted("Jet_*")      # "'Jet_*'"
quoted("a\\nb")       # "$'a\\\\nb'"
"""

from __future__ import annotations

import shlex


def quoted(text: str) -> str:
    """Return a text quoted for a shell; text with control characters has the form `$'...'` of bash, zsh and ksh."""
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    if letter == "\n":
        return "\\n"
    return "".join(f"\\x{byte:02x}" for byte in letter.encode(errors="surrogateescape"))
