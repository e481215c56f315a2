"""Every error that a user can cause, each saying what, where, the nearest right name and the fix.

    raise BranchNotFound("branch 'Muon_pT' is not in tree 'Events' of data.root", nearest=["Muon_pt"])

The scripts print the message of an `MLaaS4HEPError` as `error: ...` and exit with 1; see `console.run`.
Anything else that is raised is a defect of this package, and keeps its traceback.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from types import ModuleType


class MLaaS4HEPError(Exception):
    """Base of all errors that a user can mend; `str()` of it is one line, ready to be shown."""

    exit_code = 1

    def __init__(self, what: str, *, nearest: Iterable[str] = (), hint: str = "") -> None:
        self.what = what
        self.nearest = list(nearest)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what]
        if self.nearest:
            parts.append("closest: " + ", ".join(repr(name) for name in self.nearest))
        if self.hint:
            parts.append(self.hint)
        return printable("; ".join(parts).replace("\n", " "))


class FileUnreadable(MLaaS4HEPError, OSError):
    """A file is missing, is not what its reader expects, or is damaged."""

    __str__ = MLaaS4HEPError.__str__


class Unreachable(FileUnreadable):
    """No place that a file lies in can be read at present; its content may be perfectly well."""


class TreeNotFound(MLaaS4HEPError, KeyError):
    """A file has no tree of the name that was asked for."""

    __str__ = MLaaS4HEPError.__str__


class BranchNotFound(MLaaS4HEPError, KeyError):
    """A tree has no branch of the name that was asked for."""

    __str__ = MLaaS4HEPError.__str__


class SpecsMismatch(MLaaS4HEPError, ValueError):
    """Specs do not belong to the data that they were given with."""


class ConfigError(MLaaS4HEPError, ValueError):
    """An option, a label list, a model file or a JSON file says something that makes no sense here."""


class PackageMissing(MLaaS4HEPError, ImportError):
    """An optional package is needed and not installed."""


class ServiceError(MLaaS4HEPError, ConnectionError):
    """A TFaaS server cannot be reached or refuses a request."""


def printable(text: str) -> str:
    """Return a text as it may be shown: what acts on a terminal, or hides or turns round letters, is escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` of the known names that look most like `name`, the best first."""
    by_folded = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_folded, n=count, cutoff=0.6)
    return [by_folded[match] for match in matches]


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say which line installs it.

    Args:
        module: what to import, e.g. "matplotlib.pyplot".
        extra: the extra of this package that brings it, e.g. "plot".
        purpose: what it is needed for, e.g. "histograms".

    Raises:
        PackageMissing: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise PackageMissing(
            f"{purpose} needs the package '{package}', which is not installed",
            hint=f"install it: pip install 'mlaas4hep[{extra}]'",
        ) from error


def said(error: BaseException) -> str:
    """Return what another library's error says: the line that matters, without colours."""
    text = error.msg if isinstance(error, SyntaxError) else re.sub(r"\x1b\[\d+m", "", str(error))
    lines = [line.strip(" ,") for line in text.splitlines() if line.strip(" ,")]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):  # Keras, before it says what
        lines = lines[1:]
    return lines[0] if lines else ""


def first_line(error: BaseException) -> str:
    """Return the kind of another library's error, and what it says."""
    text = said(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
