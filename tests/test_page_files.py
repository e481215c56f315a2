"""What the page shows of strangers' files: whole, in bounds, and parsed without holding up other threads."""

from __future__ import annotations

import threading
import time
from typing import Any

import orjson
import pytest

from mlaas4hep.protocol.limits import DEFAULTS
from mlaas4hep.serving.page.page_files import parse_part

TRAINING = {
    "framework": "pytorch", "model_file": "m.py", "size": 45953, "created": "2025", "task": "classification",
    "classes": ["a", 1], "files": [{"name": "a.root", "label": "a", "entries": 5}, {"name": 3}], "more": [1],
}  # fmt: skip


def test_files_that_training_writes_are_shown() -> None:
    shown = parse_part("training", orjson.dumps(TRAINING))
    assert shown == {
        "framework": "pytorch", "model_file": "m.py", "size": "45953", "created": "2025", "task": "classification",
        "classes": ["a", "1"],
        "files": [{"name": "a.root", "label": "a", "entries": 5}, {"name": "3", "label": "", "entries": None}],
    }  # fmt: skip
    metrics = {"test": {"auc": 0.8, "loss": None}, "best_epoch": 4, "epochs": []}
    assert parse_part("metrics", orjson.dumps(metrics)) == {
        "test": {"auc": 0.8, "loss": None}, "train": {}, "best_epoch": 4,
    }  # fmt: skip
    example = {"keys": ["a"], "values": [[1, None, [2.5, None]]], "labels": ["a", 1, [0.5, 1]]}
    assert parse_part("example", orjson.dumps(example)) == example
    assert parse_part("example", None) is None


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("metrics", '{"best_epoch": 1000000000000000000000000000000}'),
        ("metrics", '{"best_epoch": -1}'),
        ("metrics", '{"best_epoch": true}'),
        ("metrics", '{"test": {"auc": "high"}}'),
        ("metrics", '{"test": []}'),
        ("training", '{"files": [{"name": "a", "entries": 1000000000000000000000000000000}]}'),
        ("training", '{"files": [{"entries": 1}]}'),
        ("training", '{"files": [3]}'),
        ("training", '{"size": {}}'),
        ("training", '{"classes": "ab"}'),
        ("training", "[]"),
        ("example", '{"keys": ["a"]}'),
        ("example", '{"keys": [1], "values": []}'),
        ("example", '{"keys": [], "values": [1]}'),
        ("example", '{"keys": [], "values": [["a"]]}'),
        ("example", '{"keys": [], "values": [[[[1]]]]}'),
        ("example", '{"keys": [], "values": [[1e999]]}'),
        ("example", '{"keys": ["\\ud800"], "values": [[1]]}'),
        ("example", '{"keys": [], "values": [], "labels": [null]}'),
        ("example", '{"keys": [], "values": [], "labels": [[[1]]]}'),
    ],
)
def test_files_with_invalid_content_are_omitted(part: str, text: str) -> None:
    assert parse_part(part, text.encode()) is None


@pytest.mark.parametrize("item", [b"[],", b"{},", b"1,", b"[[1]],"])
def test_a_large_file_does_not_hold_up_other_threads(item: bytes) -> None:
    end = b'1]], "labels": []}'
    head = b'{"keys": [], "values": [['
    text = head + item * ((DEFAULTS.page_file - len(head) - len(end)) // len(item)) + end
    longest, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal longest
        last = time.monotonic()
        while not done.is_set():
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            done.wait(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    found: Any = parse_part("example", text)
    done.set()
    thread.join()
    assert (found is not None) is (item == b"1,")
    assert longest < 1
