"""What the protocols of the server share: the body of a request, the model that it asks for, and its scores.

    body = await read_body(request)
    predictor = await run_in_threadpool(find, service, name)
    scores = await score(service, predictor, matrix)

How a request and an answer look is for each protocol's own module.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mlaas4hep.serving.predictor import Predictor
from mlaas4hep.serving.rows import Matrix
from mlaas4hep.serving.store import UnknownModel

if TYPE_CHECKING:
    from mlaas4hep.serving.app import Service

_LARGEST = 64_000_000  # bytes


async def read_body(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: it is compressed (415), or larger than 64 MB (413).
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise HTTPException(415, f"the body is in the encoding '{encoding[:60]}'; send it as it is")
    pieces, size = [], 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST:
            raise HTTPException(413, f"the request is larger than {_LARGEST / 1e6:.0f} MB")
    return b"".join(pieces)


def find(service: Service, name: str) -> Predictor:
    """Return a model that is ready to run, the default one where `name` is empty. May load it: for a thread.

    Raises:
        UnknownModel: there is none.
        ConfigError, PackageMissing: it cannot be run.
    """
    name = name or service.store.default
    if not name:
        raise UnknownModel("there is no model yet", hint="upload one: tfaas_client.py --upload=upload.json")
    return service.predictors.get(name)


async def score(service: Service, predictor: Predictor, matrix: Matrix) -> Matrix:
    """Return the scores, float32 (n, k), of float32 (n, ...)."""
    return await run_in_threadpool(predictor.predict, matrix)


def plain_numbers(scores: Matrix) -> list[float | None]:
    """Return numbers row by row, with as many digits as 32 bits have (0.1, not 0.10000000149), NaN as None."""
    return [float(str(score)) if math.isfinite(score) else None for score in scores.ravel()]
