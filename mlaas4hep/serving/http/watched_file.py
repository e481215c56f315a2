"""A small text file with access rules that is read again when it changes.

tokens = WatchedFile("tokens.txt", parse_tokens, "tokens")
tokens.content()        # the result of parse_tokens; None while the file cannot be used
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from mlaas4hep.errors import ConfigError, FileUnreadable

T = TypeVar("T")

FRESH = 1.0  # seconds between two checks of a file
_log = logging.getLogger(__name__)


def file_version(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """Return properties of a file that change when it is modified or replaced."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_ino


class WatchedFile(Generic[T]):
    """A file and its parsed content.

    Args:
        parse: parses the text; raises ConfigError if it is invalid.
        noun: what the file contains, for messages.

    Raises:
        FileUnreadable, ConfigError: the file cannot be used when the server starts.
    """

    def __init__(self, path: str | os.PathLike[str], parse: Callable[[str], T], noun: str) -> None:
        self._path = Path(path)
        self._parse, self._noun = parse, noun
        self._version: tuple[int, ...] | None = self._stat()
        self._content: T | None = self._read()
        self._checked = time.monotonic()

    def content(self) -> T | None:
        """Return the parsed content; None if the file has become unusable. Callers must then grant no rights."""
        if time.monotonic() - self._checked > FRESH:
            self._reload_if_changed()
        return self._content

    def _reload_if_changed(self) -> None:
        self._checked = time.monotonic()
        try:
            version = self._stat()
            if version != self._version:
                self._content, self._version = self._read(), version
        except (FileUnreadable, ConfigError) as error:
            if self._version is not None:  # logged once
                _log.warning("the %s are no longer used: %s", self._noun, error)
            self._content, self._version = None, None

    def _stat(self) -> tuple[int, ...]:
        try:
            return file_version(self._path)
        except OSError as error:
            raise FileUnreadable(f"cannot read the {self._noun} in {self._path}: {error.strerror}") from error

    def _read(self) -> T:
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise FileUnreadable(f"cannot read the {self._noun} in {self._path}: {reason}") from error
        try:
            return self._parse(text)
        except ConfigError as error:
            raise ConfigError(f"{self._path} {error.what}", hint=error.hint) from error
