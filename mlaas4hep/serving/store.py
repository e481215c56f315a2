"""The models that a server has: one folder each, `{models_dir}/{name}/` with params.json, the model and its labels.

    store = ModelStore("tfaas_models")
    store.add_bundle(stream)
    store.get("htautau").params

A model appears complete or not at all: it is written to a hidden folder beside the others, checked, and renamed. What a
crash leaves behind is put right by the next `ModelStore` of the folder. Several processes may share a folder: renaming
is done under a lock, and whoever misses a model waits for it. Running models is the predictor's business.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import logging
import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlaas4hep.errors import ConfigError, FileUnreadable, nearest
from mlaas4hep.files import new_file
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

_OWN = ".tfaas"  # beside the models: the lock, the name of the default model, what is being uploaded
_LOCK, _DEFAULT, _WORKPLACE, _OWNER = "lock", "default", "work-", "owner"
_NUMBER = ".tfaas-version"  # in a model's folder
_COUNT = np.dtype(np.int64)
_log = logging.getLogger(__name__)

Version = tuple[int, int]


class UnknownModel(ConfigError):
    """The store has no model of the name that was asked for."""


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
        FileUnreadable: the folder cannot be made, read or written.
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
        self._own = self.folder / _OWN
        self._swapping: _Lock | _NoLock
        try:
            if read_only:
                os.listdir(self.folder)
                lock = self._own / _LOCK  # of a server that may write here
                self._swapping = _Lock(lock) if os.access(lock, os.W_OK) else _NoLock()
                return
            self._own.mkdir(parents=True, exist_ok=True)
            self._swapping = _Lock(self._own / _LOCK)
            with self._swapping:
                for left_behind in self._own.glob(f"{_WORKPLACE}*"):
                    if not _is_owned(left_behind):
                        self._clear(left_behind)
        except OSError as error:
            what = "read" if read_only else "keep"
            raise FileUnreadable(f"cannot {what} models in {self.folder}: {error.strerror}") from error

    @property
    def changes(self) -> int:
        """How many models were uploaded or deleted here, by any process; costs nothing to ask."""
        return self._swapping.count

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
        folder = f"{self._root}/{checked_name(name)}"
        with suppress(FileNotFoundError, NotADirectoryError):
            return _version(folder)
        with suppress(FileNotFoundError, NotADirectoryError), self._swapping:  # it may be just being replaced
            return _version(folder)
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
            folder = self.folder / name
            params, number = read_params(folder, name), _read_number(folder)
        full = {**complete(params, timestamp=version[1] / 1e9), "version": str(number)}
        return StoredModel(name, folder, full, version, number)

    def open_model(self, name: str) -> tuple[str, BinaryIO]:
        """Return the name and the content of a model's own file.

        Raises:
            UnknownModel: there is no such model, or it has no file of its own.
        """
        with self._swapping:
            file = str(self.params(name)["model"])
            try:
                return file, (self.folder / name / plain_filename(file)).open("rb")
            except (ConfigError, FileNotFoundError, IsADirectoryError) as error:
                raise UnknownModel(f"model '{name}' is not a single file") from error

    def read(self, name: str, files: Sequence[str], largest: int) -> Sequence[bytes | None]:
        """Return the content of files that came with a model, all of one version of it.

        Returns:
            For each file its content; None where it is not there, or has more than `largest` bytes.

        Raises:
            UnknownModel: there is no such model.
        """
        with self._swapping:
            self.version(name)
            return [_read_small(self.folder / name / file, largest) for file in files]

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
        with self._workplace() as workplace, self._swapping:
            if not _is_model(self.folder / name):
                return False
            (self.folder / name).rename(workplace / "deleted")
            self._swapping.count += 1
        return True

    @property
    def default(self) -> str:
        """The model of requests that name none: what was set, else the newest one; "" where there is none."""
        names = self.names()
        with suppress(OSError, UnicodeDecodeError):
            chosen = (self._own / _DEFAULT).read_text(encoding="utf-8")
            if chosen in names:
                return chosen
        return max(names, key=self._modified, default="")

    def set_default(self, name: str) -> None:
        """Make a model the default one, until another one is uploaded."""
        self.version(name)
        self._keep_default(name)

    def _keep_default(self, name: str) -> None:
        with new_file(self._own / _DEFAULT) as path:
            path.write_text(name, encoding="utf-8")

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
        with self._workplace() as workplace:
            folder = workplace / "new"
            folder.mkdir()
            yield folder
            if (folder / _NUMBER).is_dir():
                raise ConfigError(f"the upload has a folder {_NUMBER}, which is ours", hint="leave it out")
            check_files(folder, name)
            self._check(StoredModel(name, folder, complete(read_params(folder, name), 0.0), (0, 0)))
            with self._swapping:
                (folder / _NUMBER).unlink(missing_ok=True)  # of another server
                number = _read_number(self.folder / name) + 1 if _is_model(self.folder / name) else 1
                (folder / _NUMBER).write_text(str(number), encoding="ascii")
                _sync(folder)
                self._swap(workplace, name)
                self._keep_default(name)
        _log.info("stored version %d of model %s", number, name)

    def _swap(self, workplace: Path, name: str) -> None:
        """Make the folder "new" of a workplace the model `name`; a crash in between is for `_clear` to mend."""
        place, old = self.folder / name, workplace / "old"
        old.mkdir()
        if place.exists():
            place.rename(old / name)
        (workplace / "new").rename(place)
        self._swapping.count += 1
        old.rename(workplace / "replaced")

    @contextmanager
    def _workplace(self) -> Iterator[Path]:
        """Give a hidden folder, and remove it afterwards; while this process lives nobody else does."""
        with self._swapping:
            workplace = Path(tempfile.mkdtemp(prefix=_WORKPLACE, dir=self._own))
            owner = (workplace / _OWNER).open("wb")
            fcntl.flock(owner, fcntl.LOCK_EX)
        try:
            yield workplace
        finally:
            self._clear(workplace)
            owner.close()

    def _clear(self, workplace: Path) -> None:
        """Remove a workplace; a model that was not replaced after all goes back to its place."""
        with self._swapping:
            for old in workplace.glob("old/*"):
                if not (self.folder / old.name).exists():
                    old.rename(self.folder / old.name)
        shutil.rmtree(workplace, ignore_errors=True)


class _NoLock:
    """In place of a lock where nothing can be written, and so nothing changes."""

    count = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass


class _Lock:
    """A lock among the threads of this process, and among all processes that open the same file; and a count in it.

    Attributes:
        count: what all of them see; to be changed under the lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.RLock()
        self._depth = 0
        with path.open("ab+") as file:
            if file.tell() < _COUNT.itemsize:
                file.truncate(_COUNT.itemsize)
            self._shared = np.frombuffer(mmap.mmap(file.fileno(), _COUNT.itemsize), _COUNT)

    @property
    def count(self) -> int:
        return int(self._shared[0])

    @count.setter
    def count(self, value: int) -> None:
        self._shared[0] = value

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            if not self._depth:
                self._file = self._path.open("ab")
                fcntl.flock(self._file, fcntl.LOCK_EX)
            self._depth += 1
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._file.close()
        self._threads.release()


def _is_owned(workplace: Path) -> bool:
    """Say whether the process that made a workplace is alive."""
    try:
        with (workplace / _OWNER).open("rb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _version(folder: str) -> Version:
    """Return what changes with any file of a model, and when the folder was made or changed."""
    os.stat(f"{folder}/{PARAMS}")  # without it a folder is none of ours
    status = os.stat(f"{folder}/")
    return hash((status.st_ino, status.st_mtime_ns, *_stamps(folder))), status.st_mtime_ns


def _stamps(folder: str) -> Iterator[tuple[str, int, int, int]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            status = entry.stat()
            yield entry.path, status.st_ino, status.st_size, status.st_mtime_ns
            if entry.is_dir(follow_symlinks=False):
                yield from _stamps(entry.path)


def _read_number(folder: Path) -> int:
    try:
        return int((folder / _NUMBER).read_text(encoding="ascii")[:20])
    except (OSError, ValueError):  # a folder that came here without us
        return 1


def _read_small(path: Path, largest: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except (FileNotFoundError, IsADirectoryError):
        return None
    return content if len(content) <= largest else None


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
