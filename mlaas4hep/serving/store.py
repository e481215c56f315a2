"""The models that a server has: one folder each, `{models_dir}/{name}/` with params.json, the model and its labels.

    store = ModelStore("tfaas_models")
    store.add_bundle(stream)
    store.get("htautau").params

A model appears complete or not at all: it is written to a hidden folder beside the others, checked, and renamed. What a
crash leaves behind is put right by the next `ModelStore` of the folder. Running models is the predictor's business.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlaas4hep.errors import ConfigError, FileUnreadable, nearest
from mlaas4hep.serving import archive
from mlaas4hep.serving.params import (
    PARAMS,
    STOCK_PARAMS,
    check_files,
    checked_name,
    complete,
    is_name,
    plain_filename,
    read_params,
)

_WORKPLACE = ".tfaas-work-"
_log = logging.getLogger(__name__)

Version = tuple[int, int]


class UnknownModel(ConfigError):
    """The store has no model of the name that was asked for."""


@dataclass(frozen=True)
class StoredModel:
    """One model on disk; `version` changes whenever the model is replaced."""

    name: str
    folder: Path
    params: dict[str, Any]
    version: Version


@dataclass(frozen=True)
class Upload:
    """A file of a form: its own name, and its content."""

    filename: str
    content: BinaryIO


class ModelStore:
    """The models in a folder. One server a folder; safe to use from many threads.

    Raises:
        FileUnreadable: the folder cannot be made, read or written.
    """

    def __init__(self, folder: str | os.PathLike[str], limits: archive.Limits | None = None) -> None:
        self.folder = Path(folder)
        self.limits = limits or archive.Limits()
        self._default = ""
        self._swapping = threading.RLock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left_behind in self.folder.glob(f"{_WORKPLACE}*"):
                self._clear(left_behind)
        except OSError as error:
            raise FileUnreadable(f"cannot keep models in {self.folder}: {error.strerror}") from error

    def names(self) -> Sequence[str]:
        """Return the names of all models, sorted, broken ones too."""
        with self._swapping:
            return sorted(path.name for path in self.folder.iterdir() if is_name(path.name) and _is_model(path))

    def list(self) -> Sequence[dict[str, Any]]:
        """Return the params of all models; those of a broken one say so in their description."""
        return [self._params_or_reason(name) for name in self.names()]

    def params(self, name: str) -> dict[str, Any]:
        """Return a model's params with all keys that TFaaS knows, in the old and the new spelling."""
        return self.get(name).params

    def version(self, name: str) -> Version:
        """Return what changes when the model is replaced.

        Raises:
            UnknownModel: there is no such model.
        """
        folder = self.folder / checked_name(name)
        with suppress(FileNotFoundError, NotADirectoryError), self._swapping:
            os.stat(folder / PARAMS)  # without it a folder is none of ours
            status = os.stat(f"{folder}/")
            return status.st_ino, status.st_mtime_ns
        known = self.names()
        raise UnknownModel(f"there is no model '{name}'", nearest=nearest(name, known), hint="list all: GET /models")

    def get(self, name: str) -> StoredModel:
        """Return a model.

        Raises:
            UnknownModel: there is no such model.
            ConfigError: it has no readable params.json.
        """
        with self._swapping:
            version = self.version(name)
            params = read_params(self.folder / name, name)
        return StoredModel(name, self.folder / name, complete(params, timestamp=version[1] / 1e9), version)

    def add_form(self, name: str, params: BinaryIO, model: Upload, labels: Upload, *, in_base64: bool = False) -> None:
        """Add a model from the parts of a form, replacing one of the same name.

        Args:
            name: the model's name, which params must have too.
            params: the content of params.json.
            model: the model file; its content is base64 text where `in_base64` is set.
            labels: one label a line.
        """
        with self._new_model(name) as folder:
            _write(folder / PARAMS, params)
            _write(folder / plain_filename(labels.filename), labels.content)
            target = folder / plain_filename(model.filename)
            if in_base64:
                _write_decoded(target, model.content)
            else:
                _write(target, model.content)

    def add_bundle(self, stream: BinaryIO) -> str:
        """Add the model in a tar archive, gzip-compressed or not, replacing one of the same name.

        Returns:
            The model's name.
        """
        name = archive.inspect(stream, self.limits)
        with self._new_model(name) as folder:
            archive.unpack(stream, folder, self.limits)
        return name

    def delete(self, name: str) -> bool:
        """Delete a model; return whether there was one."""
        checked_name(name)
        workplace = self._new_workplace()
        try:
            with self._swapping:
                if not _is_model(self.folder / name):
                    return False
                (self.folder / name).rename(workplace / "deleted")
            return True
        except FileNotFoundError:
            return False
        finally:
            self._clear(workplace)

    @property
    def default(self) -> str:
        """The model of requests that name none: what was set, else the newest one; "" where there is none."""
        names = self.names()
        return self._default if self._default in names else max(names, key=self._modified, default="")

    def set_default(self, name: str) -> None:
        """Make a model the default one, until another one is uploaded."""
        self.version(name)
        self._default = name

    def _modified(self, name: str) -> int:
        try:
            return self.version(name)[1]
        except UnknownModel:  # deleted since
            return 0

    def _params_or_reason(self, name: str) -> dict[str, Any]:
        try:
            return self.params(name)
        except ConfigError as error:
            return {**STOCK_PARAMS, "name": name, "description": f"broken: {error}"}

    @contextmanager
    def _new_model(self, name: str) -> Iterator[Path]:
        """Give an empty folder to fill; it becomes the model `name` when the block ends well and the content fits."""
        checked_name(name)
        if (self.folder / name).exists() and not _is_model(self.folder / name):
            raise ConfigError(f"the server has something else called '{name}'", hint="give the model another name")
        workplace = self._new_workplace()
        try:
            folder = workplace / "new"
            folder.mkdir()
            yield folder
            check_files(folder, name)
            _sync(folder)
            self._swap(workplace, name)
            self._default = name
            _log.info("stored model %s", name)
        finally:
            self._clear(workplace)

    def _swap(self, workplace: Path, name: str) -> None:
        """Make the folder "new" of a workplace the model `name`; a crash in between is for `_clear` to mend."""
        place, old = self.folder / name, workplace / "old"
        with self._swapping:
            old.mkdir()
            if place.exists():
                place.rename(old / name)
            (workplace / "new").rename(place)
            old.rename(workplace / "replaced")

    def _new_workplace(self) -> Path:
        return Path(tempfile.mkdtemp(prefix=_WORKPLACE, dir=self.folder))

    def _clear(self, workplace: Path) -> None:
        """Remove a workplace; a model that was not replaced after all goes back to its place."""
        with self._swapping:
            for old in workplace.glob("old/*"):
                if not (self.folder / old.name).exists():
                    old.rename(self.folder / old.name)
        shutil.rmtree(workplace, ignore_errors=True)


def _is_model(folder: Path) -> bool:
    return (folder / PARAMS).is_file()


def _write(path: Path, content: BinaryIO) -> None:
    try:
        with path.open("xb") as file:
            shutil.copyfileobj(content, file)
    except FileExistsError:
        raise ConfigError(f"two of the files are called {path.name!r}") from None


def _write_decoded(path: Path, content: BinaryIO) -> None:
    """Write what base64 text stands for, a piece at a time."""
    with tempfile.TemporaryFile(dir=path.parent) as decoded:
        rest = b""
        try:
            while piece := content.read(1 << 20):
                text = rest + b"".join(piece.split())
                whole = len(text) - len(text) % 4
                decoded.write(base64.b64decode(text[:whole], validate=True))
                rest = text[whole:]
            decoded.write(base64.b64decode(rest, validate=True))
        except binascii.Error as error:
            raise ConfigError("the model is not base64 text, which Content-Encoding: base64 says it is") from error
        decoded.seek(0)
        _write(path, decoded)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
