"""How much of each parser the corpus reaches, and which inputs reach more.

    python tests/fuzz_parsers.py --reach --corpus=FOLDER

Lines are counted by `sys.settrace`, in functions only: what runs on import says nothing about the inputs.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import mlaas4hep
from fuzz.checks import Parse, find_fault

MODULES: dict[str, tuple[str, ...]] = {
    "http": ("serving.http.connections", "serving.http.fast_path", "serving.http.middleware", "serving.http.bodies"),
    "json_rows": ("serving.models.rows", "serving.http.responses"),
    "json_bodies": ("serving.app", "serving.protocols.oip"),
    "protobuf": ("serving.protocols.proto", "serving.protocols.proto_messages"),
    "oip": ("serving.protocols.oip", "serving.protocols.oip_tensors"),
    "grpc": ("serving.protocols.grpc_tensors", "serving.protocols.grpc_messages"),
    "multipart": ("serving.store.uploaded_files", "serving.protocols.images"),
    "params": ("protocol.params", "serving.store.class_labels"),
    "onnx_metadata": (
        "serving.models.column_metadata",
        "serving.models.request_preprocessing",
        "serving.models.rows",
        "protocol.event_rows",
    ),
    "onnx_bounds": ("serving.models.onnx_bounds",),
    "onnx_model": ("serving.models.loader",),
    "tar": ("serving.store.archive",),
    "keras": ("serving.frameworks.keras_archive",),
    "image": ("images.decode",),
    "client_http": ("client.connection", "client.failures", "client.minimum_rate"),
    "remote_file": ("io.storage.remote", "io.storage.replicas", "io.storage.byte_ranges"),
    "client_answers": ("client.protocols", "client.oip.protocol", "client.oip.inputs", "client.tfaas"),
    "specs": ("specs.specs_file", "reader.normalise"),
    "preproc": (
        "expressions.preproc_json",
        "expressions.grammar",
        "expressions.expression",
        "expressions.functions",
        "expressions.arithmetic",
    ),
    "run_params": ("config", "normalisation_choice"),
    "bundle": ("scoring.files", "scoring.scorer", "training.bundle_description"),
    "upload_spec": ("client.upload_spec", "client.packing"),
    "event_rows": ("client.events",),
    "label_files": ("images.label_file", "input_files"),
    "page_files": ("serving.page.page_files",),
    "root_file": ("io.formats.detect", "io.root.ttree", "io.root.metadata.tree_record", "io.root.uproot_source"),
    "rntuple": ("io.rntuple.source", "io.rntuple.envelopes", "io.rntuple.leaves", "io.rntuple.page_lists"),
    "tree_record": (
        "io.root.metadata.tree_record",
        "io.root.metadata.branch_types",
        "io.root.metadata.record_buffer",
        "io.root.metadata.embedded_baskets",
        "io.root.ttree",
    ),
    "basket": ("io.root.baskets", "io.root.basket_reader"),
    "rntuple_page": ("io.rntuple.decode",),
    "page_list": ("io.rntuple.page_lists",),
    "block": ("io.root.compression",),
    "parquet": ("io.formats.arrow", "io.formats.parquet_footer"),
    "arrow": ("io.formats.arrow",),
    "avro": ("io.formats.row_files",),
    "csv": ("io.formats.row_files",),
    "json_lines": ("io.formats.row_files",),
}
"""The modules that read the input of a target, without the package's name."""


PACKAGE = str(Path(mlaas4hep.__file__).parent)


class Reached:
    """Lines of the package that were executed, as pairs of file and line; see `observed`."""

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Collect lines while this context is entered, in this thread and in those that are started meanwhile."""
        sys.settrace(self._trace)
        threading.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._trace_line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _trace_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._trace_line

    def missing(self, module: str) -> tuple[list[int], int]:
        """Return the lines in functions of a module that were not executed, and how many there are in all."""
        file = str(Path(PACKAGE, *module.split(".")).with_suffix(".py"))
        lines = set(_lines_in_functions(compile(Path(file).read_text(), file, "exec")))
        return sorted(line for line in lines if (file, line) not in self.lines), len(lines)

    def chosen(self, parse: Parse, inputs: Iterable[bytes]) -> Iterator[bytes]:
        """Yield those inputs, the short ones first, that reach lines which were not reached before."""
        for data in sorted(inputs, key=len):
            before = len(self.lines)
            with self.observed():
                find_fault(parse, data)
            if len(self.lines) > before:
                yield data


def _lines_in_functions(code: CodeType) -> Iterator[int]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines_in_functions(constant)
            if constant.co_flags & inspect.CO_NEWLOCALS and constant.co_flags & inspect.CO_OPTIMIZED:  # not a class
                yield from {line for *_, line in constant.co_lines() if line and line != constant.co_firstlineno}
