"""The models that a server has: one folder each, `{models_dir}/{name}/` with params.json, the model and its labels.

    store = ModelStore("tfaas_models")
    store.add_bundle(stream)
    store.get("htautau").params

A model appears complete or not at all: it is written to a hidden folder beside the others, checked, and renamed. What a
crash leaves behind is put right by the next `ModelStore` of the folder. Several processes may share a folder: renaming
is done under a lock, and whoever misses a model waits for it. Folders that the store did not make are served, and never
replaced or deleted. Running models is the predictor's business.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlaas4hep.errors import ConfigError, FileUnreadable, nearest
from mlaas4hep.files import new_file
from mlaas4hep.serving import archive, model_folder
from mlaas4hep.serving.class_labels import check_labels
from mlaas4hep.serving.model_folder import MARK, Version, is_managed, is_model
from mlaas4hep.serving.params import (
    PARAMS,
    STOCK_PARAMS,
    check_files,
    checked_name,
    complete,
    is_name,
    plain_filename,
    read_params,
    write_params,
)
from mlaas4hep.serving.plain_files import open_plain, read_plain
from mlaas4hep.serving.uploaded_files import write, write_decoded
from mlaas4hep.serving.workspace import DEFAULT, Workspace

_log = logging.getLogger(__name__)


class UnknownModel(ConfigError):
    """The store has no model of the name that was asked for."""


class UnmanagedFolder(ConfigError):
    """A folder that the store did not make would have to be replaced or deleted."""


@dataclass(frozen=True)
class StoredModel:
    """One model on disk.

    Attributes:
        version: changes whenever the model is replaced, or one of its files.
        number: 1 for the first model of the name, and one more each time.
    """

    name: str
    folder: Path
    params: dict[str, Any]
    version: Version
    number: int = 1


@dataclass(frozen=True)
class Upload:
    """A file of a form: its own name, and its content."""

    filename: str
    content: BinaryIO


class ModelStore:
    """The models in a folder; safe to use from many threads and processes.

    Raises:
        FileUnreadable: the folder cannot be made, read or written, or holds a `.tfaas` that is not ours.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        limits: archive.Limits | None = None,
        *,
        check: Callable[[StoredModel], None] = lambda model: None,
        read_only: bool = False,
    ) -> None:
        """Open a folder of models.

        Args:
            check: raises ConfigError for a new model that is not to be stored.
            read_only: the folder must exist, and nothing in it is written.
        """
        self.folder = Path(folder)
        self.limits = limits or archive.Limits()
        self._check = check
        self._root = str(self.folder)
        try:
            self._workspace = Workspace(self.folder, read_only=read_only)
        except FileUnreadable:
            raise
        except OSError as error:
            what = "read" if read_only else "keep"
            raise FileUnreadable(f"cannot {what} models in {self.folder}: {error.strerror}") from error
        self._lock = self._workspace.lock

    @property
    def changes(self) -> int:
        """A number that changes with each model that is uploaded or deleted, by any process; costs nothing to ask."""
        return self._lock.changes

    def names(self) -> Sequence[str]:
        """Return the names of all models, sorted, broken ones too."""
        with self._lock:
            return sorted(path.name for path in self.folder.iterdir() if is_name(path.name) and is_model(path))

    def list(self) -> Sequence[dict[str, Any]]:
        """Return the params of all models; those of a broken one say so in their description."""
        found = []
        with self._lock:
            for name in self.names():
                with suppress(UnknownModel):  # removed by hand just now
                    found.append(self._params_or_reason(name))
        return found

    def params(self, name: str) -> dict[str, Any]:
        """Return a model's params with all keys that TFaaS knows, in the old and the new spelling."""
        return self.get(name).params

    def version(self, name: str) -> Version:
        """Return a value that changes when the model is replaced, and when its folder was made or changed, in ns.

        Raises:
            UnknownModel: there is no such model.
            ConfigError: its folder cannot be read, or holds more than files and folders.
        """
        folder = f"{self._root}/{checked_name(name)}"
        with suppress(FileNotFoundError, NotADirectoryError):
            return model_folder.version(folder)
        with suppress(FileNotFoundError, NotADirectoryError), self._lock:  # it may be just being replaced
            return model_folder.version(folder)
        known = self.names()
        raise UnknownModel(f"there is no model '{name}'", nearest=nearest(name, known), hint="list all: GET /models")

    def get(self, name: str) -> StoredModel:
        """Return a model.

        Raises:
            UnknownModel: there is no such model.
            ConfigError: its folder or its params.json cannot be read.
        """
        with self._lock:
            version = self.version(name)
            folder = self.folder / name
            params, number = read_params(folder, name), model_folder.number(folder)
        full = {**complete(params, timestamp=version[1] / 1e9), "name": name, "version": str(number)}
        return StoredModel(name, folder, full, version, number)

    def open_model(self, name: str) -> tuple[str, BinaryIO]:
        """Return the name and the content of a model's own file.

        Raises:
            UnknownModel: there is no such model, or it has no file of its own.
            ConfigError: it cannot be read.
        """
        with self._lock:
            file = str(self.params(name)["model"])
            try:
                path = self.folder / name / plain_filename(file)
                if path.is_dir():
                    raise ConfigError(f"'{path.name}' is a folder")
            except ConfigError as error:
                raise UnknownModel(f"model '{name}' is not a single file") from error
            try:
                return file, open_plain(path)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise UnknownModel(f"model '{name}' is not a single file") from error

    def read(self, name: str, files: Sequence[str], largest: int) -> Sequence[bytes | None]:
        """Return the content of files that came with a model, all of one version of it.

        Returns:
            For each file its content; None where it is not there, cannot be read, or has more than `largest` bytes.

        Raises:
            UnknownModel: there is no such model.
            ConfigError: its folder cannot be read.
        """
        found: list[bytes | None] = []
        with self._lock:
            self.version(name)
            for file in files:
                try:
                    found.append(read_plain(self.folder / name / file, largest))
                except ConfigError:
                    found.append(None)
        return found

    def add_form(self, name: str, params: BinaryIO, model: Upload, labels: Upload, *, in_base64: bool = False) -> None:
        """Add a model from the parts of a form, replacing one of the same name.

        Args:
            name: the model's name, which params must have too.
            params: the content of params.json.
            model: the model file; its content is base64 text where `in_base64` is set.
            labels: one label a line.

        Raises:
            ConfigError: the files do not belong together, or are refused.
            UnmanagedFolder: there is a folder of that name that the store did not make.
        """
        with self._new_model(name) as folder:
            write(folder / PARAMS, params)
            write(folder / plain_filename(labels.filename), labels.content)
            target = folder / plain_filename(model.filename)
            if in_base64:
                write_decoded(target, model.content)
            else:
                write(target, model.content)

    def add_bundle(self, stream: BinaryIO) -> str:
        """Add the model in a tar archive, gzip-compressed or not, replacing one of the same name.

        Returns:
            The model's name.

        Raises:
            ConfigError, UnmanagedFolder: see `add_form`.
        """
        name = archive.inspect(stream, self.limits)
        with self._new_model(name) as folder:
            archive.unpack(stream, folder, self.limits)
        return name

    def delete(self, name: str) -> bool:
        """Delete a model; return whether there was one.

        Raises:
            UnmanagedFolder: the store did not make it.
        """
        checked_name(name)
        with self._workspace.work_folder() as work_folder, self._lock:
            place = self.folder / name
            if not is_model(place):
                return False
            if not is_managed(place):
                raise UnmanagedFolder(
                    f"model '{name}' was not uploaded: somebody put it into the models directory",
                    hint="remove it there by hand",
                )
            place.rename(work_folder / "deleted")
            self._lock.note_change()
        return True

    @property
    def default(self) -> str:
        """The model of requests that name none: what was set, else the newest one; "" where there is none."""
        names, chosen = self.names(), self._workspace.read_default()
        return chosen if chosen in names else max(names, key=self._modified, default="")

    def set_default(self, name: str) -> None:
        """Make a model the default one, until another one is uploaded."""
        self.version(name)
        self._keep_default(name)

    def _keep_default(self, name: str) -> None:
        with self._lock, new_file(self._workspace.folder / DEFAULT) as path:
            path.write_text(name, encoding="utf-8")

    def _modified(self, name: str) -> int:
        try:
            return self.get(name).version[1]
        except ConfigError:  # broken, or deleted since
            return 0

    def _params_or_reason(self, name: str) -> dict[str, Any]:
        try:
            return self.params(name)
        except UnknownModel:
            raise
        except ConfigError as error:
            return {**STOCK_PARAMS, "name": name, "description": f"broken: {error}"}

    @contextmanager
    def _new_model(self, name: str) -> Iterator[Path]:
        """Give an empty folder to fill; it becomes the model `name` when the block ends well and the content fits."""
        self._check_replaceable(checked_name(name))
        with self._workspace.work_folder() as work_folder:
            folder = work_folder / "new"
            folder.mkdir()
            yield folder
            if (folder / MARK).is_dir():
                raise ConfigError(f"the upload has a folder {MARK}, which is ours", hint="leave it out")
            params = read_params(folder, name)
            check_files(folder, name, params)
            check_labels(folder, params.get("labels", ""))
            write_params(folder, params)
            self._check(StoredModel(name, folder, complete(params, 0.0), (0, 0)))
            with self._lock:
                self._check_replaceable(name)  # something may have been put there meanwhile
                place = self.folder / name
                number = model_folder.number(place) + 1 if is_model(place) else 1
                model_folder.write_mark(folder, number)
                model_folder.sync(folder)
                self._workspace.swap(work_folder, name)
                self._keep_default(name)
        _log.info("stored version %d of model %s", number, name)

    def _check_replaceable(self, name: str) -> None:
        """Raise UnmanagedFolder if a name is taken by what the store did not make."""
        if os.path.lexists(self.folder / name) and not is_managed(self.folder / name):
            raise UnmanagedFolder(
                f"the models directory has something called '{name}' that was not uploaded",
                hint="give the model another name, or move that away by hand",
            )
