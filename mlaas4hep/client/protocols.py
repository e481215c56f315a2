"""The interface of server protocols, prediction in several requests, and the TFaaS protocol.

    predict_events(TFaaSProtocol(connection), events, "htautau")        # the scores of each event, in order

`TFaaSProtocol` is for stock TFaaS servers and ours; the Open Inference Protocol is in `oip`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import quote

from mlaas4hep.client.connection import MAX_RESPONSE_BYTES, Connection
from mlaas4hep.client.events import Events, rows_per_request
from mlaas4hep.client.failures import UnexpectedResponse
from mlaas4hep.client.server_kind import ServerKind, server_kind
from mlaas4hep.errors import ServiceError
from mlaas4hep.protocol.missing_value import from_options

_SPLIT_STATUSES = (400, 413)
"""HTTP statuses after which a batch is split: the request may be too large, or only some of its events invalid."""

_NAME_ELEMENTS = "if the model takes no lists, name their elements, as in Jet_pt_0"

Scores = list[float | None]
"""The outputs of a model for one event."""

ScoresOrCut = Scores | None
"""The outputs, or None for an event that fails the cuts of the model."""

_MAX_BYTES_PER_EVENT = 500_000
"""Largest size of the scores of one event: about 25,000 numbers; 1 GB for the largest batch."""


class ServerProtocol(Protocol):
    """Queries and predictions in the protocol of a server."""

    def models(self) -> list[dict[str, Any]]:
        """Return a description of each model."""

    def params(self, name: str) -> dict[str, Any]:
        """Return the description of one model."""

    def status(self) -> dict[str, Any]:
        """Return the status of the server."""

    def metadata(self, model: str) -> dict[str, Any]:
        """Return the metadata of a model; empty if the server has none."""

    def accepts_batches(self) -> bool:
        """Return whether a request may have several rows."""

    def scores(self, keys: Sequence[str], rows: Sequence[Sequence[Any]], model: str) -> list[ScoresOrCut]:
        """Return the outputs for each row, None for values that are not finite and for events that fail the cuts.

        Args:
            keys: names of the values of a row.
            rows: one row, or several if the server `accepts_batches`.
            model: name of the model; empty for the server's default.
        """


def predict_events(protocol: ServerProtocol, events: Events, model: str) -> list[ScoresOrCut]:
    """Return the outputs for each event, in order; None for events that fail the cuts of the model.

    Raises:
        ServiceError: a request failed; if there are several events, the message names those of the request.
    """
    size = 1
    if len(events.rows) > 1 and protocol.accepts_batches():
        size = rows_per_request(len(events.rows[0]))
    scores: list[ScoresOrCut] = []
    for start in range(0, len(events.rows), size):
        scores += _predict_range(protocol, events, model, start, min(start + size, len(events.rows)))
    if not events.count:
        return scores
    of_event = dict(zip(events.passing, scores, strict=True))
    return [of_event.get(event) for event in range(events.count)]


def _predict_range(protocol: ServerProtocol, events: Events, model: str, start: int, stop: int) -> list[ScoresOrCut]:
    """Return the outputs for the rows start <= i < stop; after an error halve the range until it is one row."""
    try:
        return protocol.scores(events.keys, events.rows[start:stop], model)
    except ServiceError as error:
        if isinstance(error, UnexpectedResponse) and error.status in _SPLIT_STATUSES and stop - start > 1:
            middle = (start + stop) // 2
            first_half = _predict_range(protocol, events, model, start, middle)
            return first_half + _predict_range(protocol, events, model, middle, stop)
        if not events.is_batch:
            raise
        first, last = events.index(start), events.index(stop - 1)
        where = f"event {first}" if first == last else f"events {first} to {last}"
        has_lists = any(isinstance(value, list) for row in events.rows[start:stop] for value in row)
        hint = _NAME_ELEMENTS if has_lists and isinstance(error, UnexpectedResponse) and error.status == 400 else ""
        raise ServiceError(f"{where}: {error.what}", hint=error.hint or hint) from error


class TFaaSProtocol:
    """The protocol of TFaaS; see `ServerProtocol` for its methods."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kind: ServerKind | None = None
        self._missing: dict[str, float | None] = {}

    def models(self) -> list[dict[str, Any]]:
        """Return the params.json of all models."""
        models = self._connection.json("GET", "/models") or []  # the stock server answers null if it has no models
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise self._connection.unexpected("GET", "/models", "the response is not a list of models")
        return models

    def params(self, name: str) -> dict[str, Any]:
        """Return the params.json of one model."""
        return get_object(self._connection, f"/params/{quote(name, safe='')}")

    def status(self) -> dict[str, Any]:
        """Return the counters of the machine and the server."""
        return get_object(self._connection, "/status")

    def metadata(self, model: str) -> dict[str, Any]:
        """Return the metadata of a model, which only our server has; else {}."""
        return model_metadata(self._connection, model) if self.accepts_batches() else {}

    def accepts_batches(self) -> bool:
        """Return whether the server is ours."""
        return self.kind() is ServerKind.OURS

    def kind(self) -> ServerKind:
        """Return which server responds; the first call sends a request."""
        if self._kind is None:
            self._kind = server_kind(self._connection)
        return self._kind

    def scores(self, keys: Sequence[str], rows: Sequence[Sequence[Any]], model: str) -> list[ScoresOrCut]:
        """Return the outputs for each row. For stock servers, see `missing_value`."""
        if any(None in row for row in rows) and not self.accepts_batches():
            number = self._missing_value(model)
            rows = [[number if value is None else value for value in row] for row in rows]
        # A server that accepts batches would read a single row of lists as a list of rows.
        is_batch = len(rows) > 1 or (all(isinstance(value, list) for value in rows[0]) and self.accepts_batches())
        request = {"keys": keys, "values": rows if is_batch else rows[0], **({"model": model} if model else {})}
        answer = self._connection.json("POST", "/json", request, max_bytes=max_score_bytes(len(rows)))
        scores = answer if is_batch else [answer]
        if not isinstance(scores, list) or len(scores) != len(rows) or not all(map(self._is_result, scores)):
            expected = f"list of {len(rows)} lists of numbers" if is_batch else "list of numbers"
            raise self._connection.unexpected("POST", "/json", f"the response is not a {expected}")
        return scores

    def _is_result(self, value: Any) -> bool:
        """Return whether a value from JSON is the result of an event; only our server applies cuts."""
        return is_score_list(value) or (value is None and self.accepts_batches())

    def _missing_value(self, model: str) -> float:
        """Return the number that a model on a stock server reads as a missing value."""
        problem = "the event has missing values, which stock TFaaS servers read as 0"
        if self.kind() is ServerKind.UNKNOWN:
            raise ServiceError(
                f"{problem}, and GET {self._connection.display_url}/v2 does not show whether this is a stock server",
                hint="if there is a proxy, it must forward /v2",
            )
        if not model:
            raise ServiceError(problem, hint="name the model (--model=NAME), which may define a number for them")
        if model not in self._missing:
            self._missing[model] = from_options(self.params(model).get("options") or ())
        number = self._missing[model]
        if number is None:
            raise ServiceError(
                f"{problem}, and model '{model}' does not define a number for them",
                hint="retrain and upload it with this version of workflow.py, or replace the missing values",
            )
        return number


