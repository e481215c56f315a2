#!/usr/bin/env python3
"""Classify images that are made of events.

    hep_resnet.py --fdir=/path/hep_images --flabels=labels.csv --epochs=200 --mdir=models

Not yet: the image classifier is being rebuilt; the options below are the ones it will have.
"""

from __future__ import annotations

import argparse
import sys

from mlaas4hep import console


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("hep_resnet.py", __doc__)
    parser.add_argument("--fdir", metavar="DIR", help="folder of the images")
    parser.add_argument("--flabels", metavar="FILE", help="CSV file with image,label")
    parser.add_argument("--mdir", metavar="DIR", default="models", help="folder of the trained model (default: models)")
    parser.add_argument("--epochs", type=int, default=200, help="passes over the images (default: 200)")
    parser.add_argument("--verbose", type=int, nargs="?", const=1, default=0, metavar="LEVEL", help="say more")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> int:
    """Say that there is nothing here yet."""
    from mlaas4hep.errors import MLaaS4HEPError

    raise MLaaS4HEPError("hep_resnet.py does not classify images yet", hint="models of vectors: workflow.py --help")


if __name__ == "__main__":
    sys.exit(main())
