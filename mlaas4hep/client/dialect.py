"""What a client asks of a server, whatever the protocol, and how many events it asks for at a time.

    ask(TFaaSDialect(connection), events, "htautau")        # an answer for each event, in order

`TFaaSDialect` is TFaaS's protocol, for a stock server and for ours; the Open Inference Protocol's is in `oip_client`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import quote

from mlaas4hep.client.connection import LARGEST, Connection
from mlaas4hep.client.events import Events, rows_at_once
from mlaas4hep.client.failures import Refusal
from mlaas4hep.errors import ServiceError

_SMALLER = (400, 413)
"""HTTP's codes for a request that may be fine in two halves, or in one of them."""

_NO_LISTS = "where a model takes no lists, name their elements, as in Jet_pt_0"

Scores = list[float | None]
"""The outputs of a model for one event."""

_LARGEST_ROW = 500_000
"""Bytes of an answer for each event: some 25,000 numbers, and 1 GB for as many events as are asked for at once."""


class Dialect(Protocol):
    """A protocol, spoken to one server."""

    def models(self) -> list[dict[str, Any]]:
        """Return what there is to say about each model."""

    def params(self, name: str) -> dict[str, Any]:
        """Return what there is to say about one model."""

    def status(self) -> dict[str, Any]:
        """Return what the server says of itself."""

    def keys(self, model: str) -> list[str]:
        """Return the names of a model's inputs, in order; none where the server does not say."""

    def takes_many(self) -> bool:
        """Say whether one request may have several rows."""

    def scores(self, keys: Sequence[str], rows: Sequence[Sequence[Any]], model: str) -> list[Scores]:
        """Return the outputs for each row, None for what is no number; several rows only if it `takes_many`."""


def ask(dialect: Dialect, events: Events, model: str) -> list[Scores]:
    """Return the outputs for each event, in order.

    Raises:
        ServiceError: a request failed; the message says for which event, or events, where there are many.
    """
    size = 1
    if len(events.rows) > 1 and dialect.takes_many():
        size = rows_at_once(len(events.rows[0]))
    answers: list[Scores] = []
    for start in range(0, len(events.rows), size):
        answers += _ask(dialect, events, model, start, min(start + size, len(events.rows)))
    return answers


def _ask(dialect: Dialect, events: Events, model: str, start: int, stop: int) -> list[Scores]:
    """Ask for the events start <= i < stop; in halves where that is refused, until it is clear for which event."""
    try:
        return dialect.scores(events.keys, events.rows[start:stop], model)
    except ServiceError as error:
        if isinstance(error, Refusal) and error.status in _SMALLER and stop - start > 1:
            middle = (start + stop) // 2
            return _ask(dialect, events, model, start, middle) + _ask(dialect, events, model, middle, stop)
        if not events.many:
            raise
        first, last = events.first + start, events.first + stop - 1
        where = f"event {first}" if first == last else f"events {first} to {last}"
        has_lists = any(isinstance(value, list) for row in events.rows[start:stop] for value in row)
        hint = _NO_LISTS if has_lists and isinstance(error, Refusal) and error.status == 400 else ""
        raise ServiceError(f"{where}: {error.what}", hint=error.hint or hint) from error


class TFaaSDialect:
    """TFaaS's protocol."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._takes_many: bool | None = None

    def models(self) -> list[dict[str, Any]]:
        """Return the params.json of all models."""
        models = self._connection.json("GET", "/models") or []  # the stock server says null for none
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise self._connection.refusal("GET", "/models", "the answer is no list of models")
        return models

    def params(self, name: str) -> dict[str, Any]:
        """Return the params.json of one model."""
        path = f"/params/{quote(name, safe='')}"
        return _checked_object(self._connection, path, self._connection.json("GET", path))

    def status(self) -> dict[str, Any]:
        """Return the counters of the machine and the server."""
        return _checked_object(self._connection, "/status", self._connection.json("GET", "/status"))

    def keys(self, model: str) -> list[str]:
        """See `Dialect`; stock servers never say."""
        return keys_of(model_metadata(self._connection, model)) if self.takes_many() else []

    def takes_many(self) -> bool:
        """See `Dialect`; ours does, which is one that speaks the Open Inference Protocol too."""
        if self._takes_many is None:
            try:
                metadata = self._connection.json("GET", "/v2")
            except Refusal:
                metadata = None
            self._takes_many = isinstance(metadata, dict) and "extensions" in metadata
        return self._takes_many

    def scores(self, keys: Sequence[str], rows: Sequence[Sequence[Any]], model: str) -> list[Scores]:
        """See `Dialect`."""
        # A row of lists alone would be taken for a list of rows, where a server knows such lists.
        many = len(rows) > 1 or (all(isinstance(value, list) for value in rows[0]) and self.takes_many())
        request = {"keys": keys, "values": rows if many else rows[0], **({"model": model} if model else {})}
        answer = self._connection.json("POST", "/json", request, largest=largest_scores(len(rows)))
        answers = answer if many else [answer]
        if not isinstance(answers, list) or len(answers) != len(rows) or not all(map(are_scores, answers)):
            wanted = f"list of {len(rows)} lists of numbers" if many else "list of numbers"
            raise self._connection.refusal("POST", "/json", f"the answer is no {wanted}")
        return answers


def are_scores(answer: Any) -> bool:
    """Say whether (a part of) an answer is the outputs for one event."""
    return isinstance(answer, list) and {int, float, type(None)}.issuperset(map(type, answer)) and bool(answer)


def largest_scores(events: int) -> int:
    """Return how many bytes the scores of so many events may have."""
    return max(LARGEST, events * _LARGEST_ROW)


def model_metadata(connection: Connection, model: str) -> dict[str, Any]:
    """Return what the Open Inference Protocol says of a model."""
    path = f"/v2/models/{quote(model, safe='')}"
    return _checked_object(connection, path, connection.json("GET", path))


def keys_of(metadata: dict[str, Any]) -> list[str]:
    """Return the names of a model's inputs, where its metadata has them: `parameters.keys`, as our server says them."""
    parameters = metadata.get("parameters")
    keys = parameters.get("keys") if isinstance(parameters, dict) else None
    return keys if isinstance(keys, list) and all(isinstance(key, str) for key in keys) else []


def _checked_object(connection: Connection, path: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise connection.refusal("GET", path, "the answer is no JSON object")
    return content
