"""A client of TFaaS servers (ours and stock ones) and of servers of the Open Inference Protocol.

    client = TFaaSClient("http://localhost:8083")
    client.upload("bundle/upload.json")
    client.predict({"keys": ["MET_pt"], "values": [32.1], "model": "htautau"})      # [0.123]
    TFaaSClient("https://triton:8000", protocol="v2").predict({"values": [32.1]}, "htautau")

Every call raises a `ServiceError` if the server is down, slow, refuses the request, or is not a TFaaS server; its
one-line message says what to do. `connection` describes retries.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep.client.bodies import Body, FileBody, explained_reads, opened, with_progress
from mlaas4hep.client.connection import Connection
from mlaas4hep.client.events import Events, parse_events, read_events
from mlaas4hep.client.images import image_part
from mlaas4hep.client.multipart import FilePart, Multipart
from mlaas4hep.client.packing import packed_folder
from mlaas4hep.client.protocols import ServerProtocol, TFaaSProtocol, is_score_list, keys_from_metadata, predict_events
from mlaas4hep.client.server_kind import ServerKind
from mlaas4hep.client.stock_uploads import (
    NEW_NAME,
    REPLACE,
    archived_name,
    check_folder,
    check_name_is_free,
    stock_spec,
)
from mlaas4hep.client.upload_spec import read_upload_spec
from mlaas4hep.closeable import Closeable
from mlaas4hep.errors import ConfigError
from mlaas4hep.input_files import GZIP_MAGIC

if TYPE_CHECKING:
    from mlaas4hep.expressions.preproc import Preproc

PROTOCOLS = ("tfaas", "v2")

UPLOAD_TIMEOUT = 150.0
"""Seconds. Our server may take its --load-time (60 s) twice before it answers an upload: to wait for other checks, and
to load the model."""


class TFaaSClient(Closeable):
    """A session with one server.

    Args:
        url: the server's URL with its base path, as in "http://localhost:8083".
        protocol: "tfaas", or "v2" for the Open Inference Protocol, which supports predictions but no uploads.
        timeout: seconds to wait for a connection and for each response.
        upload_timeout: seconds to wait for the response to an upload, after the upload is sent.
        retries: maximum number of retries of requests that are safe to repeat.
        cert: client certificate for https: a file with certificate and key, or a pair of files.
        capath: certificates of trusted authorities: a file, or a folder with hashed names.
        output: with protocol "v2": name of the output to return; "": the first of real numbers in the model's metadata.
        inputs: with protocol "v2": inputs of the model, or the folder of its bundle, for servers that do not report
            them; see `local_metadata`.
        token: sent as `Authorization: Bearer`, only over https or to this machine; see `token.find_token`.

    Attributes:
        url: the URL without a password.

    Raises:
        ConfigError: the URL, the protocol or the token is invalid, or the URL does not allow a token.
        FileUnreadable: a certificate is missing or unreadable.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: str = "tfaas",
        timeout: tuple[float, float] = (5, 60),
        upload_timeout: float = UPLOAD_TIMEOUT,
        retries: int = 3,
        cert: str | tuple[str, str] | None = None,
        capath: str | None = None,
        token: str | None = None,
        output: str = "",
        inputs: Sequence[str] = (),
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ConfigError(f"unknown protocol '{protocol}'", hint="available: " + ", ".join(PROTOCOLS))
        self._is_tfaas = protocol == "tfaas"
        if output and self._is_tfaas:
            raise ConfigError("TFaaS models have a single output", hint="use 'output' only with the protocol v2")
        if inputs and self._is_tfaas:
            raise ConfigError("TFaaS models have a single input", hint="use 'input' only with the protocol v2")
        self._upload_timeout = upload_timeout
        self._connection = Connection(url, timeout=timeout, retries=retries, cert=cert, capath=capath, token=token)
        self.url = self._connection.display_url
        self._protocol: ServerProtocol = TFaaSProtocol(self._connection)
        if not self._is_tfaas:
            from mlaas4hep.client.oip.local_metadata import local_metadata
            from mlaas4hep.client.oip.protocol import OpenInferenceProtocol  # imports NumPy, which TFaaS does not need

            self._protocol = OpenInferenceProtocol(self._connection, output, local_metadata(inputs) if inputs else {})

    def close(self) -> None:
        """Close the session."""
        self._connection.close()

    def upload(self, spec_path: str | os.PathLike[str], *, in_base64: bool = False, replace: bool = False) -> str:
        """Upload the model that an upload.json describes; it replaces a model of the same name.

        A stock server gets the frozen graph of a bundle, and cannot replace a model that it has loaded.

        Args:
            spec_path: path of upload.json.
            in_base64: send the model file as text, for proxies that do not forward binary data.
            replace: delete a model of the same name from a stock server first.

        Returns:
            The model's name.

        Raises:
            ConfigError: the model is not valid, or a stock server cannot run it.
            ServiceError: the upload failed, or a stock server has a model of this name, and `replace` is not set.
        """
        self._require_tfaas("does not support uploads")
        spec = read_upload_spec(spec_path)
        if self._is_stock():
            spec = stock_spec(Path(spec_path), spec)
            if replace:
                self.delete(spec.name)
            else:
                check_name_is_free(self.models, spec.name, REPLACE)
        files = {part: FilePart(path.name, path) for part, path in (("params", spec.params), ("labels", spec.labels))}
        files["model"] = FilePart(spec.model.name, spec.model, in_base64)
        files["op"] = FilePart(Path(spec.op).name, None)
        form = Multipart({"name": spec.name}, files)
        headers = {"Content-Type": form.content_type, **({"Content-Encoding": "base64"} if in_base64 else {})}
        with with_progress(form, f"sending {spec.name}") as body:
            self._send_upload(body, headers)
        return spec.name

    def bundle(self, path: str | os.PathLike[str]) -> None:
        """Upload a model folder, or a tar or tar.gz archive of one model folder.

        Raises:
            ConfigError: the folder is not valid, or a stock server cannot run its model.
            ServiceError: the upload failed, or a stock server has a model of this name.
        """
        self._require_tfaas("does not support uploads")
        path = Path(path)
        with explained_reads(path), packed_folder(path) if path.is_dir() else opened(path) as file:
            if self._is_stock():
                if path.is_dir():
                    check_folder(path)
                check_name_is_free(self.models, archived_name(file), NEW_NAME)
            archive = FileBody(file)
            file.seek(0)
            is_gzip = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            headers = {"Content-Type": "application/octet-stream", **({"Content-Encoding": "gzip"} if is_gzip else {})}
            with with_progress(archive, f"sending {path.name}") as body:
                self._send_upload(body, headers)

    def models(self) -> list[dict[str, Any]]:
        """Return the params of all models; with protocol v2 their names, versions and states."""
        return self._protocol.models()

    def params(self, name: str) -> dict[str, Any]:
        """Return the params of one model; with protocol v2 its metadata."""
        return self._protocol.params(name)

    def keys(self, model: str) -> list[str]:
        """Return the names of a model's inputs, in order; empty if the server does not report them, as stock TFaaS."""
        return keys_from_metadata(self._protocol.metadata(model))

    def preproc(self, model: str) -> Preproc | None:
        """Return the preprocessing of a model, for `EventFile.read`; None if there is none, or the server reports none.

        Raises:
            ConfigError: it is Python code, which is not run, or it is invalid.
        """
        from mlaas4hep.client.preprocessing import preproc_from_metadata  # imports NumPy, which TFaaS does not need

        return preproc_from_metadata(self._protocol.metadata(model), model)

    def delete(self, name: str) -> None:
        """Delete a model. Deleting a model that does not exist is not an error."""
        self._require_tfaas("does not support deletion")
        form = Multipart({"model": name}, {})
        self._connection.send("DELETE", "/delete", form, {"Content-Type": form.content_type}, repeatable=False)

    def status(self) -> dict[str, Any]:
        """Return the status of the server."""
        return self._protocol.status()

    def predict(self, events: str | os.PathLike[str] | Mapping[str, Any] | Events, model: str | None = None) -> Any:
        """Return the scores of one or more events. Several events share a request if the server supports it.

        Args:
            events: path of a JSON file, or its content {"keys": [...], "values": [...]}, see `events`; or the events
                that `EventFile` reads.
            model: the model's name; takes precedence over the model that the events name.

        Returns:
            The model's outputs for the event, as in [0.123], None for values that are not finite. If "values" is a list
            of rows, a list with the outputs of each row, in order. None instead of outputs: the event fails the cuts of
            the model's preprocessing.
        """
        if isinstance(events, Mapping):
            events = parse_events(events)
        elif not isinstance(events, Events):
            events = read_events(events)
        scores = predict_events(self._protocol, events, model or events.model)
        return scores if events.is_batch else scores[0]

    def image(self, path: str | os.PathLike[str], model: str) -> Any:
        """Classify a PNG or JPEG file.

        Returns:
            {"filename": ..., "labels": [{"label": ..., "probability": ...}, ...]}, with the most probable label first,
            or a list of probabilities, depending on the server.
        """
        self._require_tfaas("does not support images")
        form = Multipart({"model": model}, {"image": image_part(path)})
        response = self._connection.send("POST", "/image", form, {"Content-Type": form.content_type})
        answer = self._connection.parse("POST", "/image", response.content)
        if not is_score_list(answer) and not _has_class_probabilities(answer):
            reason = "the response has neither labels with probabilities nor numbers"
            raise self._connection.unexpected("POST", "/image", reason)
        return answer

    def _is_stock(self) -> bool:
        """Return whether the server is a stock TFaaS."""
        return isinstance(self._protocol, TFaaSProtocol) and self._protocol.kind() is ServerKind.STOCK

    def _require_tfaas(self, reason: str) -> None:
        if not self._is_tfaas:
            hint = "use --protocol=tfaas if the server supports it"
            raise ConfigError(f"the Open Inference Protocol {reason}", hint=hint)

    def _send_upload(self, body: Body, headers: dict[str, str]) -> None:
        self._connection.send("POST", "/upload", body, headers, repeatable=False, response_timeout=self._upload_timeout)


def _has_class_probabilities(answer: Any) -> bool:
    """Return whether the response to an image has labels with probabilities."""
    labels = answer.get("labels") if isinstance(answer, dict) else None
    return isinstance(labels, list) and all(
        isinstance(one, dict) and isinstance(one.get("label"), str) and is_score_list([one.get("probability", "")])
        for one in labels
    )
