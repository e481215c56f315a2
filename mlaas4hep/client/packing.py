"""The folder of a model as an archive that servers unpack: the counterpart of `archive`.

    with packed(Path("bundle")) as file:         # bundle/model.onnx is htautau/model.onnx in it
        ...

Its top folder is the model's name, and folders come before what is in them, since stock TFaaS makes no others.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.input_files import check_is_file, read_json
from mlaas4hep.serving.params import PARAMS, check_files, checked_name, parse_params


@contextmanager
def packed(folder: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Pack a folder as tar.gz into a temporary file; give the model's name, and the file.

    Raises:
        ConfigError: it has no params.json that names a model, or not the files that it speaks of.
        FileUnreadable: something in it cannot be read.
    """
    if not (folder / PARAMS).is_file():
        raise ConfigError(f"{folder} is no model's folder: there is no {PARAMS} in it")
    params = read_json(folder / PARAMS)
    name = checked_name(str(params.get("name") if isinstance(params, dict) else ""), f"model's name in {PARAMS}")
    check_files(folder, name, parse_params((folder / PARAMS).read_bytes(), name))
    with tempfile.TemporaryFile() as file:
        try:
            # The weights of networks hardly become smaller, and level 1 is several times faster than the default.
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1, dereference=True) as archive:
                archive.add(folder, name, recursive=False, filter=_of_nobody)
                for path in sorted(folder.rglob("*")):  # a folder is sorted before what is in it
                    if not path.is_dir():
                        check_is_file(path, hint="a model's folder holds files and folders only")
                    archive.add(path, f"{name}/{path.relative_to(folder)}", recursive=False, filter=_of_nobody)
        except FileUnreadable:
            raise
        except OSError as error:
            raise FileUnreadable(f"cannot pack {error.filename or folder}: {error.strerror}") from error
        yield name, cast(BinaryIO, file)


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out whose files they are here."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
