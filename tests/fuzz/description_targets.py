"""Small text files that users get from others: specs.json, preproc.json, params.json, bundles, labels, events."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from serving_fixtures import onnx_model, write_bundle
from tinyroot import write_tree

from fuzz.checks import Fault, Parse, Target
from fuzz.json_mutations import mutate_json
from mlaas4hep.client.events import read_events, split_events
from mlaas4hep.client.packing import packed_folder
from mlaas4hep.client.upload_spec import read_upload_spec
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, MLaaS4HEPError
from mlaas4hep.expressions.preproc_file import load_preproc, preproc_from_json
from mlaas4hep.images.label_file import read_label_file
from mlaas4hep.io import Column, Jagged, Kind
from mlaas4hep.normalisation_choice import METHODS
from mlaas4hep.reader.normalise import Normalisation
from mlaas4hep.scoring.files import score_files
from mlaas4hep.serving.page.page_files import PARTS, parse_part
from mlaas4hep.specs.specs import Specs
from mlaas4hep.stream.labels import labels_by_file, read_labels, targets_by_file

_EVENTS = 4


def _specs(folder: Path, stack: ExitStack) -> Parse:
    path, copy = folder / "specs.json", folder / "copy.json"

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        specs = Specs.load(str(path))
        specs.save(str(copy))
        specs.merge(specs)
        _use_specs(specs)
        if not specs.legacy and Specs.load(str(copy)) != specs:
            raise Fault("specs change when they are saved and loaded")

    return parse


def _use_specs(specs: Specs) -> None:
    from mlaas4hep.reader.layout import VectorLayout

    layout = VectorLayout.of(specs)
    x = np.zeros((1, layout.width), np.float32)
    for method in METHODS:
        with suppress(ConfigError):
            normalisation = Normalisation.of(specs, layout, method)
            if not np.isfinite(normalisation.constants).all():
                raise Fault(f"normalisation '{method}' has constants that are not finite")
            normalisation.apply(x.copy(), 0.0)


_COLUMNS = {
    "met": np.array([1.5, -2.0, 1e30, np.nan], np.float32),
    "n": np.array([0, 1, 2, -1], np.int32),
    "big": np.array([2**63, 0, 1, 2**64 - 1], np.uint64),
    "good": np.array([True, False, True, True]),
    "pt": Jagged(np.array([0, 2, 2, 3, 5]), np.array([1, 2, 3, 4, 5], np.float32)),
    "eta": Jagged(np.array([0, 2, 2, 3, 5]), np.array([-1, 0, 1, np.inf, 9], np.float64)),
    "index": Jagged(np.array([0, 2, 2, 3, 5]), np.array([-1, 0, 1, 7, 2**31 - 1], np.int32)),
    "box": np.arange(12, dtype=np.float64).reshape(4, 3),
}


def _kind(values: Any) -> Kind:
    return Kind.JAGGED if isinstance(values, Jagged) else Kind.FIXED if values.ndim == 2 else Kind.FLAT


def _columns() -> dict[str, Column]:
    found = {}
    for name, values in _COLUMNS.items():
        kind = _kind(values)
        dtype = values.content.dtype if isinstance(values, Jagged) else values.dtype
        found[name] = Column(name, kind, dtype, values.shape[1]) if kind is Kind.FIXED else Column(name, kind, dtype)
    return found


def _preproc(folder: Path, stack: ExitStack) -> Parse:
    """The input is a preproc.json, or the text of one expression, which becomes a new branch and a cut."""
    path, columns = folder / "preproc.json", _columns()

    def parse(data: bytes) -> None:
        if not data.lstrip().startswith(b"{"):
            text = data.decode(errors="replace")
            data = json.dumps({"define": {"new": text}, "cut": text}).encode()
        path.write_bytes(data)
        preproc = load_preproc(path)
        after = preproc.columns(columns)
        needed = preproc.needs(columns, set(after))
        given = {name: values for name, values in _COLUMNS.items() if name in needed}
        values, kept = preproc.apply(given or {"n": _COLUMNS["n"]})
        if len(kept) != _EVENTS or any(len(column) != kept.sum() for column in values.values()):
            raise Fault("the preprocessing changes the number of events")
        if any(_kind(column) is not after[name].kind for name, column in values.items()):
            raise Fault("the preprocessing makes other columns than it announces")
        if preproc_from_json(preproc.to_json()).needs(columns, set(after)) != needed:
            raise Fault("the preprocessing changes when it is saved and loaded")

    return parse


def _run_params(folder: Path, stack: ExitStack) -> Parse:
    path = folder / "params.json"

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        params = Params.load(str(path))
        json.dumps(params.model_dump())

    return parse


def _bundle(folder: Path, stack: ExitStack) -> Parse:
    """The input is training.json, specs.json and preproc.json, with zero bytes in between; the last may be missing."""
    bundle, events, scores = folder / "bundle", folder / "events.root", folder / "scores"
    write_bundle(bundle)
    rng = np.random.default_rng(0)
    numbers = {name: rng.normal(size=_EVENTS).astype("f4") for name in ("MET_phi", "MET_pt")}
    write_tree(events, numbers)
    (bundle / "model.onnx").write_bytes(onnx_model([1.0, 10.0]))

    def parse(data: bytes) -> None:
        names = ("training.json", "specs.json", "preproc.json")
        contents = dict(zip(names, data.split(b"\0"), strict=False))
        for name in names:
            (bundle / name).unlink(missing_ok=True)
        for name, content in contents.items():
            (bundle / name).write_bytes(content)
        for _ in score_files(bundle, [events], scores, "root"):
            pass

    return parse


def _upload_spec(folder: Path, stack: ExitStack) -> Parse:
    """The input is upload.json and, behind a zero byte, the params.json that it names."""
    bundle = write_bundle(folder / "bundle")

    def parse(data: bytes) -> None:
        spec, _, params = data.partition(b"\0")
        (bundle / "upload.json").write_bytes(spec)
        (bundle / "params.json").write_bytes(params)
        with suppress(MLaaS4HEPError):
            read_upload_spec(bundle / "upload.json")
        with packed_folder(bundle):
            pass

    return parse


def _event_rows(folder: Path, stack: ExitStack) -> Parse:
    """The input is a JSON file of events for the client."""
    path = folder / "events.json"

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        events = read_events(path)
        json.dumps([part.rows for part in split_events(events)], allow_nan=False)

    return parse


_IMAGES = ["ring/a.png", "ring/b.png", "train/blob/c.jpg", "d.png"]


def _label_files(folder: Path, stack: ExitStack) -> Parse:
    """The input is a file of labels: of images, or a label per line for files of events."""
    path = folder / "labels.csv"

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        for part in ("", "train/"):
            with suppress(MLaaS4HEPError):
                labels = read_label_file(path, _IMAGES, part, str(folder))
                if not set(labels) <= set(_IMAGES):
                    raise Fault("a label for an image that does not exist")
        names = read_labels(str(path))
        files = [f"{number}.root" for number in range(max(1, len(names)))]
        with suppress(MLaaS4HEPError):
            labels_by_file(names, files)
        targets_by_file(names, files, [1] * len(files))

    return parse


def _page_files(folder: Path, stack: ExitStack) -> Parse:
    """The input is what a bundle tells the page of the server: a letter for the part, and its JSON."""
    parts = {part[0].encode(): part for part in PARTS}

    def parse(data: bytes) -> None:
        shown = parse_part(parts.get(data[:1], PARTS[0]), data[1:])
        json.dumps(shown, allow_nan=False)

    return parse


def _keyed_json(data: bytes, rng: Any) -> bytes | None:
    changed = mutate_json(data[1:], rng)
    return None if changed is None else data[:1] + changed


def _preproc_variant(data: bytes, rng: Any) -> bytes | None:
    """Return a variant of a JSON file, or of an expression: words exchanged for others."""
    if data.lstrip().startswith(b"{"):
        return mutate_json(data, rng)
    words = data.split(b" ")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(words) + 1)
        words[at : at + rng.randrange(2)] = [rng.choice(_WORDS)]
    return b" ".join(words)


_WORDS = rb"""
met n big good pt eta index box pt[:,0] pt[:,-1] pt[:,9999999999] pt[eta>0] box[:,1] pt[:,1:3] 0 1 -1 1.5 1e308
1e999 9223372036854775807 9223372036854775808 True pi + - * / // % ** & | ^ ~ ! && || < <= == != ( ) [ ] , : `
and or not in is if else lambda sum(pt) max(pt) min(pt) len(pt) count(pt) any(pt>1) all(pt>1) abs(met) sqrt(met)
log(met) exp(met) where(good,pt,eta) mean(pt) sort(pt) argmax(pt) np.sin(met) 2**64 met**9999 n//0 n%0 big-1
""".split()


TARGETS = [
    Target("specs", _specs, 16_384, variants=150, mutate=mutate_json),
    Target("preproc", _preproc, 4096, variants=300, mutate=_preproc_variant),
    Target("run_params", _run_params, 4096, variants=300, mutate=mutate_json),
    Target("bundle", _bundle, 8192, variants=30, mutate=mutate_json),
    Target("upload_spec", _upload_spec, 4096, variants=200, mutate=mutate_json),
    Target("event_rows", _event_rows, 4096, variants=300, mutate=mutate_json),
    Target("label_files", _label_files, 4096),
    Target("page_files", _page_files, 4096, variants=300, mutate=_keyed_json),
]
