#!/usr/bin/env python3
"""Train and test a classifier of images, such as images of events.

    hep_resnet.py --fdir=/path/hep_images --flabels=labels.csv --epochs=200 --mdir=models
    hep_resnet.py --fdir=/path/hep_images --flabels=labels.csv --model=resnet50 --image_size=128 --quantize
    hep_resnet.py --testing --mdir=models --fdir=/path/more_images --flabels=more.csv

labels.csv has one line image,label per image. Without it, each class needs its own folder. To serve the model, run
tfaas_client.py --upload=models/upload.json. Results go to stdout, progress and notices to stderr. The exit code is 0, 1
after an error, 130 after Ctrl-C and 143 after SIGTERM; --resume continues an interrupted run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep import console
from mlaas4hep.shell import quoted

if TYPE_CHECKING:
    from mlaas4hep.backends.protocol import Backend
    from mlaas4hep.config import Params
    from mlaas4hep.images.evaluate import Evaluation
    from mlaas4hep.images.stream import ImageStream
    from mlaas4hep.images.train import ImageOptions, Network
    from mlaas4hep.training.callbacks import Callbacks
    from mlaas4hep.training.history import Epoch


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("hep_resnet.py", __doc__)
    option = parser.add_argument
    option(
        "--fdir", required=True, metavar="DIR", help="folder with images at any depth, optionally in train/ and test/"
    )
    option(
        "--flabels",
        metavar="FILE",
        help="CSV file with lines image,label (default: the folder of an image is its label)",
    )
    option(
        "--mdir",
        metavar="DIR",
        default="models",
        help="folder of the bundle, which contains the trained model (default: %(default)s)",
    )
    option(
        "--model",
        default="resnet18",
        metavar="NAME",
        help="resnet18, resnet34, resnet50, resnet101 or resnet152 (default: %(default)s)",
    )
    option("--name", help="name of the model on a server (default: the value of --model)")
    option("--epochs", type=int, default=200, metavar="N", help="maximum number of epochs (default: %(default)s)")
    option("--batch_size", type=int, default=32, metavar="N", help="images per batch (default: %(default)s)")
    option("--optimizer", default="adam", metavar="NAME", help="adam, adamw, sgd or rmsprop (default: %(default)s)")
    option(
        "--learning_rate",
        type=float,
        default=0.0,
        metavar="X",
        help="initial learning rate (default: 0.05 for sgd, else 0.001)",
    )
    option(
        "--precision", default="auto", metavar="NAME",
        help="float32, mixed_bfloat16 or mixed_float16 (default: mixed precision on GPUs that accelerate it)",
    )  # fmt: skip
    option("--image_size", metavar="N", help="N or HEIGHTxWIDTH in pixels (default: the most frequent size)")
    option("--image_ext", default="png", metavar="EXT", help="png, jpg or png,jpg (default: %(default)s)")
    option(
        "--channels", type=int, choices=(1, 3), help="1: grey, 3: colour (default: 1 if all images are grey, else 3)"
    )
    option(
        "--split", default="0.7,0.15,0.15", metavar="X",
        help="fractions of the training, validation and test sets, or the sum of the last two (default: %(default)s)",
    )  # fmt: skip
    option("--augmentation", action="store_true", help="flip and shift training images at random in each epoch")
    option(
        "--quantize",
        action="store_true",
        help="also write an 8-bit model and print its accuracy; with --testing: test the 8-bit model",
    )
    option(
        "--testing",
        action="store_true",
        help="do not train; test the model in --mdir on all images of --fdir (or of its test/)",
    )
    option(
        "--patience",
        type=int,
        default=12,
        metavar="N",
        help="training stops after this number of epochs without a better validation loss (default: %(default)s)",
    )
    option("--seed", type=int, default=0, metavar="N", help="seed of all random numbers (default: %(default)s)")
    option(
        "--workers", type=int, default=2, metavar="N", help="number of threads that read images (default: %(default)s)"
    )
    option("--skip-bad", action="store_true", help="leave out images that cannot be decoded")
    option(
        "--sign", metavar="KEY",
        help="private Ed25519 key (PEM) to sign the model with, for servers with --trust (default: do not sign)",
    )  # fmt: skip
    option("--resume", action="store_true", help="continue from the checkpoint of an interrupted run, if there is one")
    console.add_verbose(parser, "1: show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> int:
    """Train or test a model."""
    from mlaas4hep.training.callbacks import Callbacks

    if args.testing:
        return test(args)
    callbacks = Callbacks()
    with callbacks.stop_on_signals():
        return train(args, callbacks)


def train(args: argparse.Namespace, callbacks: Callbacks) -> int:
    """Train a network and print the result."""
    from mlaas4hep.images.train import Network, train_images
    from mlaas4hep.report.terminal import print_epoch, print_result
    from mlaas4hep.training.run import AlreadyTrained

    def on_train_begin(stream: ImageStream, backend: Backend, fold: int) -> None:
        print_images(stream, backend, network)

    def on_epoch_end(epoch: Epoch, best: bool, fold: int) -> None:
        print_epoch(epoch, best, noun="images")

    callbacks.on_train_begin, callbacks.on_epoch_end = on_train_begin, on_epoch_end
    network = Network(args.model, args.optimizer, args.learning_rate, args.precision)
    try:
        trained = train_images(
            image_options(args), network, params_of(args), mdir=args.mdir, quantised=args.quantize,
            callbacks=callbacks, resume=args.resume, sign=args.sign or "",
        )  # fmt: skip
    except AlreadyTrained as done:
        console.notice(str(done))
        return 0
    print_result(trained, Path(args.mdir), "images")
    if args.quantize:
        print_quantised(Path(args.mdir))
    return 0


def test(args: argparse.Namespace) -> int:
    """Test a trained model; print metrics and the confusion matrix."""
    from mlaas4hep.images.evaluate import evaluate_model
    from mlaas4hep.report.terminal import format_metrics

    if args.image_size or args.channels:
        console.notice("--testing ignores --image_size and --channels and uses those of the model")
    result = evaluate_model(args.mdir, image_options(args), params_of(args), quantised=args.quantize)
    console.print_line(f"Test  : {len(result.images)} images{format_metrics(result.predictions.metrics())}")
    print_confusion(result)
    return 0


def image_options(args: argparse.Namespace) -> ImageOptions:
    """Return the options of the images."""
    from mlaas4hep.images.train import ImageOptions

    height, width = parse_size(args.image_size) if args.image_size else (0, 0)
    return ImageOptions(
        args.fdir, args.flabels, args.image_ext, height, width, args.channels or 0, args.augmentation, args.skip_bad
    )


def parse_size(text: str) -> tuple[int, int]:
    """Parse --image_size; return height and width.

    Raises:
        ConfigError: the text is neither N nor HEIGHTxWIDTH.
    """
    from mlaas4hep.errors import ConfigError

    sides = text.lower().split("x")
    if not (len(sides) <= 2 and all(side.isdecimal() and int(side) for side in sides)):
        raise ConfigError(f"invalid --image_size {text!r}", hint="use N or HEIGHTxWIDTH in pixels, as in 64 or 48x64")
    return int(sides[0]), int(sides[-1])


def params_of(args: argparse.Namespace) -> Params:
    """Return the training parameters."""
    from mlaas4hep.config import Params

    content: dict[str, Any] = {
        name: getattr(args, name) for name in ("epochs", "batch_size", "patience", "seed", "workers")
    }
    content |= {"name": args.name or args.model, "split": parse_split(args.split)}
    return Params.parse({**content, "lr_patience": max(1, args.patience // 3)}, "the options")


def parse_split(text: str) -> list[float]:
    """Parse --split; return the fractions of the training, validation and test set.

    Raises:
        ConfigError: the text is not a list of numbers.
    """
    from mlaas4hep.errors import ConfigError

    try:
        shares = [float(share) for share in text.split(",")]
    except ValueError:
        raise ConfigError(f"invalid --split {text!r}", hint="use 0.7,0.15,0.15 or 0.3") from None
    return shares if len(shares) != 1 else [1 - shares[0], shares[0] / 2, shares[0] / 2]


def print_images(stream: ImageStream, backend: Backend, network: Network) -> None:
    """Print the images and the network of a run."""
    from mlaas4hep.images.stream import IMAGES

    height, width, channels = stream.shapes[IMAGES]
    counts = zip(stream.composition.totals.tolist(), ("training", "validation", "testing"), strict=True)
    parts = ", ".join(f"{count:,} for {part}" for count, part in counts)
    console.print_line(
        f"Images: {len(stream.images):,} of {height} x {width} pixels and {channels} channel{'s' * (channels > 1)},"
        f" {parts}; classes {', '.join(stream.images.classes)}"
    )
    console.print_line(f"Model : {network.name}, {backend.size()}, {backend.outputs} outputs, {network.policy()}")


def print_quantised(folder: Path) -> None:
    """Print accuracy and size of the 8-bit model."""
    from mlaas4hep.input_files import read_json

    metrics = read_json(folder / "metrics.json")
    quantised, original = metrics["quantized"], metrics["test"]
    console.print_line(
        f"8 bits: accuracy {quantised['accuracy']:.4f} ({quantised['accuracy'] - original['accuracy']:+.4f}),"
        f" {quantised['bytes'] / 1e6:.1f} MB instead of {quantised['bytes_before'] / 1e6:.1f}"
        f" (serve it: tfaas_client.py --upload={quoted(str(folder / 'upload_quantized.json'))})"
    )


def print_confusion(result: Evaluation) -> None:
    """Print the confusion matrix: one line per true class, with the number of images by predicted class."""
    width = max(map(len, result.classes))
    console.print_line(f"{'':{width}}  predicted")
    for name, row in zip(result.classes, result.confusion().tolist(), strict=True):
        cells = "  ".join(f"{other} {count}" for other, count in zip(result.classes, row, strict=True) if count)
        console.print_line(f"{name:{width}}  {cells or 'no images'}")


if __name__ == "__main__":
    console.exit_with(main())
