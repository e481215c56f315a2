"""Pack a model folder as an archive that servers unpack.

    with packed_folder(Path("bundle")) as file:         # bundle/model.onnx becomes htautau/model.onnx in the archive
        ...

The top folder has the model's name. Folders precede their content, since stock TFaaS creates no other folders.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.input_files import check_is_file, read_json
from mlaas4hep.protocol.params import PARAMS, check_exported, check_files, checked_name, parse_params


@contextmanager
def packed_folder(folder: Path) -> Iterator[BinaryIO]:
    """Pack a folder as tar.gz into a temporary file.

    Raises:
        ConfigError: params.json is missing, or does not name a model, or names files that are missing.
        FileUnreadable: something in the folder cannot be read.
    """
    name = folder_params(folder)["name"]
    with tempfile.TemporaryFile() as file:
        try:
            # Weights of networks hardly compress, and level 1 is several times faster than the default.
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1, dereference=True) as archive:
                archive.add(folder, name, recursive=False, filter=_without_owner)
                for path in sorted(folder.rglob("*")):  # sorts a folder before its content
                    if not path.is_dir():
                        check_is_file(path, hint="a model folder may contain only files and folders")
                    archive.add(path, f"{name}/{path.relative_to(folder)}", recursive=False, filter=_without_owner)
        except FileUnreadable:
            raise
        except OSError as error:
            raise FileUnreadable(f"cannot pack {error.filename or folder}: {error.strerror}") from error
        yield cast(BinaryIO, file)


def folder_params(folder: Path) -> dict[str, Any]:
    """Return the params.json of a model folder.

    Raises:
        ConfigError: it is missing or invalid, or does not name a model, or names files that are missing.
        FileUnreadable: it cannot be read.
    """
    if not (folder / PARAMS).is_file():
        check_exported(folder, f"the model in {folder}")
        raise ConfigError(f"{folder} is not a model folder: it has no {PARAMS}")
    params = read_json(folder / PARAMS)
    name = checked_name(str(params.get("name") if isinstance(params, dict) else ""), f"model name in {PARAMS}")
    params = parse_params((folder / PARAMS).read_bytes(), name)
    check_files(folder, name, params)
    return params


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove the local user and group from an archive member."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
