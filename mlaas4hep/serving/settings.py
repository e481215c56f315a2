"""The settings of a server.

    settings = Settings(models_dir="tfaas_models", port=8083, workers=2)

Settings can be sent to worker processes as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlaas4hep.protocol.limits import DEFAULTS, Limits


@dataclass(frozen=True)
class Settings:
    """The options of `tfaas_server.py`.

    Attributes:
        models_dir: folder of the models; created if it does not exist.
        host, port: address to listen on; 0 selects a free port.
        grpc_port: port of the gRPC service; 0 selects a free port, -1: no gRPC service.
        allowed_host: values of the `Host` header to accept besides the names of loopback; see `origins`.
        base_path: prefix of every route, as in "/tfaas".
        workers: number of server processes.
        max_upload: largest body of a request, in bytes; an archive may unpack to `limits.archive_ratio` times as much.
        rate: requests per second that one address may send to one worker; 0: no limit.
        timeout: seconds that a client has for the headers of a request, and for pauses while it sends or reads.
        token_file: file of tokens, one per line; clients with a token are authenticated.
        cert, key: PEM files of the server's certificate and private key; they switch TLS on.
        capath: file or folder of certificate authorities; clients with a certificate of one of them are authenticated.
        allow_dn: names, in slash form, of the certificates that may change models; empty: all, unless `gridmap` is set.
        gridmap: grid-mapfile with further names of certificates that may change models.
        trust: files of public keys, comma-separated; models signed by one of them are trusted.
        model_memory: memory limit of an untrusted model, in GB.
        load_time, run_time: seconds that an untrusted model may take to load, and for one run.
        model_processes: number of subprocesses for untrusted models, per worker.
        allow_nan: return scores that are not finite, instead of an error.
        private: require authentication for every request. Without it, only changes of models require authentication,
            and only if `token_file` or `capath` is set.
        read_only: refuse all changes of models.
        verbose: log every request.
        limits: all other limits.
    """

    models_dir: str
    host: str = "127.0.0.1"
    port: int = 8083
    grpc_port: int = -1
    allowed_host: Sequence[str] = ()
    base_path: str = ""
    workers: int = 1
    max_upload: int = 1_000_000_000
    rate: float = 0.0
    timeout: float = 30.0
    token_file: str = ""
    cert: str = ""
    key: str = ""
    capath: str = ""
    allow_dn: tuple[str, ...] = ()
    gridmap: str = ""
    trust: str = ""
    model_memory: float = 2.0
    load_time: float = 60.0
    run_time: float = 10.0
    model_processes: int = 8
    allow_nan: bool = False
    private: bool = False
    read_only: bool = False
    verbose: bool = False
    limits: Limits = DEFAULTS

    def to_json(self) -> str:
        """Return the settings as JSON for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Read settings that `to_json` wrote."""
        content: dict[str, Any] = json.loads(text)
        return cls(**{**content, "limits": Limits(**content["limits"])})

    @property
    def base(self) -> str:
        """`base_path` with a leading slash and without a trailing one; "" if there is none."""
        base = self.base_path.strip("/")
        return f"/{base}" if base else ""
