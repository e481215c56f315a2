"""Read the text files that a user names, and say what a path is if it is not a file.

    read_json("params.json")
    check_is_file("data.root")      # FileUnreadable: data.root is a broken link to /data/old.root, not a file

Opening a FIFO would wait for a writer, and a device such as /dev/zero never ends, so nothing but plain files is opened.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from mlaas4hep.errors import ConfigError, FileUnreadable

FOLDER = "a folder"

_KINDS = {
    stat.S_IFDIR: FOLDER,
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

UTF_8 = "if it is one, save it as UTF-8"
"""What to do with a file that is not text."""


def special_kind(path: str | os.PathLike[str]) -> str:
    """Return what a path is instead of a plain file, such as "a FIFO (named pipe)"; "" for a file or a missing path."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that leads back to itself"
        return f"a broken link to {os.readlink(path)}" if os.path.islink(path) else ""
    except ValueError:  # a null character: there is no such path
        return ""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "a special file")


def check_is_file(path: str | os.PathLike[str], hint: str = "") -> None:
    """Raise FileUnreadable if a path exists and is not a plain file; `hint` says what to do."""
    kind = special_kind(path)
    if kind:
        raise FileUnreadable(f"{os.fspath(path)} is {kind}, not a file", hint=hint)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        FileUnreadable: there is no such file, it is not a plain file, or it cannot be read.
        ConfigError: its text is not JSON; the message names line and column.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except (RecursionError, ValueError) as error:  # nested too deep; numbers of thousands of digits
        raise ConfigError(f"{path} is JSON that cannot be read: {error}") from error


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file (UTF-8).

    Raises:
        FileUnreadable: there is no such file, it is not a plain file, it cannot be read, or it is not text.
    """
    check_is_file(path)
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileUnreadable(f"{path} is not a text file", hint=UTF_8) from error
    except OSError as error:
        raise FileUnreadable(f"cannot read {path}: {error.strerror}") from error


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Read the lines of a text file without blank ones, `#` comments and surrounding space."""
    return content_lines(read_text(path))


def content_lines(text: str) -> list[str]:
    """Return the lines of a text without blank ones, `#` comments and surrounding space."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]
