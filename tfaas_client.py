#!/usr/bin/env python3
"""Talk to a TFaaS server: upload models, list and delete them, ask for predictions.

    tfaas_client.py --url=http://localhost:8083 --upload=bundle/upload.json
    tfaas_client.py --models
    tfaas_client.py --predict=input.json --model=htautau
    tfaas_client.py --predict=events.root --branches=MET_pt,Jet_pt --model=htautau
    tfaas_client.py --image=jet.png --model=jets
    tfaas_client.py --delete=htautau

upload.json: {"model": path, "labels": path, "name": name, "params": path}.
input.json:  {"keys": [...], "values": [...]}, one event or a list of rows; null: not measured; "model" and "labels"
(the true classes, printed beside the scores) may be there. In Python: from mlaas4hep import TFaaSClient.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from mlaas4hep import console
from mlaas4hep.errors import ConfigError, nearest, printable

if TYPE_CHECKING:
    from mlaas4hep.client import TFaaSClient
    from mlaas4hep.client.events import Events

_COLUMNS = {
    "tfaas": {"name": "name", "model": "model file", "description": "description", "timestamp": "timestamp"},
    "v2": {"name": "name", "version": "version", "state": "state"},
}

_ACTIONS = ("upload", "bundle", "models", "params", "delete", "predict", "image", "status")
_BELONGS = {
    "model": ("predict", "image"), "branches": ("predict",), "branch": ("predict",), "nevts": ("predict",),
    "base64": ("upload",),
}  # fmt: skip
"""What options of models and events are for."""

_NARROWEST = 12  # characters: a date, "probability"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("tfaas_client.py", __doc__)
    group = parser.add_argument_group("what to do").add_mutually_exclusive_group(required=True)
    action = group.add_argument
    action("--upload", metavar="FILE", help="send the model that this upload.json describes")
    action("--bundle", metavar="PATH", help="send a model's folder, or a tar.gz archive whose one folder is a model's")
    action("--models", action="store_true", help="list the models")
    action("--params", metavar="NAME", help="print the params.json of a model")
    action("--delete", metavar="NAME", help="delete a model")
    action("--predict", metavar="FILE", help="print the scores of events: a JSON file, or ROOT, Parquet and the like")
    action("--image", metavar="FILE", help="print the classes of a PNG or JPEG image")
    action("--status", action="store_true", help="print what the server says of itself")
    option = parser.add_argument_group("models and events").add_argument
    option("--model", metavar="NAME", help="the model to ask (default: the one that the file names, else the server's)")
    option(
        "--branches",
        metavar="LIST",
        help="of a ROOT or Parquet file: what the model is given, in order; an element of a list is Jet_pt_0"
        " (default: what the model asks for, where the server knows)",
    )
    option("--branch", metavar="TREE", help="name of the tree in a ROOT file (default: Events)")
    option("--nevts", type=int, metavar="N", help="events to ask for, of a file; -1: all (default: -1)")
    option("--base64", action="store_true", help="upload the model's file as text")
    option("--json", action="store_true", help="print JSON, and nothing else, on stdout")
    add_server(parser)
    console.add_verbose(parser, "1: keep the traceback of an error")
    return parser


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the server is, and how to talk to it."""
    option = parser.add_argument_group("the server").add_argument
    option(
        "--url",
        default=os.environ.get("TFAAS_URL") or "http://localhost:8083",
        help="where it is (default: $TFAAS_URL, else http://localhost:8083)",
    )
    option(
        "--protocol", default="tfaas", help="tfaas, or v2: the Open Inference Protocol, as Triton's (default: tfaas)"
    )
    option("--cert", metavar="FILE", help="client certificate for https (default: $X509_USER_PROXY)")
    option("--key", metavar="FILE", help="its private key (default: in the file of --cert)")
    option("--capath", metavar="PATH", help="folder or file of trusted authorities (default: $X509_CERT_DIR)")
    option(
        "--token-file",
        metavar="FILE",
        help="file with a bearer token, sent over https or to this machine (default: $BEARER_TOKEN,"
        " $BEARER_TOKEN_FILE, $XDG_RUNTIME_DIR/bt_u$UID, /tmp/bt_u$UID)",
    )
    option("--timeout", type=float, default=60.0, metavar="S", help="seconds to wait for an answer (default: 60)")
    option("--retries", type=int, default=3, metavar="N", help="how often to ask again where it is safe (default: 3)")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> None:
    """Connect to the server and do what the options ask for."""
    check_belonging(args)
    with connect(args) as client:
        if args.upload is not None:
            report(args, client, "uploaded", client.upload(args.upload, in_base64=args.base64))
        elif args.bundle is not None:
            client.bundle(args.bundle)
            report(args, client, "uploaded", args.bundle)
        elif args.delete is not None:
            delete(args, client)
        elif args.predict is not None:
            print_predictions(args, client)
        elif args.image is not None:
            print_classes(args, client)
        elif args.models:
            print_models(args, client.models())
        else:
            print(json.dumps(client.status() if args.status else client.params(args.params), indent=1))


