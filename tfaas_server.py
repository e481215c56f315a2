#!/usr/bin/env python3
"""Serve trained models over HTTP, with the TFaaS protocol and the Open Inference Protocol.

    tfaas_server.py
    tfaas_server.py --models-dir=tfaas_models --port=8083
    tfaas_server.py --host=0.0.0.0 --port=0 --base-path=/tfaas

When it is ready, it prints one line with its URL on stderr. Ctrl-C or SIGTERM stops it. Without --token-file and
--capath, everybody who can connect may upload and delete models: keep --host=127.0.0.1 unless you trust the network.
Upload models with tfaas_client.py.
"""

from __future__ import annotations

import argparse
import math

from mlaas4hep import console


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.Parser("tfaas_server.py", __doc__)
    option = parser.add_argument
    option("--models-dir", default="tfaas_models", metavar="DIR", help="folder of the models (default: %(default)s)")
    option("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    option("--port", type=int, default=8083, help="port to listen on; 0: any free port (default: %(default)s)")
    option(
        "--grpc-port", type=int, metavar="PORT",
        help="port of the gRPC service of the Open Inference Protocol; 0: any free port (default: no gRPC)",
    )  # fmt: skip
    option(
        "--allowed-host", type=lambda names: names.split(","), action="extend", metavar="NAME",
        help="host names that clients may use, besides those of loopback; comma-separated, may be repeated "
        "(default: none on a loopback address, else any)",
    )  # fmt: skip
    option("--base-path", type=str, default="", metavar="PATH", help="prefix of every route (default: none)")
    option("--workers", type=int, default=1, metavar="N", help="number of server processes (default: %(default)s)")
    option("--max-upload", type=float, default=1000, metavar="MB", help="largest upload, in MB (default: %(default)s)")
    option(
        "--rate", type=float, default=0, metavar="N",
        help="requests per second that one address may send to one worker; 0: no limit (default: %(default)s)",
    )  # fmt: skip
    option(
        "--timeout", type=float, default=30, metavar="S",
        help="maximum time in seconds that a client may pause while it sends a request or reads a response "
        "(default: %(default)s)",
    )  # fmt: skip
    option("--read-only", action="store_true", help="refuse uploads, deletions and changes of the default model")
    option(
        "--token-file",
        metavar="FILE",
        help="file with tokens, one per line; clients need one of them, or a certificate (--capath), to change models "
        "(default: none; without either option, everybody who can connect may change models)",
    )
    option("--cert", metavar="FILE", help="certificate of the server, for https")
    option("--key", metavar="FILE", help="private key of the server (default: read from the file of --cert)")
    option(
        "--capath", metavar="PATH",
        help="folder or file of certificate authorities; clients need a certificate issued by one of them, or a token, "
        "to change models (default: none)",
    )  # fmt: skip
    option(
        "--allow-dn", action="append", metavar="DN",
        help="name of a certificate that may change models, as in /DC=ch/DC=cern/CN=Jane Doe; may be repeated "
        "(default: all certificates of the authorities in --capath, unless --gridmap is set)",
    )  # fmt: skip
    option("--gridmap", metavar="FILE", help="grid-mapfile with the names of certificates that may change models")
    option(
        "--trust", metavar="FILES",
        help="files of public keys, comma-separated; ONNX models signed with the matching private keys run without "
        "the limits that the next four options set (default: none)",
    )  # fmt: skip
    option(
        "--model-memory", type=float, default=2, metavar="GB",
        help="maximum memory in GB of a model that is not signed by a key of --trust (default: %(default)s)",
    )  # fmt: skip
    option(
        "--load-time", type=float, default=60, metavar="S",
        help="maximum time in seconds to check and load such a model (default: %(default)s)",
    )  # fmt: skip
    option(
        "--run-time", type=float, default=10, metavar="S",
        help="maximum time in seconds of one run of such a model (default: %(default)s)",
    )  # fmt: skip
    option(
        "--model-processes", type=int, default=8, metavar="N",
        help="maximum number of subprocesses that run such models, per worker (default: %(default)s)",
    )  # fmt: skip
    option(
        "--limit", action="append", metavar="NAME=VALUE",
        help="change another limit, as in --limit headers=100 --limit json_body=128MB; may be repeated; "
        "--limit=help lists them",
    )  # fmt: skip
    option(
        "--allow-nan", action="store_true",
        help="return null for scores that are not finite (default: such a request is an error)",
    )  # fmt: skip
    option("--private", action="store_true", help="require a token or a certificate for predictions, too")
    console.add_verbose(parser, "1: log every request to stderr, and print tracebacks of errors")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return console.run(command, build_parser().parse_args(argv))


def command(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from mlaas4hep.errors import ConfigError
    from mlaas4hep.protocol.limits import Limits, limit_table

    if "help" in (args.limit or ()):
        for name, default, about in limit_table():
            console.print_line(f"{name:18}{default:>16}  {about}")
        return
    from mlaas4hep.serving import serve
    from mlaas4hep.serving.settings import Settings

    positive = {
        "max_upload": " MB", "timeout": " s", "workers": "", "model_memory": " GB", "load_time": " s",
        "run_time": " s", "model_processes": "",
    }  # fmt: skip
    for flag, unit in positive.items():
        if not 0 < getattr(args, flag) < math.inf:
            name = flag.replace("_", "-")
            raise ConfigError(f"invalid --{name} {getattr(args, flag):g}: it must be finite and more than 0{unit}")
    if not 0 <= args.rate < math.inf:
        raise ConfigError(f"invalid --rate {args.rate:g}: it must be finite and at least 0")
    if args.grpc_port is not None and not 0 <= args.grpc_port < 65536:
        raise ConfigError(f"invalid --grpc-port {args.grpc_port}: it must be 0 to 65535")
    given = {name: value for name, value in vars(args).items() if value is not None}
    given["allow_dn"] = tuple(given.get("allow_dn", ()))
    given["limits"] = Limits.parse(given.pop("limit", ()))
    given |= {"max_upload": int(args.max_upload * 1e6), "verbose": bool(args.verbose)}
    serve(Settings(**given))


if __name__ == "__main__":
    console.exit_with(main())