def is_score_list(value: Any) -> bool:
    """Return whether a value from JSON is a non-empty list of numbers and None."""
    return isinstance(value, list) and {int, float, type(None)}.issuperset(map(type, value)) and bool(value)


def max_score_bytes(num_events: int) -> int:
    """Return the maximum size of a response with the scores of this many events."""
    return max(MAX_RESPONSE_BYTES, num_events * _MAX_BYTES_PER_EVENT)


def model_metadata(connection: Connection, model: str) -> dict[str, Any]:
    """Return the metadata of a model in the Open Inference Protocol."""
    return get_object(connection, f"/v2/models/{quote(model, safe='')}")


def keys_from_metadata(metadata: dict[str, Any]) -> list[str]:
    """Return `parameters.keys` of a model's metadata, where our server lists the names of the inputs, or []."""
    keys = parameters_of(metadata).get("keys")
    return keys if isinstance(keys, list) and all(isinstance(key, str) for key in keys) else []


def parameters_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters in the metadata of a model; {} if there are none."""
    parameters = metadata.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def get_object(connection: Connection, path: str) -> dict[str, Any]:
    """Return the JSON object that the server has at a path."""
    content = connection.json("GET", path)
    if not isinstance(content, dict):
        raise connection.unexpected("GET", path, "the response is not a JSON object")
    return content
