"""A client of TFaaS servers, ours and the stock one, and of servers of the Open Inference Protocol.

    client = TFaaSClient("http://localhost:8083")
    client.upload("bundle/upload.json")
    client.predict({"keys": ["MET_pt"], "values": [32.1], "model": "htautau"})      # [0.123]
    TFaaSClient("https://triton:8000", protocol="v2").predict({"values": [32.1]}, "htautau")

Every call raises a `ServiceError` of one line that says what to do: the server is down, slow, refuses, or is none.
What is asked again before that is said in `connection`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlaas4hep.client.bodies import FileBody, shown
from mlaas4hep.client.connection import Connection
from mlaas4hep.client.dialect import Dialect, TFaaSDialect, are_scores, ask
from mlaas4hep.client.events import Events, parse_events, read_events
from mlaas4hep.client.images import image_part
from mlaas4hep.client.multipart import FilePart, Multipart
from mlaas4hep.client.packing import packed
from mlaas4hep.client.upload_spec import read_upload_spec
from mlaas4hep.closing import Closing
from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError
from mlaas4hep.input_files import check_is_file
from mlaas4hep.serving.archive import GZIP_MAGIC

PROTOCOLS = ("tfaas", "v2")


class TFaaSClient(Closing):
    """One server, one session.

    Args:
        url: the server's, with its base path, as in "http://localhost:8083".
        protocol: "tfaas", or "v2" for the Open Inference Protocol, which can be asked, and takes no models.
        timeout: seconds to wait for a connection, and for each answer.
        retries: how often to ask again where that is safe.
        cert: client certificate for https: a file with certificate and key, or a pair of files.
        capath: the authorities that the server's certificate may come from: a file, or a folder with hashed names.
        token: goes along as `Authorization: Bearer`, over https or to this machine; see `token.find_token`.

    Attributes:
        url: the server's, without a password.

    Raises:
        ConfigError: the URL is none, the protocol is not known, or the token may not go there.
        FileUnreadable: a certificate is not there.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: str = "tfaas",
        timeout: tuple[float, float] = (5, 60),
        retries: int = 3,
        cert: str | tuple[str, str] | None = None,
        capath: str | None = None,
        token: str | None = None,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ConfigError(f"there is no protocol '{protocol}'", hint="there are " + ", ".join(PROTOCOLS))
        self._protocol = protocol
        self._connection = Connection(url, timeout=timeout, retries=retries, cert=cert, capath=capath, token=token)
        self.url = self._connection.shown_url
        self._dialect = self._speak()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def upload(self, spec_path: str | os.PathLike[str], *, in_base64: bool = False) -> str:
        """Send the model that an upload.json describes; one of the same name is replaced.

        Args:
            spec_path: upload.json.
            in_base64: send the model's file as text, for proxies that let no other bytes pass.

        Returns:
            The model's name.
        """
        self._check_tfaas("takes no models")
        spec = read_upload_spec(spec_path)
        files = {part: FilePart(path.name, path) for part, path in (("params", spec.params), ("labels", spec.labels))}
        files["model"] = FilePart(spec.model.name, spec.model, in_base64)
        files["op"] = FilePart(Path(spec.op).name, None)
        form = Multipart({"name": spec.name}, files)
        headers = {"Content-Type": form.content_type, **({"Content-Encoding": "base64"} if in_base64 else {})}
        with shown(form, f"sending {spec.name}") as body:
            self._connection.send("POST", "/upload", body, headers, once=True)
        return spec.name

    def bundle(self, path: str | os.PathLike[str]) -> None:
        """Send a model's folder, or a tar or tar.gz archive whose one folder is a model's."""
        self._check_tfaas("takes no models")
        path = Path(path)
        try:
            if path.is_dir():
                with packed(path) as (_, file):
                    self._send_archive(FileBody(file), path.name, is_gzip=True)
            else:
                check_is_file(path)
                with path.open("rb") as archive:
                    is_gzip = archive.read(len(GZIP_MAGIC)) == GZIP_MAGIC
                    self._send_archive(FileBody(archive), path.name, is_gzip)
        except MLaaS4HEPError:
            raise
        except OSError as error:
            raise FileUnreadable(f"cannot read {path}: {error.strerror}") from error

    def models(self) -> list[dict[str, Any]]:
        """Return the params of all models; with protocol v2 their names and states."""
        return self._dialect.models()

    def params(self, name: str) -> dict[str, Any]:
        """Return the params of one model; with protocol v2 its metadata."""
        return self._dialect.params(name)

    def keys(self, model: str) -> list[str]:
        """Return the names of a model's inputs, in order; none where the server does not say, as stock TFaaS."""
        return self._dialect.keys(model)

    def delete(self, name: str) -> None:
        """Delete a model; it is no error when there is none."""
        self._check_tfaas("deletes no models")
        form = Multipart({"model": name}, {})
        self._connection.send("DELETE", "/delete", form, {"Content-Type": form.content_type}, once=True)

    def status(self) -> dict[str, Any]:
        """Return what the server says of itself."""
        return self._dialect.status()

    def predict(self, events: str | os.PathLike[str] | Mapping[str, Any] | Events, model: str | None = None) -> Any:
        """Ask for the scores of one event or many; many go in few requests where the server takes them so.

        Args:
            events: a JSON file or what would be in it, {"keys": [...], "values": [...]}, see `events`; or what
                `EventFile` reads.
            model: the model's name; replaces the one that the events name.

        Returns:
            The model's outputs, as in [0.123], None for what is no number; where `values` is a list of rows, a list of
            such lists, in order.
        """
        if isinstance(events, Mapping):
            events = parse_events(events)
        elif not isinstance(events, Events):
            events = read_events(events)
        answers = ask(self._dialect, events, model or events.model)
        return answers if events.many else answers[0]

    def image(self, path: str | os.PathLike[str], model: str) -> Any:
        """Ask for the classes of a PNG or JPEG file.

        Returns:
            The server's answer: {"filename": ..., "labels": [{"label": ..., "probability": ...}, ...]}, the most
            probable first, or a list of probabilities.
        """
        self._check_tfaas("takes no images")
        form = Multipart({"model": model}, {"image": image_part(path)})
        response = self._connection.send("POST", "/image", form, {"Content-Type": form.content_type})
        answer = self._connection.parse("POST", "/image", response.content)
        if not are_scores(answer) and not _are_classes(answer):
            reason = "the answer has neither labels with their probabilities nor numbers"
            raise self._connection.refusal("POST", "/image", reason)
        return answer

    def _speak(self) -> Dialect:
        if self._protocol == "tfaas":
            return TFaaSDialect(self._connection)
        from mlaas4hep.client.oip import OpenInferenceDialect  # needs NumPy

        return OpenInferenceDialect(self._connection)

    def _check_tfaas(self, what: str) -> None:
        if self._protocol != "tfaas":
            raise ConfigError(
                f"the Open Inference Protocol {what}", hint="use --protocol=tfaas, as TFaaS and our server do"
            )

    def _send_archive(self, archive: FileBody, name: str, is_gzip: bool) -> None:
        headers = {"Content-Type": "application/octet-stream", **({"Content-Encoding": "gzip"} if is_gzip else {})}
        with shown(archive, f"sending {name}") as body:
            self._connection.send("POST", "/upload", body, headers, once=True)


def _are_classes(answer: Any) -> bool:
    """Say whether an answer to an image has the labels, each with a probability."""
    labels = answer.get("labels") if isinstance(answer, dict) else None
    if not isinstance(labels, list) or not all(isinstance(entry, dict) for entry in labels):
        return False
    return all(isinstance(entry.get("label"), str) and are_scores([entry.get("probability", "")]) for entry in labels)
