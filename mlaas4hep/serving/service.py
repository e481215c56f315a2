"""What the routes share: the models on disk, those that are loaded, and how they are run and counted.

    service = Service(Settings("tfaas_models"))
    model = await service.model("htautau")
    scores = await service.score(model, matrix)

The protocols are in `app`, `proto` and `oip`.
"""

from __future__ import annotations

import time

from starlette.concurrency import run_in_threadpool

from mlaas4hep.serving.archive import Limits
from mlaas4hep.serving.batching import Batches
from mlaas4hep.serving.metrics import Metrics
from mlaas4hep.serving.predictor import Model, Predictors
from mlaas4hep.serving.rows import Matrix
from mlaas4hep.serving.settings import Settings
from mlaas4hep.serving.store import ModelStore, UnknownModel


class Service:
    """One server, or one worker of it.

    Raises:
        FileUnreadable: the models directory cannot be made, read or written.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = ModelStore(settings.models_dir, Limits(size=4 * settings.max_upload))
        self.predictors = Predictors(self.store)
        self.metrics = Metrics()
        self.started = time.monotonic()
        self._batches = Batches(note=self.metrics.batch)

    async def model(self, name: str) -> Model:
        """Return a model, ready to run.

        Args:
            name: "" for the default one.

        Raises:
            UnknownModel: there is none.
            ConfigError, PackageMissing: it cannot be run.
        """
        name = name or await run_in_threadpool(lambda: self.store.default)
        if not name:
            raise UnknownModel("there is no model yet", hint="upload one: tfaas_client.py --upload=upload.json")
        loaded = self.predictors.loaded(name)
        return loaded if loaded else await run_in_threadpool(self.predictors.get, name)

    async def score(self, model: Model, rows: Matrix) -> Matrix:
        """Run a model on rows, float32 (n, ...), together with what others ask of it; return scores (n, k).

        Raises:
            ConfigError: it cannot take them.
        """
        scores = await self._batches.score(model.predictor, rows)
        self.metrics.rows(model.name, len(rows))
        return scores

    def delete(self, name: str) -> None:
        """Delete a model, if there is one."""
        self.store.delete(name)
        self.predictors.forget(name)
        self.metrics.forget(name)
