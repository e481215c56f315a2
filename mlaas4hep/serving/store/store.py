"""The model store: one folder per model, `{models_dir}/{name}/`, with params.json, the model and its labels.

    store = ModelStore("tfaas_models")
    store.add_bundle(stream)
    store.get("htautau").params

Uploads are atomic: a model is written to a hidden folder, checked, and renamed. The next `ModelStore` of the directory
cleans up after a crash. Several processes may share a directory: models are renamed under a lock, and a reader that
does not find a model waits for the lock and tries again. Folders that were not uploaded are served, but never replaced
or deleted. `serving.models` runs the models.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlaas4hep.errors import ConfigError, FileUnreadable, nearest
from mlaas4hep.files import new_file
from mlaas4hep.protocol.limits import DEFAULTS, Limits
from mlaas4hep.protocol.params import (
    PARAMS,
    STOCK_PARAMS,
    check_files,
    checked_name,
    fill_defaults,
    is_valid_name,
    plain_filename,
    read_params,
    write_params,
)
from mlaas4hep.protocol.plain_files import open_plain, read_plain
from mlaas4hep.serving.store import archive, model_folder
from mlaas4hep.serving.store.class_labels import read_labels
from mlaas4hep.serving.store.model_folder import MARK, Version, is_managed, is_model
from mlaas4hep.serving.store.uploaded_files import write, write_decoded
from mlaas4hep.serving.store.workspace import DEFAULT, Workspace

_log = logging.getLogger(__name__)


class UnknownModel(ConfigError):
    """The store has no model with the requested name."""


class UnmanagedFolder(ConfigError):
    """A request would replace or delete a folder that was not uploaded."""


@dataclass(frozen=True)
class StoredModel:
    """A model on disk.

    Attributes:
        version: changes whenever the model or one of its files is replaced.
        number: version number, 1 for the first model of its name, incremented by each upload.
    """

    name: str
    folder: Path
    params: dict[str, Any]
    version: Version
    number: int = 1


@dataclass(frozen=True)
class Upload:
    """A file of a form: its name and its content."""

    filename: str
    content: BinaryIO


class ModelStore:
    """The models in a directory; safe for use by several threads and processes.

    Raises:
        FileUnreadable: the directory cannot be created, read or written, or its `.tfaas` belongs to another program.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        limits: Limits = DEFAULTS,
        *,
        largest: int = archive.LARGEST,
        check: Callable[[StoredModel], None] = lambda model: None,
        read_only: bool = False,
    ) -> None:
        """Open a models directory.

        Args:
            limits: of the files of a model.
            largest: limit of the unpacked size of an archive in bytes.
            check: called with each new model; raises ConfigError to refuse it.
            read_only: do not write; the directory must exist.
        """
        self.folder = Path(folder)
        self._limits, self._largest = limits, largest
        self._check = check
        self._unpacking = threading.Lock()  # several threads would keep Python's lock from those that predict
        self._root = str(self.folder)
        try:
            self._workspace = Workspace(self.folder, read_only=read_only)
        except FileUnreadable:
            raise
        except OSError as error:
            what = "read" if read_only else "store"
            raise FileUnreadable(f"cannot {what} models in {self.folder}: {error.strerror}") from error
        self._lock = self._workspace.lock

    @property
    def changes(self) -> int:
        """A number that changes with every upload and deletion by any process; cheap to read."""
        return self._lock.changes

    def names(self) -> Sequence[str]:
        """Return the names of all models, including broken ones, sorted."""
        with self._lock:
            return sorted(path.name for path in self.folder.iterdir() if is_valid_name(path.name) and is_model(path))

    def list(self) -> Sequence[dict[str, Any]]:
        """Return the params of all models; the description of a broken model contains the error."""
        models = []
        with self._lock:
            for name in self.names():
                with suppress(UnknownModel):  # just removed by hand
                    models.append(self._params_or_reason(name))
        return models

    def params(self, name: str) -> dict[str, Any]:
        """Return a model's params with all keys of TFaaS, in the old and the new spelling."""
        return self.get(name).params

    def version(self, name: str) -> Version:
        """Return a hash that changes with every file of a model, and its folder's modification time in ns.

        Raises:
            UnknownModel: the model does not exist.
            ConfigError: its folder cannot be read, or has entries other than files and folders.
        """
        folder = f"{self._root}/{checked_name(name)}"
        with suppress(FileNotFoundError, NotADirectoryError):
            return model_folder.version(folder, self._limits)
        with suppress(FileNotFoundError, NotADirectoryError), self._lock:  # it may be in the middle of being replaced
            return model_folder.version(folder, self._limits)
        raise UnknownModel(f"unknown model '{name}'", nearest=nearest(name, self.names()), hint="list all: GET /models")

    def get(self, name: str) -> StoredModel:
        """Return a model.

        Raises:
            UnknownModel: the model does not exist.
            ConfigError: its folder or its params.json cannot be read.
        """
        with self._lock:
            version = self.version(name)
            folder = self.folder / name
            params, number = read_params(folder, name, self._limits), model_folder.number(folder)
        full = {**fill_defaults(params, timestamp=version[1] / 1e9), "name": name, "version": str(number)}
        return StoredModel(name, folder, full, version, number)

    def open_model(self, name: str) -> tuple[str, BinaryIO]:
        """Return the name and the content of the model file.

        Raises:
            UnknownModel: the model does not exist, or is not a single file.
            ConfigError: the file cannot be read.
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
        """Return the contents of files in a model's folder, all of the same version.

        Returns:
            The content of each file; None if it is missing, unreadable, or larger than `largest` bytes.

        Raises:
            UnknownModel: the model does not exist.
            ConfigError: its folder cannot be read.
        """
        contents: list[bytes | None] = []
        with self._lock:
            self.version(name)
            for file in files:
                try:
                    contents.append(read_plain(self.folder / name / file, largest))
                except ConfigError:
                    contents.append(None)
        return contents

    def add_form(self, name: str, params: BinaryIO, model: Upload, labels: Upload, *, in_base64: bool = False) -> None:
        """Add a model from the parts of a form, replacing one of the same name.

        Args:
            name: the model's name; must be the name in params.json.
            params: the content of params.json.
            model: the model file; its content is base64 text if `in_base64` is set.
            labels: the file of labels, one per line.

        Raises:
            ConfigError: the files do not fit together, or are refused.
            UnmanagedFolder: a folder of this name exists that was not uploaded.
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
        with self._unpacking:
            name = archive.inspect(stream, self._limits, self._largest)
        with self._new_model(name) as folder, self._unpacking:
            archive.unpack(stream, folder, self._limits, self._largest)
        return name

    def delete(self, name: str) -> bool:
        """Delete a model; return whether it existed.

        Raises:
            UnmanagedFolder: the model was not uploaded.
        """
        checked_name(name)
        with self._workspace.work_folder() as work_folder, self._lock:
            place = self.folder / name
            if not is_model(place):
                return False
            if not is_managed(place):
                raise UnmanagedFolder(
                    f"model '{name}' was put into the models directory by hand, so it cannot be deleted by a request",
                    hint="remove its folder by hand",
                )
            place.rename(work_folder / "deleted")
            self._lock.note_change()
        return True

    @property
    def default(self) -> str:
        """The name of the default model: the one that was set, else the newest one; "" without models."""
        names, chosen = self.names(), self._workspace.read_default()
        return chosen if chosen in names else max(names, key=self._modified, default="")

    def set_default(self, name: str) -> None:
        """Make a model the default model, until another one is uploaded."""
        self.version(name)
        with self._lock, self._new_default(name):
            pass

    @contextmanager
    def _new_default(self, name: str) -> Iterator[None]:
        """Write the name of the default model; the change takes effect if the block ends without an error."""
        with new_file(self._workspace.folder / DEFAULT) as path:
            path.write_text(name, encoding="utf-8")
            yield

    def _modified(self, name: str) -> int:
        try:
            return self.get(name).version[1]
        except ConfigError:  # broken, or deleted meanwhile
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
        """Yield an empty folder, which the block fills; then check it and make it the model `name`."""
        self._check_replaceable(checked_name(name))
        with self._workspace.work_folder() as work_folder:
            folder = work_folder / "new"
            folder.mkdir()
            yield folder
            if (folder / MARK).is_dir():
                raise ConfigError(f"the upload has a folder {MARK}, a name that the server reserves", hint="remove it")
            params = read_params(folder, name, self._limits)
            check_files(folder, name, params)
            if file := params.get("labels"):
                read_labels(folder, file, self._limits)
            write_params(folder, params)
            self._check(StoredModel(name, folder, fill_defaults(params, 0.0), (0, 0)))
            with self._lock, self._new_default(name):  # written first, so that a full disk is detected before the swap
                self._check_replaceable(name)  # the folder may have been created by hand meanwhile
                place = self.folder / name
                number = model_folder.number(place) + 1 if is_model(place) else 1
                model_folder.write_mark(folder, number)
                model_folder.sync(folder)
                self._workspace.swap(work_folder, name)
        _log.info("stored version %d of model %s", number, name)

    def _check_replaceable(self, name: str) -> None:
        """Raise UnmanagedFolder if something with this name exists that was not uploaded."""
        if os.path.lexists(self.folder / name) and not is_managed(self.folder / name):
            raise UnmanagedFolder(
                f"the models directory has an entry '{name}' that was not uploaded",
                hint="choose another name for the model, or remove the entry by hand",
            )
