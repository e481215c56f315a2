#!/usr/bin/env python3
"""Talk to a TFaaS server: upload models, list and delete them, ask for predictions.

    tfaas_client.py --url=http://localhost:8083 --upload=bundle/upload.json
    tfaas_client.py --models
    tfaas_client.py --predict=input.json --model=htautau
    tfaas_client.py --delete=htautau

upload.json: {"model": path, "labels": path, "name": name, "params": path}.
input.json:  {"keys": [...], "values": [...]}, one event or a list of rows; null: not measured; "model" and "labels"
(the true classes, printed beside the scores) may be there. In Python: from mlaas4hep import TFaaSClient.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlaas4hep import console

if TYPE_CHECKING:
    from mlaas4hep.serving import TFaaSClient

_TABLE = {"name": "name", "model": "model file", "description": "description", "timestamp": "timestamp"}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("tfaas_client.py", __doc__)
    option = parser.add_argument
    option(
        "--url",
        default=os.environ.get("TFAAS_URL", "http://localhost:8083"),
        help="the server (default: $TFAAS_URL, else http://localhost:8083)",
    )
    action = parser.add_mutually_exclusive_group(required=True).add_argument
    action("--upload", metavar="FILE", help="send the model that this upload.json describes")
    action("--bundle", metavar="FILE", help="send a tar.gz archive whose one folder is a model")
    action("--models", action="store_true", help="list the models")
    action("--delete", metavar="NAME", help="delete a model")
    action("--predict", metavar="FILE", help="print the scores of the events in this JSON file")
    action("--image", metavar="FILE", help="print the classes of an image (not yet)")
    action("--params", metavar="NAME", help="print the params.json of a model")
    action("--status", action="store_true", help="print what the server says of itself")
    option("--model", metavar="NAME", help="the model to ask (default: the one that the file names, else the server's)")
    option("--cert", metavar="FILE", help="client certificate for https (default: $X509_USER_PROXY)")
    option("--key", metavar="FILE", help="its private key (default: in the file of --cert)")
    option("--capath", metavar="PATH", help="folder or file of trusted authorities (default: $X509_CERT_DIR)")
    option("--json", action="store_true", help="print JSON, and nothing else, on stdout")
    console.add_verbose(parser, "1: keep the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> None:
    """Connect to the server and do what the options ask for."""
    from mlaas4hep.errors import ConfigError
    from mlaas4hep.serving import TFaaSClient

    if args.image is not None:
        raise ConfigError("--image cannot be sent yet", hint="vectors can: --predict=input.json")
    cert, capath = certificates(args)
    with TFaaSClient(args.url, cert=cert, capath=capath) as client:
        if args.upload is not None:
            report(args, "uploaded", client.upload(args.upload))
        elif args.bundle is not None:
            client.bundle(args.bundle)
            report(args, "uploaded", args.bundle)
        elif args.delete is not None:
            client.delete(args.delete)
            report(args, "deleted", args.delete)
        elif args.predict is not None:
            print_predictions(args, client)
        elif args.models:
            print_models(args, client.models())
        else:
            print(json.dumps(client.status() if args.status else client.params(args.params), indent=1))


def certificates(args: argparse.Namespace) -> tuple[str | tuple[str, str] | None, str | None]:
    """Return the client certificate and the authorities, for https only."""
    from mlaas4hep.errors import ConfigError

    if not args.url.startswith("https:"):
        return None, None
    cert = args.cert or os.environ.get("X509_USER_PROXY")
    if args.key and not cert:
        raise ConfigError("--key is there without --cert", hint="--cert=usercert.pem --key=userkey.pem")
    return (cert, args.key) if cert and args.key else cert, args.capath or os.environ.get("X509_CERT_DIR")


def report(args: argparse.Namespace, verb: str, what: str) -> None:
    """Say what was done."""
    noun, preposition = ("bundle" if args.bundle else "model"), ("from" if verb == "deleted" else "to")
    print(json.dumps({verb: what}) if args.json else f"{verb} {noun} '{what}' {preposition} {args.url}")


def print_models(args: argparse.Namespace, models: Sequence[dict[str, Any]]) -> None:
    """Print the models, as a table or as JSON."""
    if args.json:
        print(json.dumps(models, indent=1))
        return
    rows = [list(_TABLE.values())] + [[str(model.get(key, "")) for key in _TABLE] for model in models]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_predictions(args: argparse.Namespace, client: TFaaSClient) -> None:
    """Print the server's answers, one event a line, beside the true labels where they are known."""
    from mlaas4hep.serving import read_events

    events = read_events(args.predict)
    answer = client.predict(events, args.model)
    if args.json or not events.many:
        print(json.dumps(answer))
        return
    for number, scores in enumerate(answer):
        print(json.dumps(scores), *([f" true label: {events.labels[number]}"] if events.labels else []))


if __name__ == "__main__":
    sys.exit(main())
