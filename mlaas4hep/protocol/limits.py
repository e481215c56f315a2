"""Server limits that rarely need to change, with their units, defaults and allowed ranges.

    limits = Limits.parse(["headers=100", "json_body=128MB"])
    limits.json_body                              # 128_000_000

`tfaas_server.py --limit NAME=VALUE` changes one; docs/security.md lists all of them. Limits that depend on how a server
is used have their own options, see `serving.settings`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import Field, dataclass, field, fields
from functools import partial
from typing import Any

from mlaas4hep.errors import ConfigError, nearest

_FACTORS = {"bytes": {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}, "s": {"": 1, "s": 1}, "": {"": 1}}
_VALUE = re.compile(r"(?P<number>\d+(?:\.\d+)?) ?(?P<unit>[A-Za-z]*)")


def _limit(unit: str, default: float, about: str, *, minimum: float, maximum: float) -> Any:
    return field(default=default, metadata={"unit": unit, "about": about, "minimum": minimum, "maximum": maximum})


_size = partial(_limit, "bytes", minimum=1_000, maximum=4_000_000_000)
_count = partial(_limit, "", minimum=1, maximum=10_000_000)
_time = partial(_limit, "s", minimum=0.1, maximum=86_400)


@dataclass(frozen=True)
class Limits:
    """The limits: sizes in bytes, times in seconds. The metadata of each field says what it limits.

    Raises ConfigError if a value is out of range.
    """

    url: int = _size(8_000, "length of a request's URL", minimum=100, maximum=1_000_000)
    head: int = _size(64_000, "total size of a request's URL and headers", maximum=10_000_000)
    headers: int = _count(200, "headers per request", minimum=10, maximum=10_000)
    framing: int = _size(64_000, "chunk sizes, chunk extensions and trailers, beyond the size of the body")
    requests_at_once: int = _count(100, "pipelined requests received in one read")
    waiting_requests: int = _count(1_000, "pipelined requests waiting on one connection")
    body_rate: int = _size(1_000, "minimum transfer rate of a body after --timeout, per second", minimum=1)

    command_body: int = _size(64_000, "body of /params and /v2/repository/index", maximum=10_000_000)
    protobuf_body: int = _size(4_000_000, "body in protobuf")
    json_body: int = _size(64_000_000, "body in JSON or with binary tensors")
    image_pixels: int = _count(25_000_000, "pixels per image", maximum=1_000_000_000)
    parsers: int = _count(2, "processes that parse large bodies, per worker", maximum=1_000)
    parser_time: float = _time(60.0, "time to parse a large body", minimum=0.001)
    parser_memory: int = _size(
        4_000_000_000, "address space of a process that parses bodies", minimum=1_000_000_000, maximum=1_000_000_000_000
    )

    params_file: int = _size(64_000, "params.json of a model", maximum=10_000_000)
    params_depth: int = _count(20, "nesting depth of params.json", maximum=200)
    labels: int = _count(100_000, "labels per model")
    label_length: int = _count(1_000, "characters per label")
    labels_file: int = _size(4_000_000, "label file")
    columns: int = _count(100_000, "columns listed in the metadata of an ONNX graph")
    column_name: int = _count(1_000, "characters in the name of a column or branch")
    preproc: int = _size(20_000, "preprocessing in the metadata of an ONNX graph", maximum=1_000_000)
    archive_ratio: int = _count(4, "size of an unpacked archive, in multiples of --max-upload", maximum=1_000)
    archive_members: int = _count(10_000, "files and folders in an archive")
    archive_path: int = _size(1_000, "length of a path in an archive", minimum=100, maximum=3_000)
    archive_depth: int = _count(32, "folder depth in an archive", minimum=2, maximum=500)
    archive_header: int = _size(64_000, "header of an archive member", maximum=1_000_000)
    keras_config: int = _size(50_000_000, "config.json in a .keras file")
    page_file: int = _size(2_000_000, "each of metrics.json, training.json and example.json", maximum=100_000_000)
    page_lists: int = _count(50_000, "lists and objects in each of these files")
    report: int = _size(20_000_000, "report.html")

    input_values: int = _count(10_000_000, "values per event in the input of a model", maximum=1_000_000_000)
    scores: int = _size(100_000_000, "output of one model run")
    run_rows: int = _count(1_024, "rows per model run")
    run_size: int = _size(16_000_000, "input of one model run")
    request_time: float = _time(50.0, "all model runs for one request")
    loaded_models: int = _count(100, "models kept loaded per worker")
    waiting_models: int = _count(32, "models waiting to be loaded in their own process, per worker")
    bounded_file: int = _size(50_000_000, "file of a graph with bounds")
    bounded_nodes: int = _count(5_000, "operators in a graph with bounds")
    bounded_memory: int = _size(200_000_000, "tensors in one run of a graph with bounds", maximum=100_000_000_000)
    bounded_constants: int = _size(20_000_000, "constants that a graph with bounds computes")
    bounded_work: int = _count(2_000_000_000, "multiply-adds in one run of a graph with bounds", maximum=10**15)
    bounded_rows: int = _count(1_024, "rows per run of a graph with bounds")

    stop_time: float = _time(10.0, "time to stop after SIGTERM", minimum=1)

    def __post_init__(self) -> None:
        for limit in fields(self):
            value, minimum, maximum = getattr(self, limit.name), limit.metadata["minimum"], limit.metadata["maximum"]
            if not minimum <= value <= maximum:  # also true of NaN
                unit = limit.metadata["unit"]
                allowed = f"{_format(minimum, unit)} to {_format(maximum, unit)}"
                raise ConfigError(f"the limit '{limit.name}' must be {allowed}, not {_format(value, unit)}")

    @classmethod
    def parse(cls, assignments: Iterable[str]) -> Limits:
        """Return the default limits with some of them changed.

        Args:
            assignments: "NAME=VALUE"; sizes may end in kB, MB or GB.

        Raises:
            ConfigError: a name is unknown, or a value is invalid or out of range.
        """
        limits = {limit.name: limit for limit in fields(cls)}
        values: dict[str, Any] = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise ConfigError(f"the limit '{assignment}' has no value", hint="write it as in --limit headers=100")
            if name not in limits:
                raise ConfigError(
                    f"unknown limit '{name}'",
                    nearest=nearest(name, limits),
                    hint="list all: tfaas_server.py --limit=help",
                )
            values[name] = _parse_value(limits[name], text)
        return cls(**values)


DEFAULTS = Limits()


def limit_table() -> Sequence[tuple[str, str, str]]:
    """Return the name, the formatted default and the description of each limit."""
    return [
        (limit.name, _format(getattr(DEFAULTS, limit.name), limit.metadata["unit"]), limit.metadata["about"])
        for limit in fields(Limits)
    ]


def format_size(size: float) -> str:
    """Format a size in bytes, as in "64 kB"."""
    return _format(size, "bytes")


def _parse_value(limit: Field[Any], text: str) -> float:
    match, unit = _VALUE.fullmatch(text.strip()), limit.metadata["unit"]
    factors = {name.lower(): factor for name, factor in _FACTORS[unit].items()}
    if match is None or match["unit"].lower() not in factors:
        units = f", optionally with a unit ({', '.join(filter(None, _FACTORS[unit]))})" if unit else ""
        raise ConfigError(f"the limit '{limit.name}' must be a number{units}, not '{text}'")
    value = float(match["number"]) * factors[match["unit"].lower()]
    if unit == "s":
        return value
    if not value.is_integer():
        raise ConfigError(f"the limit '{limit.name}' must be an integer, not '{text}'")
    return int(value)


def _format(value: float, unit: str) -> str:
    if unit == "bytes" and math.isfinite(value):
        name, factor = next(
            (pair for pair in reversed(_FACTORS["bytes"].items()) if value >= pair[1] and pair[0]), ("B", 1)
        )
        number = f"{value / factor:,.6g}" if value < 10**15 else f"{value / factor:,.0f}"
        return f"{number} {'bytes' if name == 'B' else name}"
    return f"{value:,} {unit}".strip() if isinstance(value, int) else f"{value:,g} {unit}".strip()
