"""Errors that users can cause. Their messages name the problem, similar names, and a solution.

    raise BranchNotFound("branch 'Muon_pT' is not in tree 'Events' of data.root", nearest=["Muon_pt"])

The scripts print the message of an `MLaaS4HEPError` as `error: ...` and exit with 1; see `console.run`.
Any other exception is a bug in this package, and its traceback is printed.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType

_GENERIC_NAMES = ("error", "exception")
"""Names of exception classes, such as zlib.error, that need not be shown, in lower case."""


class MLaaS4HEPError(Exception):
    """Base class of errors that users can fix; `str()` returns a message of one line.

    Attributes:
        what: the problem.
        nearest: existing names that are similar to an unknown one.
        hint: how to fix the problem.
        exit_code: exit code of scripts.
    """

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
    """A file is missing, damaged, or not of the expected kind."""

    __str__ = MLaaS4HEPError.__str__


class Unreachable(FileUnreadable):
    """A file cannot be reached at present; its content may be intact."""


class TreeNotFound(MLaaS4HEPError, KeyError):
    """A file does not contain the requested tree."""

    __str__ = MLaaS4HEPError.__str__


class BranchNotFound(MLaaS4HEPError, KeyError):
    """A tree does not contain the requested branch."""

    __str__ = MLaaS4HEPError.__str__


class SpecsMismatch(MLaaS4HEPError, ValueError):
    """Specs do not match the data."""


class ConfigError(MLaaS4HEPError, ValueError):
    """An option, a list of labels, a model file or a JSON file is invalid."""


class PackageMissing(MLaaS4HEPError, ImportError):
    """A required optional package is not installed."""


class ServiceError(MLaaS4HEPError, ConnectionError):
    """A TFaaS server cannot be reached or refuses a request."""


def printable(text: str) -> str:
    """Return a text with control characters, invisible characters and changes of direction escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` of the known names that are most similar to `name`, the most similar first.

    If `name` is a struct (`p` or `p.`), its members are returned (`p.px`, `p/px`). If it lacks the first
    part of a name (`mass`), the full names come first (`scores.mass`).
    """
    by_folded = {candidate.lower(): candidate for candidate in known}
    stem = name.lower().rstrip("./")
    members = [candidate for folded, candidate in by_folded.items() if folded.startswith((f"{stem}.", f"{stem}/"))]
    if stem and members:
        return members[:count]
    qualified = [folded for folded in by_folded if stem and folded.endswith(f".{stem}")]
    matches = difflib.get_close_matches(name.lower(), by_folded, n=count, cutoff=0.6)
    return [by_folded[match] for match in dict.fromkeys([*qualified, *matches])][:count]


@contextmanager
def error_context(where: str) -> Iterator[None]:
    """Prefix the messages of ConfigError in the block with a place."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.what}", nearest=error.nearest, hint=error.hint) from error


@contextmanager
def sample_in_errors(name: str) -> Iterator[None]:
    """Prefix the messages of all errors of this package in the block with the name of a sample; "": it has none."""
    try:
        yield
    except MLaaS4HEPError as error:
        if name:
            error.what = f"sample '{name}': {error.what}"
        raise


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module.

    Args:
        module, extra: names of the module and of the extra of this package that installs it.
        purpose: what needs it, such as "histograms".

    Raises:
        PackageMissing: the module is not installed; the message contains the command that installs it.
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


def error_text(error: BaseException) -> str:
    """Return the most informative line of the message of another library's exception, without colour codes."""
    text = error.msg if isinstance(error, SyntaxError) else re.sub(r"\x1b\[\d+m", "", str(error))
    lines = [line.strip(" ,") for line in text.splitlines() if line.strip(" ,")]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):  # first line of Keras
        lines = lines[1:]
    return lines[0] if lines else ""


def error_summary(error: BaseException) -> str:
    """Return the class of another library's exception, unless its name is generic, and its `error_text`."""
    text, name = error_text(error), type(error).__name__
    if text and name.lower() in _GENERIC_NAMES:
        return text
    return f"{name}: {text}" if text else name
