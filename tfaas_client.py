#!/usr/bin/env python3
"""Upload models to a TFaaS server, list and delete them, and request predictions.

    tfaas_client.py --url=http://localhost:8083 --upload=bundle/upload.json
    tfaas_client.py --models
    tfaas_client.py --predict=input.json --model=htautau
    tfaas_client.py --predict=events.root:Events --branches=MET_pt,Jet_pt --model=htautau
    tfaas_client.py --image=jet.png --model=jets
    tfaas_client.py --delete=htautau
    tfaas_client.py --bundle=bundle --to=triton_models

upload.json: {"model": path, "labels": path, "name": name, "params": path}.
input.json:  {"keys": [...], "values": [...]}; "values" is one event or a list of events; null is a missing value.
             Optional keys: "model", and "labels" (true classes, which are printed beside the scores).

In Python: from mlaas4hep import TFaaSClient.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep import console
from mlaas4hep.errors import ConfigError, nearest, printable

if TYPE_CHECKING:
    from mlaas4hep.client import TFaaSClient
    from mlaas4hep.client.events import Events
    from mlaas4hep.expressions.preproc import Preproc

_COLUMNS = {
    "tfaas": {"name": "name", "model": "model file", "description": "description", "timestamp": "timestamp"},
    "v2": {"name": "name", "version": "version", "state": "state"},
}

DEFAULT_TIMEOUT = 60.0
"""Seconds to wait for a response."""

_ACTIONS = ("upload", "bundle", "models", "params", "delete", "predict", "image", "status")
_ACTIONS_OF_OPTION = {
    "model": ("predict", "image"), "branches": ("predict",), "branch": ("predict",), "nevts": ("predict",),
    "preproc": ("predict",), "input": ("predict",), "output": ("predict",),
    "base64": ("upload",), "to": ("bundle",), "replace": ("upload",),
}  # fmt: skip
"""The actions that an option can be combined with."""

_MIN_COLUMN_WIDTH = 12  # characters: fits a date or "probability"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("tfaas_client.py", __doc__)
    group = parser.add_argument_group("actions").add_mutually_exclusive_group(required=True)
    action = group.add_argument
    action("--upload", metavar="FILE", help="upload the model that this upload.json describes")
    action("--bundle", metavar="PATH", help="upload a model folder, or a tar.gz archive of one model folder")
    action("--models", action="store_true", help="list the models")
    action("--params", metavar="NAME", help="print the params.json of a model")
    action("--delete", metavar="NAME", help="delete a model")
    action("--predict", metavar="FILE", help="print the scores of the events in a file: JSON, ROOT, Parquet, ...")
    action("--image", metavar="FILE", help="print the classes of a PNG or JPEG image")
    action("--status", action="store_true", help="print the status of the server")
    option = parser.add_argument_group("models and events").add_argument
    option(
        "--model", metavar="NAME",
        help="name of the model (default: the one that the file names, else the server's default)",
    )  # fmt: skip
    option(
        "--output", metavar="NAME",
        help="name of the model's output, with --protocol=v2 (default: the first output of real numbers)",
    )  # fmt: skip
    option(
        "--input",
        action="append",
        metavar="NAME:DATATYPE",
        help="input of the model, as in inputs:FP32 or njet:INT64:1 (values per event), or the folder of its bundle;"
        " with --protocol=v2, for servers that do not report it; may be repeated",
    )
    option(
        "--branches",
        metavar="LIST",
        help="branches of a ROOT or Parquet file, in the order of the model's inputs; Jet_pt_0 is the first element"
        " of a list (default: the inputs that the server reports)",
    )
    option("--branch", metavar="TREE", help="tree in a ROOT file whose name does not contain one (default: Events)")
    option(
        "--preproc",
        metavar="FILE",
        help="new branches and cuts for a ROOT or Parquet file: preproc.json, or Python code, which is run (default:"
        " the preproc.json of the model, if the server reports it)",
    )
    option("--nevts", type=int, metavar="N", help="maximum number of events to read; -1: all (default: -1)")
    option(
        "--base64",
        action="store_true",
        help="upload the model file as text, for proxies that do not forward binary data",
    )
    option(
        "--to", metavar="FOLDER",
        help="write the ONNX graph of --bundle to this model repository of a Triton server, instead of uploading it",
    )  # fmt: skip
    option(
        "--replace",
        action="store_true",
        help="with a stock TFaaS server, first delete a model of the same name; our server always replaces models",
    )
    option("--json", action="store_true", help="print JSON and nothing else to stdout")
    add_server(parser)
    console.add_verbose(parser, "1: show the traceback of an error")
    return parser


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the options of the connection to the server."""
    option = parser.add_argument_group("server").add_argument
    option(
        "--url",
        default=os.environ.get("TFAAS_URL") or "http://localhost:8083",
        help="URL of the server (default: $TFAAS_URL, else http://localhost:8083)",
    )
    option(
        "--protocol",
        default="tfaas",
        help="tfaas, or v2 for the Open Inference Protocol, which Triton also uses (default: tfaas)",
    )
    option("--cert", metavar="FILE", help="client certificate for https (default: $X509_USER_PROXY)")
    option("--key", metavar="FILE", help="private key of --cert (default: in the same file)")
    option(
        "--capath",
        metavar="PATH",
        help="folder or file with the certificates of trusted authorities (default: $X509_CERT_DIR)",
    )
    option(
        "--token-file",
        metavar="FILE",
        help="file with a bearer token, which is sent only over https or to this machine (default: $BEARER_TOKEN,"
        " $BEARER_TOKEN_FILE, $XDG_RUNTIME_DIR/bt_u$UID, /tmp/bt_u$UID)",
    )
    option(
        "--timeout", type=float, metavar="S",
        help="seconds to wait for a response (default: 60; 150 for uploads, since the server checks the model first)",
    )  # fmt: skip
    option(
        "--retries", type=int, default=3, metavar="N",
        help="maximum number of retries of requests that are safe to repeat (default: 3)",
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> None:
    """Connect to the server and perform the action."""
    check_options(args)
    if args.to is not None:
        from mlaas4hep.client.oip.triton_repository import add_to_repository

        version = str(add_to_repository(Path(args.bundle), Path(args.to)))
        print(json.dumps({"written": version}) if args.json else printable(f"wrote {version}"))
        return
    with connect(args) as client:
        if args.upload is not None:
            report(args, client, "uploaded", client.upload(args.upload, in_base64=args.base64, replace=args.replace))
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


def check_options(args: argparse.Namespace) -> None:
    """Raise a ConfigError for options that have no effect on the action."""
    given = [name for name, value in vars(args).items() if value is not None and value is not False]
    (action,) = (name for name in _ACTIONS if name in given)
    for name, actions in _ACTIONS_OF_OPTION.items():
        if name in given and action not in actions:
            allowed = " or ".join(f"--{allowed}" for allowed in actions)
            raise ConfigError(f"--{name} cannot be used with --{action}, only with {allowed}")


def connect(args: argparse.Namespace) -> TFaaSClient:
    """Return a client of the server."""
    from mlaas4hep.client import TFaaSClient
    from mlaas4hep.client.tfaas import UPLOAD_TIMEOUT
    from mlaas4hep.client.token import find_token

    if args.timeout is not None and not 0 < args.timeout < float("inf"):
        raise ConfigError(f"--timeout must be a positive number of seconds, not {args.timeout:g}")
    if args.retries < 0:
        raise ConfigError(f"--retries is {args.retries} but must not be negative")
    cert, capath = certificates(args)
    timeout = DEFAULT_TIMEOUT if args.timeout is None else args.timeout
    return TFaaSClient(
        args.url,
        protocol=args.protocol,
        timeout=(min(5, timeout), timeout),
        upload_timeout=UPLOAD_TIMEOUT if args.timeout is None else timeout,
        retries=args.retries,
        cert=cert,
        capath=capath,
        token=find_token(args.url, args.token_file),
        output=args.output or "",
        inputs=args.input or (),
    )


def certificates(args: argparse.Namespace) -> tuple[str | tuple[str, str] | None, str | None]:
    """Return the client certificate and the path of the authorities; None for http."""
    if not args.url.startswith("https:"):
        for option in ("cert", "key", "capath"):
            if getattr(args, option):
                raise ConfigError(f"--{option} needs a URL that begins with https")
        return None, None
    cert = args.cert or os.environ.get("X509_USER_PROXY")
    if args.key and not cert:
        raise ConfigError("--key needs --cert", hint="as in --cert=usercert.pem --key=userkey.pem")
    return (cert, args.key) if cert and args.key else cert, args.capath or os.environ.get("X509_CERT_DIR")


def delete(args: argparse.Namespace, client: TFaaSClient) -> None:
    """Delete a model; a missing model is an error, since its name may be mistyped."""
    from mlaas4hep.client.failures import UnexpectedResponse

    try:
        names = [str(model.get("name")) for model in client.models()]
    except UnexpectedResponse as error:  # stock servers list no models while one of them is broken
        console.notice(f"cannot check whether the model exists: {error.what}")
        names = [args.delete]
    if args.delete not in names:
        raise ConfigError(f"{client.url} has no model '{args.delete}'", nearest=nearest(args.delete, names))
    client.delete(args.delete)
    report(args, client, "deleted", args.delete)


def report(args: argparse.Namespace, client: TFaaSClient, verb: str, what: str) -> None:
    """Print the result of an upload or deletion."""
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
    """Print rows as a table. In a terminal, all columns but the first (the name) are shortened to fit its width."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sys.stdout.isatty():
        widths = fit_widths(widths, shutil.get_terminal_size().columns)
    for name, *cells in rows:
        line = [name, *(console.shortened(cell, width) for cell, width in zip(cells, widths[1:], strict=True))]
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def fit_widths(widths: Sequence[int], line_width: int) -> list[int]:
    """Reduce the widths of columns to fit a line, down to `_MIN_COLUMN_WIDTH`; the first column is reduced last."""
    first, *others = widths
    while first + sum(others) + 2 * len(others) > line_width and max(others) > _MIN_COLUMN_WIDTH:
        others[others.index(max(others))] -= 1
    return [min(first, max(line_width - sum(others) - 2 * len(others), _MIN_COLUMN_WIDTH)), *others]


def print_classes(args: argparse.Namespace, client: TFaaSClient) -> None:
    """Print the classes of an image with their probabilities, or the numbers if the server returns no labels."""
    if not args.model:
        raise ConfigError("--image needs a model", hint="add --model=NAME")
    answer = client.image(args.image, args.model)
    if args.json or isinstance(answer, list):
        print(json.dumps(answer))
        return
    rows = [[row["label"], format_number(row["probability"])] for row in answer["labels"]]
    print_table([["label", "probability"], *rows])


def format_number(value: float | None) -> str:
    """Format a number, a float with six digits."""
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def print_predictions(args: argparse.Namespace, client: TFaaSClient) -> None:
    """Print the scores, one event per line, beside the true labels if the file has them."""
    from mlaas4hep.client.events import read_events, split_events

    if is_data_file(args):
        print_file_predictions(args, client)
        return
    events = read_events(args.predict)
    if not events.is_batch:
        scores = client.predict(events, args.model)
        print(json.dumps(scores))
        report_cut_events(int(scores is None), 1)
        return
    scores = predict(args, client, split_events(events), len(events.rows))
    if args.json:
        print(json.dumps(list(scores)))
        return
    for number, row in enumerate(scores):
        print(json.dumps(row), *([printable(f" true label: {events.labels[number]}")] if events.labels else []))


def is_data_file(args: argparse.Namespace) -> bool:
    """Return whether --predict is a data file (ROOT, Parquet, ...), not JSON."""
    if not args.predict.endswith(".json") or "://" in args.predict:
        from mlaas4hep.client.event_file import is_event_file  # imports the readers of all formats

        if args.branches is not None or is_event_file(args.predict):
            return True
    if any(getattr(args, name) is not None for name in ("branches", "branch", "preproc", "nevts")):
        hint = "a JSON file has its own keys and is sent as a whole"
        raise ConfigError(
            "--branches, --branch, --preproc and --nevts need a data file (ROOT, Parquet, ...)", hint=hint
        )
    return False


def print_file_predictions(args: argparse.Namespace, client: TFaaSClient) -> None:
    """Print the scores of the events in a data file, one event per line, or as one list with --json."""
    from mlaas4hep.client.event_file import EventFile

    nevts = -1 if args.nevts is None else args.nevts
    with EventFile(args.predict, args.branch or "Events", nevts) as file:
        events = file.read(input_keys(args, client), preprocessing(args, client))
        scores = predict(args, client, events, file.num_events)
        number = 0
        for number, row in enumerate(scores, 1):
            start = "" if not args.json else "[" if number == 1 else ",\n "
            print(start, json.dumps(row), sep="", end="" if args.json else "\n")
        if args.json:
            print("]" if number else "[]")


def predict(args: argparse.Namespace, client: TFaaSClient, requests: Iterable[Events], total: int) -> Iterator[Any]:
    """Yield the scores of each event; show a progress bar unless the scores are printed in a terminal."""
    failing = 0
    with nullcontext() if sys.stdout.isatty() else console.progress("predicting", total) as bar:
        for events in requests:
            scores = client.predict(events, args.model)
            failing += scores.count(None)
            yield from scores
            if bar:
                bar.advance(events.num_events)
    report_cut_events(failing, total)


def report_cut_events(failing: int, total: int) -> None:
    """Print the number of events that fail the cuts of the model, whose scores are null."""
    if failing:
        console.notice(f"{failing:,} of {total:,} events fail the cuts of the model; their scores are null")


def preprocessing(args: argparse.Namespace, client: TFaaSClient) -> Preproc | None:
    """Return the preprocessing of --preproc, or else the one that the server reports for --model."""
    if args.preproc is None:
        return client.preproc(args.model) if args.model else None
    from mlaas4hep.expressions.preproc_file import load_preproc

    return load_preproc(args.preproc)


def input_keys(args: argparse.Namespace, client: TFaaSClient) -> list[str]:
    """Return the branches of --branches, or else the inputs of the model."""
    if args.branches is not None:
        keys = [name for part in args.branches.split(",") if (name := part.strip())]
    else:
        keys = client.keys(args.model) if args.model else []
    if not keys:
        model_hint = "" if args.model else ", or --model=NAME if the server reports its inputs"
        raise ConfigError("the inputs of the model are unknown", hint=f"add --branches=MET_pt,Jet_pt_0{model_hint}")
    return keys


if __name__ == "__main__":
    console.exit_with(main())