def check_belonging(args: argparse.Namespace) -> None:
    """Raise for options that mean nothing to what is asked."""
    given = [name for name, value in vars(args).items() if value is not None and value is not False]
    (action,) = (name for name in _ACTIONS if name in given)
    for name, actions in _BELONGS.items():
        if name in given and action not in actions:
            raise ConfigError(f"--{name} is for {' and '.join(f'--{one}' for one in actions)}, and not for --{action}")


def connect(args: argparse.Namespace) -> TFaaSClient:
    """Return a client of the server that the options name."""
    from mlaas4hep.client import TFaaSClient
    from mlaas4hep.client.token import find_token

    if not 0 < args.timeout < float("inf"):
        raise ConfigError(f"--timeout is {args.timeout:g}, and must be more than 0 seconds")
    if args.retries < 0:
        raise ConfigError(f"--retries is {args.retries}, and must not be negative")
    cert, capath = certificates(args)
    return TFaaSClient(
        args.url,
        protocol=args.protocol,
        timeout=(min(5, args.timeout), args.timeout),
        retries=args.retries,
        cert=cert,
        capath=capath,
        token=find_token(args.url, args.token_file),
    )


def certificates(args: argparse.Namespace) -> tuple[str | tuple[str, str] | None, str | None]:
    """Return the client certificate and the authorities, for https only."""
    if not args.url.startswith("https:"):
        for option in ("cert", "key", "capath"):
            if getattr(args, option):
                raise ConfigError(f"--{option} is for https, and the URL does not begin with that")
        return None, None
    cert = args.cert or os.environ.get("X509_USER_PROXY")
    if args.key and not cert:
        raise ConfigError("--key is there without --cert", hint="--cert=usercert.pem --key=userkey.pem")
    return (cert, args.key) if cert and args.key else cert, args.capath or os.environ.get("X509_CERT_DIR")


def delete(args: argparse.Namespace, client: TFaaSClient) -> None:
    """Delete a model; that there is none is an error, since the name may be mistyped."""
    from mlaas4hep.client.failures import Refusal

    try:
        names = [str(model.get("name")) for model in client.models()]
    except Refusal as error:  # stock servers list nothing while a folder is broken, be it this model's
        console.notice(f"it is not known whether there is such a model: {error.what}")
        names = [args.delete]
    if args.delete not in names:
        raise ConfigError(f"there is no model '{args.delete}' at {client.url}", nearest=nearest(args.delete, names))
    client.delete(args.delete)
    report(args, client, "deleted", args.delete)


def report(args: argparse.Namespace, client: TFaaSClient, verb: str, what: str) -> None:
    """Say what was done."""
    noun, preposition = ("bundle" if args.bundle else "model"), ("from" if verb == "deleted" else "to")
    text = f"{verb} {noun} '{what}' {preposition} {client.url}"
    print(json.dumps({verb: what}) if args.json else printable(text))


def print_models(args: argparse.Namespace, models: Sequence[dict[str, Any]]) -> None:
    """Print the models, as a table or as JSON."""
    if args.json:
        print(json.dumps(models, indent=1))
        return
    columns = _COLUMNS[args.protocol]
    print_table([list(columns.values()), *([str(model.get(key, "")) for key in columns] for model in models)])


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, in columns; cells are cut to keep to a terminal's width, but not the first, a name."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sys.stdout.isatty():
        widths = within(shutil.get_terminal_size().columns, widths)
    for name, *cells in rows:
        line = [name, *(console.shortened(cell, room) for cell, room in zip(cells, widths[1:], strict=True))]
        print("  ".join(cell.ljust(room) for cell, room in zip(line, widths, strict=True)).rstrip())


