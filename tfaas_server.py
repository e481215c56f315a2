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
import sys

from mlaas4hep import console


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("tfaas_server.py", __doc__)
    option = parser.add_argument
    option("--models-dir", default="tfaas_models", metavar="DIR", help="where models are kept (default: %(default)s)")
    option("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    option("--port", type=int, default=8083, help="port to listen on; 0: a free one (default: %(default)s)")
    option("--base-path", default="", metavar="PATH", help="stands in front of every route (default: none)")
    option("--max-upload", type=float, default=1000, metavar="MB", help="largest upload, in MB (default: %(default)s)")
    console.add_verbose(parser, "1: log every request to stderr, and keep tracebacks")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> None:
    """Serve until told to stop."""
    from mlaas4hep.errors import ConfigError
    from mlaas4hep.serving import serve

    if not args.models_dir:
        raise ConfigError("--models-dir is empty", hint="name the folder that models are kept in")
    if not args.host:
        raise ConfigError("--host is empty", hint="127.0.0.1 for this machine alone, 0.0.0.0 for everybody")
    if not args.max_upload > 0:
        raise ConfigError(f"--max-upload is {args.max_upload:g}, and must be more than 0 MB")

    serve(
        args.models_dir,
        args.host,
        args.port,
        base_path=args.base_path,
        max_upload=int(args.max_upload * 1e6),
        verbose=bool(args.verbose),
    )


if __name__ == "__main__":
    sys.exit(main())
