"""What a bundle and its report say of images; see `Content`."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas4hep.errors import require
from mlaas4hep.files import write_json
from mlaas4hep.images.graph import run_graph
from mlaas4hep.images.stream import IMAGES, ImageStream
from mlaas4hep.stream import PARTS
from mlaas4hep.training.content import Section, in_words
from mlaas4hep.training.page import details, number, paragraph, table, text
from mlaas4hep.training.scoring import open_session

if TYPE_CHECKING:
    from mlaas4hep.training.bundle import Trained

_EXAMPLES, _WRONG, _LISTED = 6, 24, 200  # images on the page, and in its table
_SHOWN = 96  # pixels of an image on the page


class ImageContent:
    """The images of a folder.

    Args:
        stream: the images.
        bad: names of those that could not be decoded, and were left out.
        labels: where the labels came from, in words.
        quantised: whether the bundle gets a model of 8 bits, too.
    """

    packages: Sequence[str] = ("pillow",)

    def __init__(self, stream: ImageStream, bad: Sequence[str], labels: str, quantised: bool) -> None:
        self._stream, self._bad, self._labels, self._quantised = stream, bad, labels, quantised
        self._shape = stream.shapes[IMAGES]
        self.channels = self._shape[2]

    def about(self) -> dict[str, Any]:
        """Return what training.json says of the images."""
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
        """Write nothing: what a model has to know of images is in its graph."""

    def example(self, name: str, count: int) -> dict[str, Any] | None:
        """Return nothing: JSON is not for images."""
        return None

    def raw(self, count: int) -> np.ndarray:
        """Return pixels as servers decode them, float32 (images, height, width, channels), 0 to 255."""
        return np.asarray(self._stream.examples(count, part=None).inputs[IMAGES], np.float32)

    def graph(self, network: Any, takes: Sequence[str], fold: int) -> Any:
        """Return the ONNX graph from pixels to scores."""
        from mlaas4hep.training.onnx_graph import with_names

        return with_names(network)

    def metadata(self) -> dict[str, str]:
        """Return nothing: the graph says itself what images it takes."""
        return {}

    def after_graph(self, folder: Path, trained: Trained) -> dict[str, Any]:
        """Write the model of 8 bits, where that is wanted; return its figures on the test part, and its size."""
        if not self._quantised:
            return {}
        from mlaas4hep.images.quantise import QUANTISED, quantise
        from mlaas4hep.training.bundle import tfaas_params, upload_spec

        graph, small, name = folder / "model.onnx", folder / QUANTISED, f"{trained.name}_quantized"
        quantise(graph, small, self._stream)
        write_json(folder / "params_quantized.json", tfaas_params(trained, small.name, name))
        write_json(folder / "upload_quantized.json", upload_spec(trained, small.name, "params_quantized.json", name))
        batches = self._stream.batches("test", shuffle=False, balanced=False)
        figures = run_graph(open_session(small), batches, trained.test.task).figures()
        sizes = {"bytes": small.stat().st_size, "bytes_before": graph.stat().st_size}
        return {"quantized": {**figures, **sizes}}

    def losses(self) -> Sequence[str]:
        """Return nothing: what could not be decoded was said before training."""
        return ()

    def sample(self, training: Mapping[str, Any]) -> str:
        """Return how the parts were made, and what was left out."""
        height, width, channels = self._shape
        words = (
            "Every image is an event, and is called so below."
            f" {in_words(self._stream.shares)} of each class, by a hash of the images' names. The model is given"
            f" {height} × {width} pixels (height × width) and {channels} channel{'s' * (channels > 1)}, 0 to 255."
        )
        if not self._bad:
            return paragraph(words)
        rows = [[name] for name in self._bad]
        return paragraph(words) + details(
            f"{len(rows):,} images were left out", table("They cannot be decoded.", ["image"], rows)
        )

    def before(self) -> Sequence[Section]:
        """Return what the images look like."""
        return [("Images", self._gallery)]

    def after(self, trained: Trained) -> Sequence[Section]:
        """Return what the model takes for something else."""
        return [("Mistakes", lambda: self._mistakes(trained))]

    def _gallery(self) -> str:
        drawn = []
        for label, name in enumerate(self._stream.images.classes):
            chosen = np.flatnonzero((self._stream.images.y == label) & (self._stream.part == PARTS.index("train")))
            for pixels in self._pixels(chosen[:_EXAMPLES]):
                drawn.append((pixels, name))
        return paragraph("Some images of the training part, as the model sees them.") + _pictures(drawn)

    def _mistakes(self, trained: Trained) -> str:
        y, scores = trained.test.y, trained.test.scores
        taken = scores.argmax(axis=1)
        wrong = np.flatnonzero(taken != y)
        if not len(wrong):
            return paragraph("All images of the test part are classified as they are labelled.")
        sure = scores[np.arange(len(y)), taken]
        wrong = wrong[np.argsort(-sure[wrong])]
        test = np.flatnonzero(self._stream.part == PARTS.index("test"))
        images, classes = self._stream.images, self._stream.images.classes
        rows = [
            [images.name(test[row]), classes[y[row]], classes[taken[row]], number(float(sure[row]))]
            for row in wrong[:_LISTED].tolist()
        ]
        captions = [f"{is_}, taken for {as_} ({score})" for _, is_, as_, score in rows[:_WRONG]]
        drawn = list(zip(self._pixels(test[wrong[:_WRONG]]), captions, strict=True))
        head = ["image", "is", "taken for", "score"]
        return (
            paragraph(f"{len(wrong):,} of {len(y):,} images of the test part, the surest mistakes first.")
            + _pictures(drawn)
            + details("In a table", table(f"The surest first, {_LISTED} at most.", head, rows, 3))
        )

    def _pixels(self, chosen: np.ndarray) -> np.ndarray:
        return np.asarray(self._stream.load(chosen).inputs[IMAGES])


def _pictures(drawn: Sequence[tuple[np.ndarray, str]]) -> str:
    cells = "".join(
        f'<figure><img alt="{text(caption)}" src="data:image/png;base64,{_png(pixels)}" width="{_SHOWN}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
        for pixels, caption in drawn
    )
    return f'<div class="pictures">{cells}</div>'


def _png(pixels: np.ndarray) -> str:
    image = require("PIL.Image", "images", "drawing images").fromarray(
        pixels.squeeze() if pixels.shape[2] == 1 else pixels
    )
    image.thumbnail((2 * _SHOWN, 2 * _SHOWN))
    content = io.BytesIO()
    image.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()
