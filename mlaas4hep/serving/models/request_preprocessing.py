"""The preprocessing of a model, applied to requests in JSON and protobuf that name raw branches.

    preprocessing = read_preprocessing(metadata, columns, "model.onnx")      # None if the graph has none
    preprocessing.rows(parse_request(b'{"keys": ["Jet_pt", "nMuon"], "values": [[64.0, 31.5], 2]}'))

It is applied if the keys of a request name every branch that it needs, and no new branch. Requests with the new
branches are scored as they are. The expressions of an untrusted graph are evaluated in a thread of the server, or in
the process that parses a large body; the amount of work is limited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from mlaas4hep.errors import ConfigError, error_context
from mlaas4hep.expressions.preproc_json import JsonPreproc
from mlaas4hep.protocol.event_rows import KINDS, NUMBERS, InputType, from_lists, to_lists
from mlaas4hep.protocol.graph_preproc import PREPROC, PYTHON
from mlaas4hep.protocol.limits import DEFAULTS, Limits, format_size
from mlaas4hep.serving.models.rows import Columns, Request, Rows, split_rows

_MAX_COMPUTED = 50_000_000  # values of new branches per request: 400 MB
_MAX_WORK = 5_000_000_000  # values times characters of all expressions per request: about ten seconds


class RequestPreprocessing:
    """The preprocessing of a model.

    Args:
        content: content of a preproc.json, or PYTHON: the code is not known here, and never applied.
        inputs: types of the raw branches that the expressions use.
        columns: the columns of the model.

    Attributes:
        content, inputs: the same.
        needed: raw branches that the cuts and the new branches of the model are computed from, sorted.

    Raises:
        ConfigError: the content is invalid, or the type of a branch is missing.
    """

    def __init__(self, content: Any, inputs: Mapping[str, Sequence[str]], columns: Columns) -> None:
        self.content = content
        self.inputs = {name: InputType(*of) for name, of in inputs.items()}
        self.needed: list[str] = []
        self._columns = columns
        self._new_branches: list[str] = []
        self._new_keys: frozenset[str] = frozenset()
        self.applies_to_keys = lru_cache(64)(self._applies_to)
        if content == PYTHON:
            return
        whole = JsonPreproc.read(content, "preproc")
        self._size = len(orjson.dumps(content))
        defined = [one.name for one in whole.definitions]
        self._new_branches = [name for name in defined if columns.span(name) or name in columns.branches]
        self._preproc = whole.for_prediction(self._new_branches)
        self._new_keys = frozenset(self._new_branches) | {
            columns.names[index]
            for first, width, _ in (columns.branches[name] for name in self._new_branches if name in columns.branches)
            for index in range(first, first + width)
        }
        required = self._preproc.used_names - {*defined}
        for name in required - self.inputs.keys():
            raise ConfigError(f"the branch '{name[:60]}' has no type in 'inputs'")
        self.needed = sorted(required)

    def applies_to(self, keys: Sequence[str]) -> bool:
        """Return whether the keys of a request name every branch that is needed, and no new branch."""
        return bool(self.needed and keys) and self.applies_to_keys(tuple(keys))

    def _applies_to(self, keys: tuple[str, ...]) -> bool:
        return set(self.needed) <= set(keys) and self._new_keys.isdisjoint(keys)

    def rows(self, request: Request) -> Rows:
        """Return the rows of a request to which the preprocessing applies, without the events that fail the cuts.

        Raises:
            ConfigError: keys are unknown, missing or repeated, or values do not fit them.
        """
        keys = request.keys
        rows, many = split_rows(request, all(self._is_list(key) for key in keys))
        self._check_work(len(rows), sum(len(value) for row in rows for value in row if isinstance(value, list)))
        index = {key: position for position, key in enumerate(keys)}
        if len(index) < len(keys):
            raise ConfigError("a key occurs twice")
        raw = {name: from_lists([row[index[name]] for row in rows], self.inputs[name], name) for name in self.needed}
        values, kept = self._preproc.apply(raw)
        own = [key for key in keys if self._columns.span(key) or key not in self.inputs]
        positions = [index[key] for key in own]
        new = [to_lists(values[name]) for name in self._new_branches]
        passing = [row for row, passes in zip(rows, kept.tolist(), strict=True) if passes]
        complete = [
            [*(row[position] for position in positions), *computed]
            for row, *computed in zip(passing, *new, strict=True)
        ]
        return Rows(self._columns.matrix([*own, *self._new_branches], complete), many, kept)

    def _is_list(self, key: str) -> bool:
        span = self._columns.span(key)
        return span.is_list if span else key in self.inputs and self.inputs[key].kind == "jagged"

    def _check_work(self, events: int, values: int) -> None:
        values += events * len(self.needed)
        computed = values * max(1, len(self._preproc.definitions) + len(self._preproc.cuts))
        if computed > _MAX_COMPUTED or values * self._size > _MAX_WORK:
            raise ConfigError(
                f"the preprocessing of the model has too much to compute for {events:,} events",
                hint="send fewer events at a time",
            )


def read_preprocessing(
    metadata: Mapping[str, str], columns: Columns | None, file: str, limits: Limits = DEFAULTS
) -> RequestPreprocessing | None:
    """Return the preprocessing in the metadata of an untrusted graph; None if there is none.

    Args:
        columns: the columns of the graph; None: it does not name them.
        file: name of the graph, for errors.

    Raises:
        ConfigError: the metadata are invalid.
    """
    if PREPROC not in metadata or columns is None:
        return None
    text, what = metadata[PREPROC], f"the metadata '{PREPROC}' of {file}"
    if len(text) > limits.preproc:
        raise ConfigError(f"{what} is larger than {format_size(limits.preproc)}")
    try:
        entry = orjson.loads(text)
    except ValueError as error:
        raise ConfigError(f"{what} is not valid JSON: {error}") from error
    inputs = entry.get("inputs") if isinstance(entry, dict) else None
    if not isinstance(inputs, dict) or not all(map(_is_type, inputs.values())):
        raise ConfigError(f"{what} must have the keys 'content' and 'inputs', with the kind and type of each input")
    with error_context(what):
        return RequestPreprocessing(entry.get("content"), inputs, columns)


def _is_type(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and value[0] in KINDS and value[1] in NUMBERS
