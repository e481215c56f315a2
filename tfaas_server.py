#!/usr/bin/env python3
"""Serve trained models over HTTP, in the TFaaS protocol.

    tfaas_server.py
    tfaas_server.py --models-dir=tfaas_models --port=8083
    tfaas_server.py --host=0.0.0.0 --port=0 --base-path=/tfaas

Prints one line on stderr when it is ready, with its URL; Ctrl-C or SIGTERM stops it. Whoever reaches the port may
upload and delete models: leave --host at 127.0.0.1 where you do not trust the network. Upload with tfaas_client.py.
"""

from __future__ import annotations

import argparse
import math
import sys

from mlaas4hep import console


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("tfaas_server.py", __doc__)
    option = parser.add_argument
    option("--models-dir", default="tfaas_models", metavar="DIR", help="where models are kept (default: %(default)s)")
    option("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    option("--port", type=int, default=8083, help="port to listen on; 0: a free one (default: %(default)s)")
    option(
        "--allowed-host", type=lambda names: names.split(","), action="extend", metavar="NAME",
        help="names by which clients may call the server, besides those of loopback; repeat it, or separate by commas",
    )  # fmt: skip
    option("--base-path", type=str, default="", metavar="PATH", help="stands in front of every route (default: none)")
    option("--workers", type=int, default=1, metavar="N", help="processes that answer (default: %(default)s)")
    option("--max-upload", type=float, default=1000, metavar="MB", help="largest upload, in MB (default: %(default)s)")
    option(
        "--rate", type=float, default=0, metavar="N",
        help="requests a second that one address may send to one worker; 0: any number (default: %(default)s)",
    )  # fmt: skip
    option(
        "--timeout", type=float, default=30, metavar="S",
        help="seconds in which a client must go on with its request (default: %(default)s)",
    )  # fmt: skip
    option("--read-only", action="store_true", help="nobody may upload or delete models")
    option("--token-file", metavar="FILE", help="tokens, one a line; without one nobody changes models")
    option("--cert", metavar="FILE", help="certificate of the server, for https")
    option("--key", metavar="FILE", help="its private key (default: in the file of --cert)")
    option(
        "--capath", metavar="PATH",
        help="folder or file of authorities; without a certificate of theirs, or a token, nobody changes models",
    )  # fmt: skip
    option(
        "--allow-dn", action="append", metavar="DN",
        help="name of a certificate that may change models, as in /DC=ch/DC=cern/CN=Jane Doe; may be repeated "
        "(default: all of the authorities in --capath)",
    )  # fmt: skip
    option("--gridmap", metavar="FILE", help="grid-mapfile with the names of certificates that may change models")
    option(
        "--trust", metavar="FILES",
        help="public keys, comma-separated; models that workflow.py signed run without limits (default: none)",
    )  # fmt: skip
    option(
        "--model-memory", type=float, default=2, metavar="GB",
        help="memory that a model may take which is not trusted, in GB (default: %(default)s)",
    )  # fmt: skip
    option(
        "--load-time", type=float, default=60, metavar="S",
        help="seconds in which such a model must be loaded (default: %(default)s)",
    )  # fmt: skip
    option(
        "--run-time", type=float, default=10, metavar="S",
        help="seconds that one run of such a model may take (default: %(default)s)",
    )  # fmt: skip
    option(
        "--model-processes", type=int, default=8, metavar="N",
        help="such models that each worker may have in processes of their own at a time (default: %(default)s)",
    )  # fmt: skip
    option("--private", action="store_true", help="only who has a token or certificate may ask at all")
    console.add_verbose(parser, "1: log every request to stderr, and keep tracebacks")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> None:
    """Serve until told to stop."""
    from mlaas4hep.errors import ConfigError
    from mlaas4hep.serving import serve
    from mlaas4hep.serving.settings import Settings

    positive = {
        "max_upload": " MB", "timeout": " s", "workers": "", "model_memory": " GB", "load_time": " s",
        "run_time": " s", "model_processes": "",
    }  # fmt: skip
    for flag, unit in positive.items():
        if not 0 < getattr(args, flag) < math.inf:
            name = flag.replace("_", "-")
            raise ConfigError(f"--{name} is {getattr(args, flag):g}, and must be more than 0{unit}, and finite")
    if not 0 <= args.rate < math.inf:
        raise ConfigError(f"--rate is {args.rate:g}, and must be at least 0, and finite")
    given = {name: value for name, value in vars(args).items() if value is not None}
    given["allow_dn"] = tuple(given.get("allow_dn", ()))
    given |= {"max_upload": int(args.max_upload * 1e6), "verbose": bool(args.verbose)}
    serve(Settings(**given))


if __name__ == "__main__":
    sys.exit(main())
