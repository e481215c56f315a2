"""A small text file that decides who may do what, read again when it changes.

tokens = WatchedFile("tokens.txt", parse_tokens, "tokens")
tokens.content()        # what parse_tokens made of the file; None while the file cannot be used
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

FRESH = 1.0  # seconds between two looks at a file
_log = logging.getLogger(__name__)


class WatchedFile(Generic[T]):
    """A file and what it holds.

    Args:
        parse: makes its content of the text; raises ConfigError for a text that makes no sense.
        noun: what the file holds, for messages.

    Raises:
        FileUnreadable, ConfigError: the file cannot be used when the server starts.
    """

    def __init__(self, path: str | os.PathLike[str], parse: Callable[[str], T], noun: str) -> None:
        self._path = Path(path)
        self._parse, self._noun = parse, noun
        self._version: tuple[int, ...] | None = self._stat()
        self._content: T | None = self._read()
        self._looked = time.monotonic()

    def content(self) -> T | None:
        """Return what the file holds; None if it has become unusable, so that it grants nothing to anybody."""
        if time.monotonic() - self._looked > FRESH:
            self._look_again()
        return self._content

    def _look_again(self) -> None:
        self._looked = time.monotonic()
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
            status = self._path.stat()
        except OSError as error:
            raise FileUnreadable(f"cannot read the {self._noun} in {self._path}: {error.strerror}") from error
        return status.st_mtime_ns, status.st_size, status.st_ino

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
