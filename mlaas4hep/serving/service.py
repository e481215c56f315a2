"""What the routes share: the models on disk, those that are loaded, and how they are run and counted.

    service = Service(Settings("tfaas_models"))
    model = await service.model("htautau")
    scores = await service.score(model, matrix)

The protocols are in `app`, `proto` and `oip`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO, TypeVar

from starlette.concurrency import run_in_threadpool

from mlaas4hep.errors import ServiceError
from mlaas4hep.serving.archive import Limits
from mlaas4hep.serving.batching import Batches, Give
from mlaas4hep.serving.metrics import Metrics
from mlaas4hep.serving.model_limits import ModelLimits
from mlaas4hep.serving.model_loader import ModelLoader, NeedsProcess
from mlaas4hep.serving.parsers import Parsers
from mlaas4hep.serving.predictor import Model, Predictors
from mlaas4hep.serving.rows import Matrix
from mlaas4hep.serving.settings import Settings
from mlaas4hep.serving.store import ModelStore, UnknownModel
from mlaas4hep.signing import TrustedKeys

_LOADING, _STARTING, _UPLOADING = 4, 4, 16
"""Threads that load models in this process, that load models in processes of their own, and that store uploads."""

_WAITING = 32  # models that may wait to be loaded in a process of their own
Result = TypeVar("Result")


class Service:
    """One server, or one worker of it.

    Raises:
        FileUnreadable: the models directory cannot be made, read or written, or a trusted key cannot be read.
        ConfigError: a trusted key is not one.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        limits = ModelLimits(
            settings.model_memory * 1e9, settings.load_time, settings.run_time, settings.model_processes
        )
        loader = ModelLoader(limits, TrustedKeys.read(settings.trust))
        self.store = ModelStore(
            settings.models_dir,
            Limits(size=4 * settings.max_upload),
            check=loader.check,
            read_only=settings.read_only,
        )
        self.predictors = Predictors(self.store, loader)
        self.parsers = Parsers()
        self.metrics = Metrics()
        self.started = time.monotonic()
        self._loading: dict[str, asyncio.Future[Model]] = {}
        self._loaders = ThreadPoolExecutor(_LOADING, thread_name_prefix="load")
        self._starters = ThreadPoolExecutor(_STARTING, thread_name_prefix="start")
        self._uploads = ThreadPoolExecutor(_UPLOADING, thread_name_prefix="upload")
        self._waiting = 0
        self._longest_wait = limits.load_time + limits.run_time
        self._batches = Batches(note=self.metrics.batch)

    async def model(self, name: str) -> Model:
        """Return a model, ready to run.

        Args:
            name: "" for the default one.

        Raises:
            UnknownModel: there is none.
            ConfigError, PackageMissing: it cannot be run.
            ServiceError: it cannot be loaded now.
        """
        name = name or await run_in_threadpool(lambda: self.store.default)
        if not name:
            raise UnknownModel("there is no model yet", hint="upload one: tfaas_client.py --upload=upload.json")
        loaded = self.predictors.loaded(name)
        while loaded is None:
            try:  # others may wait for it as well
                await asyncio.wait_for(asyncio.shield(self._load(name)), self._longest_wait)
            except asyncio.TimeoutError:
                raise ServiceError(f"model '{name}' is still being loaded", hint="ask again in a minute") from None
            loaded = self.predictors.loaded(name)  # unless it was replaced meanwhile
        return loaded

    def _load(self, name: str) -> asyncio.Future[Model]:
        """Load a model in a thread, one however many requests ask for it."""
        loading = self._loading.get(name)
        if loading is None or loading.done():  # what was loaded is not what is wanted any more
            loading = self._loading[name] = asyncio.ensure_future(self._load_in_thread(name))
            loading.add_done_callback(lambda done: self._end_loading(name, done))
        return loading

    async def _load_in_thread(self, name: str) -> Model:
        """Load a model; those that need a process, which takes longer, do not hold up the others."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._loaders, partial(self.predictors.get, name, may_start_process=False)
            )
        except NeedsProcess:
            pass
        if self._waiting >= _WAITING:
            raise ServiceError("the server is loading many other models", hint="ask again in a minute")
        self._waiting += 1
        try:
            return await loop.run_in_executor(self._starters, self.predictors.get, name)
        finally:
            self._waiting -= 1

    async def in_upload_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function that stores a model, in a thread that nothing else needs."""
        return await asyncio.get_running_loop().run_in_executor(self._uploads, function, *args)

    def _end_loading(self, name: str, loading: asyncio.Future[Model]) -> None:
        if self._loading.get(name) is loading:
            del self._loading[name]
        if not loading.cancelled():
            loading.exception()  # it has been looked at, even if nobody waits any more

    def loaded(self, name: str) -> Model | None:
        """Return a model if it is ready to run.

        Args:
            name: "" for the default one, which is never said to be ready: that is in a file.

        Raises:
            UnknownModel: there is no such model.
            ConfigError: it cannot be run.
        """
        return self.predictors.loaded(name) if name else None

    def queue(self, model: Model, rows: Matrix, give: Give) -> bool:
        """Begin what `score` does, for `give` to be told of; return False where there are too many rows for that."""

        def count(scores: Matrix | Exception) -> None:
            if not isinstance(scores, Exception):
                self.metrics.rows(model.name, len(rows))
            give(scores)

        return self._batches.queue(model.predictor, rows, count)

    async def score(self, model: Model, rows: Matrix) -> Matrix:
        """Run a model on rows, float32 (n, ...), together with what others ask of it; return scores (n, k).

        Raises:
            ConfigError: it cannot take them.
        """
        scores = await self._batches.score(model.predictor, rows)
        self.metrics.rows(model.name, len(rows))
        return scores

    def add_form(self, name: str, *files: Any, in_base64: bool) -> None:
        """See `ModelStore.add_form`; the model that was replaced is freed."""
        self.store.add_form(name, *files, in_base64=in_base64)
        self.predictors.forget(name)

    def add_bundle(self, stream: BinaryIO) -> None:
        """See `ModelStore.add_bundle`; the model that was replaced is freed."""
        self.predictors.forget(self.store.add_bundle(stream))

    def delete(self, name: str) -> None:
        """Delete a model, if there is one."""
        self.store.delete(name)
        self.predictors.forget(name)
        self.metrics.forget(name)
