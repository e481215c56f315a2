"""The objects that all routes share: the model store, the loaded models, batching and metrics.

    service = Service(Settings("tfaas_models"))
    model = await service.model("htautau")
    scores = await service.score(model, matrix)

The routes are in `app`, `proto` and `oip`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from mlaas4hep.errors import ConfigError, ServiceError
from mlaas4hep.serving.http.metrics import Metrics
from mlaas4hep.serving.http.parsers import Parsers
from mlaas4hep.serving.models.batching import Batches, ScoresCallback
from mlaas4hep.serving.models.loader import ModelLoader, NeedsProcess
from mlaas4hep.serving.models.model_limits import ModelLimits
from mlaas4hep.serving.models.predictor import Model, Predictor, Predictors
from mlaas4hep.serving.models.rows import Matrix
from mlaas4hep.serving.settings import Settings
from mlaas4hep.serving.store.store import ModelStore, UnknownModel
from mlaas4hep.signing import TrustedKeys

_LOADING, _STARTING, _UPLOADING = 4, 4, 16
"""Numbers of threads that load models into this process, load models in subprocesses, and store uploads."""

Result = TypeVar("Result")


def service_of(request: Request) -> Service:
    """Return the service that answers a request."""
    return cast(Service, request.app.state.service)


class Service:
    """One server, or one worker of it.

    Raises:
        FileUnreadable: the models directory cannot be created, read or written, or a trusted key cannot be read.
        ConfigError: a trusted key is invalid.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.limits = general = settings.limits
        memory, processes = settings.model_memory * 1e9, settings.model_processes
        limits = ModelLimits(memory, settings.load_time, settings.run_time, processes, general)
        loader = ModelLoader(limits, TrustedKeys.read(settings.trust))
        self.store = ModelStore(
            settings.models_dir,
            general,
            largest=general.archive_ratio * settings.max_upload,
            check=loader.check,
            read_only=settings.read_only,
        )
        self.predictors = Predictors(self.store, loader, general.loaded_models)
        self.parsers = Parsers(general)
        self.metrics = Metrics()
        self.started = time.monotonic()
        self._loading: dict[str, asyncio.Future[Model]] = {}
        self._loaders = ThreadPoolExecutor(_LOADING, thread_name_prefix="load")
        self._starters = ThreadPoolExecutor(_STARTING, thread_name_prefix="start")
        self._uploads = ThreadPoolExecutor(_UPLOADING, thread_name_prefix="upload")
        self._waiting = 0
        self._load_timeout = limits.load_time + limits.run_time
        self._batches = Batches(on_run=self._count_run, limits=general)

    async def model(self, name: str) -> Model:
        """Return a model that is ready to run.

        Args:
            name: "" for the default model.

        Raises:
            UnknownModel: the model does not exist.
            ConfigError, PackageMissing: the model cannot be run.
            ServiceError: the model cannot be loaded now.
        """
        name = name or await run_in_threadpool(lambda: self.store.default)
        if not name:
            raise UnknownModel("there is no model yet", hint="upload one: tfaas_client.py --upload=upload.json")
        loaded = self.predictors.loaded(name)
        while loaded is None:
            try:  # other requests may wait for the same task
                await asyncio.wait_for(asyncio.shield(self._load(name)), self._load_timeout)
            except asyncio.TimeoutError:
                raise ServiceError(f"model '{name}' is still being loaded", hint="try again in a minute") from None
            loaded = self.predictors.loaded(name)  # None if it was replaced meanwhile
        return loaded

    def _load(self, name: str) -> asyncio.Future[Model]:
        """Load a model in a thread; all requests for the model share it."""
        loading = self._loading.get(name)
        if loading is None or loading.done():  # the model that was loaded has been replaced since
            loading = self._loading[name] = asyncio.ensure_future(self._load_in_thread(name))
            loading.add_done_callback(lambda done: self._end_loading(name, done))
        return loading

    async def _load_in_thread(self, name: str) -> Model:
        """Load a model; models that need a subprocess, which takes longer, have threads of their own."""
        loop = asyncio.get_running_loop()
        try:
            load = partial(self.predictors.get, name, may_start_process=False)
            return await loop.run_in_executor(self._loaders, load)
        except NeedsProcess:
            pass
        if self._waiting >= self.limits.waiting_models:
            raise ServiceError("the server is loading many other models", hint="try again in a minute")
        self._waiting += 1
        try:
            return await loop.run_in_executor(self._starters, self.predictors.get, name)
        finally:
            self._waiting -= 1

    async def in_upload_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in one of the threads that are reserved for uploads."""
        return await asyncio.get_running_loop().run_in_executor(self._uploads, function, *args)

    def _end_loading(self, name: str, loading: asyncio.Future[Model]) -> None:
        if self._loading.get(name) is loading:
            del self._loading[name]
        if not loading.cancelled():
            loading.exception()  # mark it as retrieved, or asyncio would log it if no request waits any more

    def loaded(self, name: str) -> Model | None:
        """Return a model if it is ready to run, else None.

        Args:
            name: for "" (the default model) the result is None, because its name must be read from a file.

        Raises:
            UnknownModel: the model does not exist.
            ConfigError: the model cannot be run.
        """
        return self.predictors.loaded(name) if name else None

    def queue(self, model: Model, rows: Matrix, callback: ScoresCallback) -> bool:
        """Queue rows like `score`, but pass the scores to a callback; return False if there are too many rows."""

        def check(scores: Matrix | Exception) -> None:
            if not isinstance(scores, Exception):
                problem = self._check(model, scores)
                scores = scores if problem is None else problem
            callback(scores)

        return self._batches.queue(model.predictor, rows, check)

    async def score(self, model: Model, rows: Matrix) -> Matrix:
        """Run a model on rows, float32 (n, ...), batched with other requests; return scores, float32 (n, k).

        Raises:
            ConfigError: the model does not accept the rows, or a score is not finite.
        """
        scores = await self._batches.score(model.predictor, rows)
        if problem := self._check(model, scores):
            raise problem
        return scores

    def _count_run(self, predictor: Predictor, rows: int, seconds: float) -> None:
        self.metrics.run(predictor.name, rows, seconds)

    def _check(self, model: Model, scores: Matrix) -> ConfigError | None:
        """Count the rows of a request; return an error if scores are not finite, unless the settings allow it."""
        self.metrics.scored(model.name, len(scores))
        if np.isfinite(scores).all():
            return None
        undefined = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        self.metrics.undefined_rows(model.name, len(undefined))
        if self.settings.allow_nan:
            return None
        return ConfigError(
            f"the scores of model '{model.name}' are not finite for {len(undefined)} of {len(scores)} events, the first"
            f" of which is event {undefined[0] + 1} of the request",
            hint="with --allow-nan, the server returns null for such scores",
        )

    def add_form(self, name: str, *files: Any, in_base64: bool) -> None:
        """Store a model, see `ModelStore.add_form`, and free the one that it replaces."""
        self.store.add_form(name, *files, in_base64=in_base64)
        self.predictors.forget(name)

    def add_bundle(self, stream: BinaryIO) -> None:
        """Store a model, see `ModelStore.add_bundle`, and free the one that it replaces."""
        self.predictors.forget(self.store.add_bundle(stream))

    def delete(self, name: str) -> None:
        """Delete a model if it exists."""
        self.store.delete(name)
        self.predictors.forget(name)
        self.metrics.forget(name)