def within(width: int, widths: Sequence[int]) -> list[int]:
    """Return the widths of columns that fit into a line, as far as `_NARROWEST` allows; the first gives way last."""
    first, *others = widths
    while first + sum(others) + 2 * len(others) > width and max(others) > _NARROWEST:
        others[others.index(max(others))] -= 1
    return [min(first, max(width - sum(others) - 2 * len(others), _NARROWEST)), *others]


def print_classes(args: argparse.Namespace, client: TFaaSClient) -> None:
    """Print the classes of an image with their probabilities; where a server gives numbers alone, these."""
    if not args.model:
        raise ConfigError("--image does not say which model to ask", hint="add --model=NAME")
    answer = client.image(args.image, args.model)
    if args.json or isinstance(answer, list):
        print(json.dumps(answer))
        return
    rows = [[row["label"], in_digits(row["probability"])] for row in answer["labels"]]
    print_table([["label", "probability"], *rows])


def in_digits(value: float | None) -> str:
    """Return a number as people read it, a real one in six digits."""
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def print_predictions(args: argparse.Namespace, client: TFaaSClient) -> None:
    """Print the server's answers, one event a line, beside the true labels where they are known."""
    from mlaas4hep.client.events import cut, read_events

    if reads_data(args):
        print_file_predictions(args, client)
        return
    events = read_events(args.predict)
    if not events.many:
        print(json.dumps(client.predict(events, args.model)))
        return
    answers = scores_of(args, client, cut(events), len(events.rows))
    if args.json:
        print(json.dumps(list(answers)))
        return
    for number, scores in enumerate(answers):
        print(json.dumps(scores), *([printable(f" true label: {events.labels[number]}")] if events.labels else []))


def reads_data(args: argparse.Namespace) -> bool:
    """Say whether --predict is a file of ROOT, Parquet and the like; what reads these is loaded where it may be one."""
    if not args.predict.endswith(".json") or "://" in args.predict:
        from mlaas4hep.client.event_file import is_event_file

        if args.branches is not None or is_event_file(args.predict):
            return True
    if any(getattr(args, name) is not None for name in ("branches", "branch", "nevts")):
        hint = "a JSON file names its keys, and is sent whole"
        raise ConfigError("--branches, --branch and --nevts are for files of ROOT, Parquet and the like", hint=hint)
    return False


def print_file_predictions(args: argparse.Namespace, client: TFaaSClient) -> None:
    """Print the scores of a file's events as they come, one a line, with --json as one list."""
    from mlaas4hep.client.event_file import EventFile

    nevts = -1 if args.nevts is None else args.nevts
    with EventFile(args.predict, args.branch or "Events", nevts) as file:
        answers = scores_of(args, client, file.read(wanted_keys(args, client)), file.num_events)
        number = 0
        for number, scores in enumerate(answers, 1):
            start = "" if not args.json else "[" if number == 1 else ",\n "
            print(start, json.dumps(scores), sep="", end="" if args.json else "\n")
        if args.json:
            print("]" if number else "[]")


def scores_of(args: argparse.Namespace, client: TFaaSClient, pieces: Iterable[Events], total: int) -> Iterator[Any]:
    """Yield the answer for each event; shows how far it is, unless the scores in a terminal do."""
    with nullcontext() if sys.stdout.isatty() else console.progress("predicting", total) as bar:
        for events in pieces:
            yield from client.predict(events, args.model)
            if bar:
                bar.advance(len(events.rows))


def wanted_keys(args: argparse.Namespace, client: TFaaSClient) -> list[str]:
    """Return the branches that the options name, or the keys that the model does."""
    if args.branches is not None:
        keys = [name for part in args.branches.split(",") if (name := part.strip())]
    else:
        keys = client.keys(args.model) if args.model else []
    if not keys:
        ask = "" if args.model else ", or --model=NAME of a model that names them"
        hint = f"give --branches=MET_pt,Jet_pt_0{ask}"
        raise ConfigError("it is not known which branches the model is given", hint=hint)
    return keys


if __name__ == "__main__":
    sys.exit(main())
