"""Variants of JSON inputs that are still JSON, so that they get past the parser to the checks behind it.

    mutate_json(b'{"dim": 3}', random.Random(1))      # b'{"dim": 1e308}'

An input may be several texts separated by zero bytes; one of them is changed.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 1.5, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf")),
    *(2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**12, 10**30, 10**400),
    *("", " ", "0", "1", "-1", "1/3", "1/0", "1e999", "1e999999999", "9" * 5000, "nan", "inf", "flat", "jagged"),
    *("\x00", "\n", "a\nb", "\x1b[31m", "\ud800", "\u202e", "é", "../x", "/etc/passwd", "a" * 300, "%s", "*", "/(/"),
    *([], {}, [[]], [None], [0, 1], {"a": 1}, [[1, 2], [3]], [1e308] * 20),
]

Path = tuple[Any, ...]


def mutate_json(data: bytes, rng: random.Random) -> bytes | None:
    """Return a variant; None if the part that was chosen is not JSON."""
    parts = data.split(b"\0")
    index = rng.randrange(len(parts))
    try:
        content = json.loads(parts[index])
    except (ValueError, RecursionError):
        return None
    try:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            content = _changed(content, rng)
        parts[index] = json.dumps(content).encode()
    except ValueError:  # numbers of more digits than Python writes
        return None
    return b"\0".join(parts)


def _changed(content: Any, rng: random.Random) -> Any:
    """Change one value, or what contains it."""
    paths = list(_paths(content))
    path = rng.choice(paths)
    if not path:
        return content if rng.random() < 0.9 else copy.deepcopy(rng.choice(_VALUES))
    parent = _at(content, path[:-1])
    key, kind = path[-1], rng.randrange(8)
    if kind < 3:
        parent[key] = copy.deepcopy(rng.choice(_VALUES))
    elif kind == 3:
        parent[key] = _similar(parent[key], rng)
    elif kind == 4:
        del parent[key]
    elif kind == 5:
        parent[key] = copy.deepcopy(_at(content, rng.choice(paths)))
    elif kind == 6 and isinstance(parent, list):
        parent[key:key] = [copy.deepcopy(parent[key]) for _ in range(rng.choice((1, 2, 30)))]
    elif kind == 6:
        parent[str(rng.choice(_VALUES))[:60]] = parent.pop(key)
    else:
        for _ in range(rng.choice((1, 5, 60))):
            parent[key] = [parent[key]] if rng.random() < 0.5 else {"a": parent[key]}
    return content


def _similar(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return rng.choice([value + 1, value - 1, -value, value * 1000, value // 3, repr(value)[:400]])
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        token = str(rng.choice(_VALUES))[:40]
        return rng.choice([value[:at], value[:at] + token + value[at:], value * 2, value[:at] + value[at + 1 :]])
    if isinstance(value, list):
        return rng.choice([value[::-1], value * 2, value[:1], dict(enumerate(value))])
    return rng.choice([list(value), list(value.values()), {**value, "b": value}])


def _paths(content: Any, path: Path = ()) -> Any:
    """Yield the path of every value."""
    yield path
    if len(path) < 50:
        items = enumerate(content) if isinstance(content, list) else ()
        for key, value in content.items() if isinstance(content, dict) else items:
            yield from _paths(value, (*path, key))


def _at(content: Any, path: Path) -> Any:
    for key in path:
        content = content[key]
    return content
