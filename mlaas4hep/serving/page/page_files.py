"""The parts of metrics.json, training.json and example.json that the page shows.

    parse_part("metrics", b'{"test": {"auc": 0.86}}')       # {"test": {"auc": 0.86}, "train": {}, "best_epoch": None}

The files are untrusted. A file is omitted if a value has another type than training would write.
Parsing millions of tiny lists, or validating them in compiled code, would block all other threads. Therefore lists and
objects are counted before a file is parsed, and the checks are plain Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import orjson

from mlaas4hep.protocol.limits import DEFAULTS, Limits

PARTS = ("metrics", "training", "example")
_MOST_METRICS, _MOST_FILES, _MOST_CLASSES = 1000, 100_000, 100_000
_LARGEST_INTEGER = 2**53  # larger integers are not exact in JavaScript


def parse_part(part: str, content: bytes | None, limits: Limits = DEFAULTS) -> dict[str, Any] | None:
    """Return the part of a file that the page shows; None if the file is missing or invalid."""
    if content is None or content.count(b"[") + content.count(b"{") > limits.page_lists:
        return None
    try:
        return _READERS[part](_object(orjson.loads(content)))
    except ValueError:
        return None


def _metrics(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "test": _metric_values(content.get("test", {})),
        "train": _metric_values(content.get("train", {})),
        "best_epoch": _count(content.get("best_epoch")),
    }


def _training(content: Mapping[str, Any]) -> dict[str, Any]:
    texts = {key: _text(content.get(key, "")) for key in ("framework", "model_file", "size", "created", "task")}
    classes = [_text(name) for name in _list(content.get("classes", []), _MOST_CLASSES)]
    files = [_file(file) for file in _list(content.get("files", []), _MOST_FILES)]
    return {**texts, "classes": classes, "files": files}


def _example(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return events and their labels: names or numbers, one or several per event."""
    keys, values = _list(content.get("keys")), _list(content.get("values"))
    labels = _list(content.get("labels", []))
    _require(all(type(key) is str for key in keys))
    _require(all(_is_value(value) for row in values for value in _list(row)))
    _require(all(_is_label(label) or (type(label) is list and all(map(_is_label, label))) for label in labels))
    return {"keys": keys, "values": values, "labels": labels}


_READERS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "metrics": _metrics, "training": _training, "example": _example,
}  # fmt: skip


def _file(content: Any) -> dict[str, Any]:
    file = _object(content)
    return {
        "name": _text(file.get("name")), "label": _text(file.get("label", "")), "entries": _count(file.get("entries")),
    }  # fmt: skip


def _metric_values(content: Any) -> dict[str, float | None]:
    values = _object(content)
    _require(len(values) <= _MOST_METRICS and all(value is None or _is_number(value) for value in values.values()))
    return values


def _is_value(value: Any) -> bool:
    """Return whether this is the value of a column or the list of a branch; null is a missing value."""
    return all(item is None or _is_number(item) for item in (value if type(value) is list else [value]))


def _is_label(value: Any) -> bool:
    return type(value) is str or _is_number(value)


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def _text(value: Any) -> str:
    _require(_is_label(value))
    return str(value)


def _count(value: Any) -> int | None:
    _require(value is None or (type(value) is int and 0 <= value <= _LARGEST_INTEGER))
    return cast("int | None", value)


def _list(value: Any, most: int | None = None) -> list[Any]:
    _require(type(value) is list and (most is None or len(value) <= most))
    return cast(list[Any], value)


def _object(value: Any) -> dict[str, Any]:
    _require(type(value) is dict)
    return cast(dict[str, Any], value)


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError
