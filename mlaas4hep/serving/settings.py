"""What a server is told when it starts.

    settings = Settings(models_dir="tfaas_models", port=8083, workers=2)

A plain value, so that worker processes can be told the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """All that a person may choose.

    Attributes:
        models_dir: where the models are kept; made where it does not exist.
        host, port: address to listen on; port 0 takes a free one.
        allowed_host: names besides those of loopback that clients may send as `Host`; see `origins`.
        base_path: stands in front of every route, as in "/tfaas".
        workers: processes that answer.
        max_upload: the largest body that is taken, in bytes; an archive may unpack to four times that.
        rate: requests a second that one address may send to one worker; 0: any number.
        timeout: seconds in which a client must send a request's headers, and then go on sending or reading.
        token_file: tokens, one a line; who sends one is known.
        cert, key: of the server; with them it speaks TLS.
        capath: file or folder of the authorities whose client certificates are believed; who has one is known.
        allow_dn: names of the certificates that may change models, in slash form; none: all, if there is no `gridmap`.
        gridmap: grid-mapfile with more of these names.
        trust: files with the public keys of those whose signed models are trusted, separated by commas.
        model_memory: GB that a model may take that is not trusted.
        load_time, run_time: seconds in which such a model must be loaded, and must answer.
        model_processes: such models that may be in processes of their own at a time, for each worker.
        private: only who is known may ask; otherwise they alone may change models, where there is a way to be known.
        read_only: nobody may change models.
        verbose: log every request.
    """

    models_dir: str
    host: str = "127.0.0.1"
    port: int = 8083
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
    private: bool = False
    read_only: bool = False
    verbose: bool = False

    @property
    def base(self) -> str:
        """`base_path` with a slash in front and none behind; "" for none."""
        base = self.base_path.strip("/")
        return f"/{base}" if base else ""
