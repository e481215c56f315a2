#!/usr/bin/env python3
"""Classify images that are made of events.

    hep_resnet.py --fdir=/path/hep_images --flabels=labels.csv --epochs=200 --mdir=models
    hep_resnet.py --fdir=/path/hep_images --flabels=labels.csv --model=resnet50 --image_size=128 --quantize
    hep_resnet.py --testing --mdir=models --fdir=/path/more_images --flabels=more.csv

labels.csv has a line for each image: image,label. Without it the images lie in a folder for each class. The model is
served by tfaas_client.py --upload=models/upload.json. Results go to stdout, progress and notices to stderr. The exit
code is 0, 1 after an error, 143 after SIGTERM (what --resume is for), 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep import console

if TYPE_CHECKING:
    from mlaas4hep.config import Params
    from mlaas4hep.images.evaluate import Tested
    from mlaas4hep.images.stream import ImageStream
    from mlaas4hep.images.train import Images, Network
    from mlaas4hep.training.backend import Backend
    from mlaas4hep.training.loop import Epoch
    from mlaas4hep.training.stopping import Stop


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("hep_resnet.py", __doc__)
    option = parser.add_argument
    option("--fdir", required=True, metavar="DIR", help="folder of the images, at any depth; or of train/ with them")
    option("--flabels", metavar="FILE", help="CSV file of image,label (default: the folders that images lie in)")
    option("--mdir", metavar="DIR", default="models", help="folder of the trained model (default: %(default)s)")
    option("--model", default="resnet18", metavar="NAME", help="resnet18, 34, 50, 101 or 152 (default: %(default)s)")
    option("--name", help="the model's name on a server (default: that of the network)")
    option("--epochs", type=int, default=200, metavar="N", help="passes, at most (default: %(default)s)")
    option("--batch_size", type=int, default=32, metavar="N", help="images a step sees (default: %(default)s)")
    option("--optimizer", default="adam", metavar="NAME", help="adam, adamw, sgd or rmsprop (default: %(default)s)")
    option("--learning_rate", type=float, default=0.0, metavar="X", help="at the beginning (default: as usual for it)")
    option(
        "--precision", default="auto", metavar="NAME",
        help="float32, mixed_bfloat16 or mixed_float16 (default: a mixed one where a GPU is faster with it)",
    )  # fmt: skip
    option("--image_size", metavar="N", help="N or HEIGHTxWIDTH in pixels (default: as most images are)")
    option("--image_ext", default="png", metavar="EXT", help="png, jpg or png,jpg (default: %(default)s)")
    option("--channels", type=int, choices=(1, 3), help="1: grey, 3: colours (default: 1 where all images are grey)")
    option(
        "--split", default="0.7,0.15,0.15", metavar="X",
        help="shares of training, validation and test part, or that of the last two together (default: %(default)s)",
    )  # fmt: skip
    option("--augmentation", action="store_true", help="show mirrored and shifted images in each epoch")
    option("--quantize", action="store_true", help="write also a model of 8 bits, and say what it costs; or test that")
    option("--testing", action="store_true", help="train nothing: show all images (or test/) to the model in --mdir")
    option("--patience", type=int, default=12, metavar="N", help="epochs without gain (default: %(default)s)")
    option("--seed", type=int, default=0, metavar="N", help="of everything random (default: %(default)s)")
    option("--workers", type=int, default=2, metavar="N", help="threads that read images (default: %(default)s)")
    option("--skip-bad", action="store_true", help="leave out images that cannot be decoded")
    option(
        "--sign", metavar="KEY",
        help="private Ed25519 key (PEM) that signs the model; servers trust it by --trust (default: it is not signed)",
    )  # fmt: skip
    option("--resume", action="store_true", help="go on from the checkpoint of a run that was killed, if there is one")
    console.add_verbose(parser, "1: say more, and keep tracebacks")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> int:
    """Train, or test, and say how it went."""
    from mlaas4hep.training.stopping import Stop

    if args.testing:
        return test(args)
    stop = Stop()
    with stop.by_signals():
        return train(args, stop)


def train(args: argparse.Namespace, stop: Stop) -> int:
    """Train a network, and say how it went."""
    from mlaas4hep.images.train import Network, train_images
    from mlaas4hep.training.run import AlreadyTrained, Watch
    from mlaas4hep.training.words import print_epoch, print_result

    def started(stream: ImageStream, backend: Backend, fold: int) -> None:
        print_images(stream, backend, network)

    def report(epoch: Epoch, best: bool, fold: int) -> None:
        print_epoch(epoch, best, noun="images")

    network = Network(args.model, args.optimizer, args.learning_rate, args.precision)
    try:
        trained = train_images(
            images_of(args), network, params_of(args), mdir=args.mdir, quantised=args.quantize,
            watch=Watch(started, report, args.resume, stop), sign=args.sign or "",
        )  # fmt: skip
    except AlreadyTrained as done:
        console.notice(str(done))
        return 0
    print_result(trained, Path(args.mdir), "images")
    if args.quantize:
        print_quantised(Path(args.mdir))
    return 0


def test(args: argparse.Namespace) -> int:
    """Show images to a trained model, and print figures and confusion."""
    from mlaas4hep.images.evaluate import evaluate_model
    from mlaas4hep.training.words import in_words

    if args.image_size or args.channels:
        console.notice("with --testing --image_size and --channels are as the model in --mdir takes them")
    tested = evaluate_model(args.mdir, images_of(args), params_of(args), quantised=args.quantize)
    console.say(f"Test  : {len(tested.images)} images{in_words(tested.scored.figures())}")
    print_confusion(tested)
    return 0


def images_of(args: argparse.Namespace) -> Images:
    """Return which images are meant."""
    from mlaas4hep.images.train import Images

    height, width = size_of(args.image_size) if args.image_size else (0, 0)
    return Images(
        args.fdir, args.flabels, args.image_ext, height, width, args.channels or 0, args.augmentation, args.skip_bad
    )


def size_of(text: str) -> tuple[int, int]:
    """Return height and width.

    Raises:
        ConfigError: the text is neither N nor HEIGHTxWIDTH.
    """
    from mlaas4hep.errors import ConfigError

    sides = text.lower().split("x")
    if not (len(sides) <= 2 and all(side.isdecimal() and int(side) for side in sides)):
        raise ConfigError(f"--image_size is {text!r}", hint="it is N or HEIGHTxWIDTH in pixels, as in 64 or 48x64")
    return int(sides[0]), int(sides[-1])


def params_of(args: argparse.Namespace) -> Params:
    """Return the parameters that the options stand for."""
    from mlaas4hep.config import Params

    content: dict[str, Any] = {
        name: getattr(args, name) for name in ("epochs", "batch_size", "patience", "seed", "workers")
    }
    content |= {"name": args.name or args.model, "split": shares_of(args.split)}
    return Params.parse({**content, "lr_patience": max(1, args.patience // 3)}, "the options")


def shares_of(text: str) -> list[float]:
    """Return the shares of training, validation and test part."""
    from mlaas4hep.errors import ConfigError

    try:
        shares = [float(share) for share in text.split(",")]
    except ValueError:
        raise ConfigError(f"--split is {text!r}", hint="it is as in 0.7,0.15,0.15, or 0.3") from None
    return shares if len(shares) != 1 else [1 - shares[0], shares[0] / 2, shares[0] / 2]


def print_images(stream: ImageStream, backend: Backend, network: Network) -> None:
    """Print what is trained on what."""
    from mlaas4hep.images.stream import IMAGES

    height, width, channels = stream.shapes[IMAGES]
    parts = ", ".join(f"{count:,} {name}" for name, count in zip(
        ("for training", "for validation", "to test"), stream.composition.totals.tolist(), strict=True))  # fmt: skip
    console.say(
        f"Images: {len(stream.images):,} of {height} x {width} pixels and {channels} channel{'s' * (channels > 1)},"
        f" {parts}; classes {', '.join(stream.images.classes)}"
    )
    console.say(f"Model : {network.name}, {backend.size()}, {backend.outputs} outputs, {network.policy()}")


def print_quantised(folder: Path) -> None:
    """Print what the model of 8 bits costs, and what it saves."""
    from mlaas4hep.input_files import read_json

    figures = read_json(folder / "metrics.json")
    few, all_bits = figures["quantized"], figures["test"]
    console.say(
        f"8 bits: accuracy {few['accuracy']:.4f} ({few['accuracy'] - all_bits['accuracy']:+.4f}),"
        f" {few['bytes'] / 1e6:.1f} MB instead of {few['bytes_before'] / 1e6:.1f}"
        f" (serve it: tfaas_client.py --upload={shlex.quote(str(folder / 'upload_quantized.json'))})"
    )


def print_confusion(tested: Tested) -> None:
    """Print how many images of each class are taken for which."""
    width = max(map(len, tested.classes))
    console.say(f"{'':{width}}  taken for")
    for name, row in zip(tested.classes, tested.confusion().tolist(), strict=True):
        cells = "  ".join(f"{other} {count}" for other, count in zip(tested.classes, row, strict=True) if count)
        console.say(f"{name:{width}}  {cells or 'no image'}")


if __name__ == "__main__":
    sys.exit(main())
