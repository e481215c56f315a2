"""The images of a run, as described in the bundle and its report; see `SampleContent`."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.errors import require
from mlaas4hep.files import write_json
from mlaas4hep.images.graph import run_graph
from mlaas4hep.images.stream import IMAGES, ImageStream
from mlaas4hep.report.page import details, number, paragraph, table, text
from mlaas4hep.stream import PARTS
from mlaas4hep.training.compared_events import COMPARED_EVENTS, ComparedEvents
from mlaas4hep.training.onnx_session import open_session
from mlaas4hep.training.trained import SampleContent, Section, TrainedModel, describe_split

_MAX_EXAMPLES = 6  # images per class
_MAX_MISTAKES_SHOWN, _MAX_MISTAKES_LISTED = 24, 200
_DISPLAY_WIDTH = 96  # pixels


class ImageContent(SampleContent):
    """The images of a folder.

    Args:
        stream: the images.
        bad: names of images that were left out because they cannot be decoded.
        labels: the source of the labels: "folders" or a file.
        quantised: also write an 8-bit model.
    """

    packages: Sequence[str] = ("pillow",)

    def __init__(self, stream: ImageStream, bad: Sequence[str], labels: str, quantised: bool) -> None:
        self._stream, self._bad, self._labels, self._quantised = stream, bad, labels, quantised
        self._shape = stream.shapes[IMAGES]
        self.channels = self._shape[2]

    def params(self) -> dict[str, Any]:
        """Return the parameters that apply to images, without those of trees and event files."""
        return self._stream.image_params

    def describe(self) -> dict[str, Any]:
        """Return the description of the images for training.json."""
        images = self._stream.images
        counts = self._stream.composition.events.sum(axis=0).tolist()
        return {
            "files": [
                {"name": images.folder, "label": name, "entries": count}
                for name, count in zip(images.classes, counts, strict=True)
            ],
            "labels_from": self._labels,
            "left_out": list(self._bad),
        }

    def write(self, folder: Path, fold: int | None = None) -> None:
        """Write nothing: the graph contains all preprocessing of images."""

    def compared_events(self, fold: int) -> ComparedEvents:
        """Return some images, a black and a white one, as servers decode them: float32 pixels from 0 to 255."""
        images = self._stream.examples(COMPARED_EVENTS, part=None)
        pixels = np.asarray(images.inputs[IMAGES], np.float32)
        made_up = np.stack([np.full(self._shape, value, np.float32) for value in (0, 255)])
        raw = np.concatenate([pixels, made_up])
        names = [self._stream.images.name(index) for index in images.entry]
        return ComparedEvents(raw, {IMAGES: raw}, [*names, "a black image", "a white image"])

    def scoring_graph(self, network: Any, takes: Sequence[str], fold: int) -> Any:
        """Return the ONNX graph from pixels to scores."""
        from mlaas4hep.training.onnx_graph import rename_input_and_output

        return rename_input_and_output(network)

    def write_derived(self, folder: Path, trained: TrainedModel) -> dict[str, Any]:
        """Write the 8-bit model if requested; return its metrics on the test set and its size."""
        if not self._quantised:
            return {}
        from mlaas4hep.images.quantise import QUANTISED, quantise
        from mlaas4hep.training.bundle import tfaas_params, upload_spec

        graph, quantised, name = folder / "model.onnx", folder / QUANTISED, f"{trained.name}_quantized"
        quantise(graph, quantised, self._stream)
        write_json(folder / "params_quantized.json", tfaas_params(trained, quantised.name, name))
        upload = upload_spec(trained, quantised.name, "params_quantized.json", name)
        write_json(folder / "upload_quantized.json", upload)
        batches = self._stream.batches("test", shuffle=False, balanced=False)
        metrics = run_graph(open_session(quantised), batches, trained.test.task).metrics()
        sizes = {"bytes": quantised.stat().st_size, "bytes_before": graph.stat().st_size}
        return {"quantized": {**metrics, **sizes}}

    def sample_section(self, training: Mapping[str, Any]) -> str:
        """Return how the images were split, and which were left out, as HTML."""
        height, width, channels = self._shape
        description = (
            'Below, "event" means image. Each class is split by a hash of the images\' names:'
            f" {describe_split(self._stream.shares)}. The input of the model has {height} × {width} pixels (height"
            f" × width) and {channels} channel{'s' * (channels > 1)}, with values from 0 to 255."
        )
        if not self._bad:
            return paragraph(description)
        bad = table("Images that cannot be decoded.", ["image"], [[name] for name in self._bad])
        return paragraph(description) + details(f"{len(self._bad):,} images were left out", bad)

    def first_sections(self) -> Sequence[Section]:
        """Return a gallery of the images."""
        return [("Images", self._gallery)]

    def last_sections(self, trained: TrainedModel) -> Sequence[Section]:
        """Return the misclassified images."""
        return [("Mistakes", lambda: self._mistakes(trained))]

    def _gallery(self) -> str:
        captioned = []
        for label, name in enumerate(self._stream.images.classes):
            chosen = np.flatnonzero((self._stream.images.y == label) & (self._stream.part == PARTS.index("train")))
            captioned += [(pixels, name) for pixels in self._pixels(chosen[:_MAX_EXAMPLES])]
        return paragraph("Images of the training set, in the size that the model takes.") + _gallery_html(captioned)

    def _mistakes(self, trained: TrainedModel) -> str:
        y, scores = trained.test.y, trained.test.scores
        predicted = scores.argmax(axis=1)
        wrong = np.flatnonzero(predicted != y)
        if not len(wrong):
            return paragraph("All images of the test set are classified correctly.")
        confidence = scores[np.arange(len(y)), predicted]
        wrong = wrong[np.argsort(-confidence[wrong])]
        test = np.flatnonzero(self._stream.part == PARTS.index("test"))
        images, classes = self._stream.images, self._stream.images.classes
        rows = [
            [images.name(test[row]), classes[y[row]], classes[predicted[row]], number(float(confidence[row]))]
            for row in wrong[:_MAX_MISTAKES_LISTED].tolist()
        ]
        captions = [f"{true}, predicted {wrong_class} ({score})" for _, true, wrong_class, score in rows]
        shown = self._pixels(test[wrong[:_MAX_MISTAKES_SHOWN]])
        head = ["image", "true class", "predicted class", "score"]
        caption = f"Misclassified images in decreasing order of the score, at most {_MAX_MISTAKES_LISTED}."
        return (
            paragraph(f"{len(wrong):,} of {len(y):,} images of the test set are misclassified; highest scores first.")
            + _gallery_html(list(zip(shown, captions, strict=False)))
            + details("Table", table(caption, head, rows, 3))
        )

    def _pixels(self, chosen: np.ndarray) -> np.ndarray:
        return np.asarray(self._stream.load(chosen).inputs[IMAGES])


def _gallery_html(captioned: Sequence[tuple[np.ndarray, str]]) -> str:
    cells = "".join(
        f'<figure><img alt="{text(caption)}" src="data:image/png;base64,{_base64_png(pixels)}"'
        f' width="{_DISPLAY_WIDTH}"><figcaption>{text(caption)}</figcaption></figure>'
        for pixels, caption in captioned
    )
    return f'<div class="pictures">{cells}</div>'


def _base64_png(pixels: np.ndarray) -> str:
    pixels = pixels.squeeze() if pixels.shape[2] == 1 else pixels
    image = require("PIL.Image", "images", "drawing images").fromarray(pixels)
    image.thumbnail((2 * _DISPLAY_WIDTH, 2 * _DISPLAY_WIDTH))
    content = io.BytesIO()
    image.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()
