"""Reading of text files that a user names, with errors for paths that are not regular files.

    read_json("params.json")
    check_is_file("data.root")      # FileUnreadable: data.root is a broken link to /data/old.root, not a file

Only regular files are opened: opening a FIFO would wait for a writer, and reading a device may never end (/dev/zero).
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from functools import cache
from pathlib import Path
from typing import Any

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.unique_names import RepeatedKey, unique_keys

FOLDER = "a folder"

KINDS = {
    stat.S_IFDIR: FOLDER,
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Types of files that are not regular, by the type bits of their mode."""

UTF_8 = "if it is one, save it as UTF-8"
"""Hint for files that are not valid text."""

GZIP_MAGIC = b"\x1f\x8b"
"""The first bytes of a gzip stream."""


def special_kind(path: str | os.PathLike[str]) -> str:
    """Return the kind of a path, such as "a FIFO (named pipe)"; "" if it is a regular file or does not exist."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that leads back to itself"
        return f"a broken link to {os.readlink(path)}" if os.path.islink(path) else ""
    except ValueError:  # no path contains a null character
        return ""
    return "" if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "a special file")


def check_is_file(path: str | os.PathLike[str], hint: str = "") -> None:
    """Raise FileUnreadable with the given hint if a path exists and is not a regular file."""
    kind = special_kind(path)
    if kind:
        raise FileUnreadable(f"{os.fspath(path)} is {kind}, not a file", hint=hint)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        FileUnreadable: the file does not exist, is not a regular file, or cannot be read.
        ConfigError: the text is not JSON (the message names the line and the column), an object has the same key
            twice, or a string is not valid Unicode.
    """
    text = read_text(path)
    try:
        content = json.loads(text, object_pairs_hook=unique_keys)
        if "\\ud" in text.lower():  # an unpaired surrogate can be neither printed nor written
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise ConfigError(f"{path} has a string that is not valid Unicode: {half} is an unpaired surrogate") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RepeatedKey as error:
        raise ConfigError(f"{path}: {error}", hint="keep one of them") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or numbers with thousands of digits
        raise ConfigError(f"the JSON in {path} cannot be parsed: {error}") from error


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a YAML file; `1e-3` is a number, as in YAML 1.2.

    Raises:
        FileUnreadable: see `read_json`.
        ConfigError: the text is not YAML (the message names the line and the column), or a mapping has the same key
            twice.
    """
    import yaml

    try:
        return yaml.load(read_text(path), _yaml_loader())  # constructs plain values only
    except RepeatedKey as error:
        raise ConfigError(f"{path}: {error}", hint="keep one of them") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path} is not YAML: {getattr(error, 'problem', None) or error}{place}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or an invalid date
        raise ConfigError(f"the YAML in {path} cannot be parsed: {error}") from error


@cache
def _yaml_loader() -> Any:
    """Return a safe loader of YAML that refuses repeated keys, and reads `1e-3` as a number."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            pairs = [(self.construct_object(key, deep=True), None) for key in own]
            unique_keys(pairs)
            return super().construct_mapping(node, deep)

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file (UTF-8).

    Raises:
        FileUnreadable: the file does not exist, is not a regular file, cannot be read, or is not text.
    """
    check_is_file(path)
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileUnreadable(f"{path} is not a text file", hint=UTF_8) from error
    except OSError as error:
        raise FileUnreadable(f"cannot read {path}: {error.strerror}") from error


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Read the lines of a text file, without blank lines, `#` comments and surrounding whitespace."""
    return content_lines(read_text(path))


def content_lines(text: str) -> list[str]:
    """Return the lines of a text, without blank lines, `#` comments and surrounding whitespace."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]
