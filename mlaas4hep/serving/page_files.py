"""What the page shows of the files that came with a model: metrics.json, training.json, example.json.

    parse_part("metrics", b'{"test": {"auc": 0.86}}')       # {"test": {"auc": 0.86}, "train": {}, "best_epoch": None}

Anybody may have written them. A file whose content has other types than training writes is left out as a whole. The
checks are plain Python, since a validator that is compiled would keep all other threads waiting on a large file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

PARTS = ("metrics", "training", "example")
LARGEST = 2_000_000
"""Bytes of each file."""

_MOST_FIGURES, _MOST_FILES, _MOST_CLASSES = 1000, 100_000, 100_000
_LARGEST_WHOLE = 2**53  # beyond it, a browser's numbers are not exact


def parse_part(part: str, content: bytes | None) -> dict[str, Any] | None:
    """Return what the page shows of a file; None where there is none, or it is not as training writes it."""
    if content is None:
        return None
    try:
        return _READERS[part](_object(orjson.loads(content)))
    except ValueError:
        return None


def _metrics(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "test": _figures(content.get("test", {})),
        "train": _figures(content.get("train", {})),
        "best_epoch": _whole(content.get("best_epoch")),
    }


def _training(content: Mapping[str, Any]) -> dict[str, Any]:
    texts = {key: _text(content.get(key, "")) for key in ("framework", "model_file", "size", "created", "task")}
    classes = [_text(name) for name in _list(content.get("classes", []), _MOST_CLASSES)]
    return {
        **texts,
        "classes": classes,
        "files": [_file(file) for file in _list(content.get("files", []), _MOST_FILES)],
    }


def _example(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return events, whose labels are names, or numbers, one or several per event."""
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
        "name": _text(file.get("name")), "label": _text(file.get("label", "")), "entries": _whole(file.get("entries")),
    }  # fmt: skip


def _figures(content: Any) -> dict[str, float | None]:
    figures = _object(content)
    _require(len(figures) <= _MOST_FIGURES and all(value is None or _is_number(value) for value in figures.values()))
    return figures


def _is_value(value: Any) -> bool:
    """Return whether this is the value of a column, or the list of a branch, null where nothing was measured."""
    if type(value) is list:
        return all(item is None or _is_number(item) for item in value)
    return value is None or _is_number(value)


def _is_label(value: Any) -> bool:
    return type(value) is str or _is_number(value)


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def _text(value: Any) -> str:
    _require(_is_label(value))
    return str(value)


def _whole(value: Any) -> int | None:
    _require(value is None or (type(value) is int and 0 <= value <= _LARGEST_WHOLE))
    whole: int | None = value
    return whole


def _list(value: Any, most: int | None = None) -> list[Any]:
    _require(type(value) is list and (most is None or len(value) <= most))
    found: list[Any] = value
    return found


def _object(value: Any) -> dict[str, Any]:
    _require(type(value) is dict)
    found: dict[str, Any] = value
    return found


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError
