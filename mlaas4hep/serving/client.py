"""A client of TFaaS servers, ours and the stock one.

    client = TFaaSClient("http://localhost:8083")
    client.upload("bundle/upload.json")
    client.predict({"keys": ["MET_pt"], "values": [32.1], "model": "htautau"})      # [0.123]

Every call raises a `ServiceError` of one line that says what to do: the server is down, slow, refuses, or is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import requests

from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError, ServiceError
from mlaas4hep.serving.archive import GZIP_MAGIC
from mlaas4hep.serving.events import Events, parse_events, read_events
from mlaas4hep.serving.multipart import FilePart, Multipart
from mlaas4hep.serving.upload_spec import read_upload_spec

_LONGEST_REASON = 300


class TFaaSClient:
    """One server, one session.

    Args:
        url: the server's, with its base path, as in "http://localhost:8083".
        timeout: seconds to wait for a connection, and for each answer.
        cert: client certificate for https: a file with certificate and key, or a pair of files.
        capath: the authorities that the server's certificate may come from: a file, or a folder with hashed names.

    Raises:
        ConfigError: the URL is none.
        FileUnreadable: a certificate is not there.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: tuple[float, float] = (5, 60),
        cert: str | tuple[str, str] | None = None,
        capath: str | None = None,
    ) -> None:
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"'{url}' is no URL of a server", hint="one is http://localhost:8083")
        for file in [*([cert] if isinstance(cert, str) else cert or []), *([capath] if capath else [])]:
            if not os.path.exists(file):
                raise FileUnreadable(f"there is no certificate at {file}")
        self.url = url.rstrip("/")
        self._shown_url = self.url.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1)
        self._timeout = timeout
        self._cert = cert
        self._verify: str | bool = capath or True
        self._session = requests.Session()
        self._session.headers["Accept"] = "application/json"

    def __enter__(self) -> TFaaSClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def upload(self, spec_path: str | os.PathLike[str]) -> str:
        """Send the model that an upload.json describes; one of the same name is replaced.

        Returns:
            The model's name.
        """
        spec = read_upload_spec(spec_path)
        parts = {"params": spec.params, "model": spec.model, "labels": spec.labels}
        files = {part: FilePart(path.name, path) for part, path in parts.items()}
        files["op"] = FilePart(Path(spec.op).name, None)
        form = Multipart({"name": spec.name}, files)
        self._send("POST", "/upload", data=form, headers={"Content-Type": form.content_type})
        return spec.name

    def bundle(self, path: str | os.PathLike[str]) -> None:
        """Send a tar or tar.gz archive whose one folder is a model."""
        try:
            with open(path, "rb") as file:
                headers = {"Content-Type": "application/octet-stream"}
                if file.read(len(GZIP_MAGIC)) == GZIP_MAGIC:
                    headers["Content-Encoding"] = "gzip"
                file.seek(0)
                self._send("POST", "/upload", data=file, headers=headers)
        except MLaaS4HEPError:
            raise
        except OSError as error:
            raise FileUnreadable(f"cannot read {path}: {error.strerror}") from error

    def models(self) -> list[dict[str, Any]]:
        """Return the params of all models."""
        models = self._json("GET", "/models") or []  # the stock server says null for none
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise self._problem("GET", "/models", "the answer is no list of models", "is this a TFaaS server?")
        return models

    def params(self, name: str) -> dict[str, Any]:
        """Return the params of one model."""
        path = f"/params/{quote(name, safe='')}"
        params = self._json("GET", path)
        if not isinstance(params, dict):
            raise self._problem("GET", path, "the answer is no params.json", "is this a TFaaS server?")
        return params

    def delete(self, name: str) -> None:
        """Delete a model; it is no error when there is none."""
        form = Multipart({"model": name}, {})
        self._send("DELETE", "/delete", data=form, headers={"Content-Type": form.content_type})

    def status(self) -> Any:
        """Return what the server says of itself."""
        return self._json("GET", "/status")

    def predict(self, events: str | os.PathLike[str] | Mapping[str, Any] | Events, model: str | None = None) -> Any:
        """Ask for the scores of one event or many.

        Args:
            events: a JSON file or what would be in it, {"keys": [...], "values": [...]}, see `events`.
            model: the model's name; replaces the one that the events name.

        Returns:
            The server's answer, as in [0.123]; where `values` is a list of rows, a list of answers, in order.
        """
        if isinstance(events, Mapping):
            events = parse_events(events)
        elif not isinstance(events, Events):
            events = read_events(events)
        answers = []
        for number, body in enumerate(events.requests(model)):
            try:
                answers.append(self._json("POST", "/json", data=body, headers={"Content-Type": "application/json"}))
            except ServiceError as error:
                where = f"event {number}: " if events.many else ""
                raise ServiceError(where + error.what, hint=error.hint) from error
        return answers if events.many else answers[0]

    def _json(self, method: str, path: str, **request: Any) -> Any:
        response = self._send(method, path, **request)
        try:
            return json.loads(response.content)
        except ValueError as error:
            kind = "HTML" if response.content.lstrip()[:1] == b"<" else "no JSON"
            raise self._problem(
                method, path, f"the answer is {kind}", "is this a TFaaS server? check the URL and its base path"
            ) from error

    def _send(
        self,
        method: str,
        path: str,
        data: bytes | Iterable[bytes] | BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        try:
            response = self._session.request(
                method,
                self.url + path,
                data=data,
                headers=headers,
                timeout=self._timeout,
                cert=self._cert,
                verify=self._verify,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise self._problem(method, path, *_explain(error, *self._timeout)) from error
        if response.is_redirect:
            where = response.headers["Location"]
            raise self._problem(method, path, f"{response.status_code}: it moved to {where}", "give that URL")
        if not response.ok:
            raise self._problem(method, path, f"{response.status_code}: {_reason(response)}")
        return response

    def _problem(self, method: str, path: str, reason: str, hint: str = "") -> ServiceError:
        return ServiceError(f"{method} {self._shown_url}{path}: {reason}", hint=hint)


def _reason(response: requests.Response) -> str:
    """Return the server's own words, in one line; TFaaS says {"error": "..."}."""
    text = response.text
    try:
        content = json.loads(text)
        text = str(content["error"])
    except (ValueError, LookupError, TypeError):
        if text.lstrip()[:1] == "<":  # a page for people
            text = ""
    return " ".join(text.split())[:_LONGEST_REASON] or response.reason or "no reason given"


def _explain(error: requests.RequestException, connect: float, read: float) -> tuple[str, str]:
    """Return the reason and the advice for what requests raised; both timeouts in seconds."""
    failure, text = requests.exceptions, str(error)
    if isinstance(error, failure.SSLError):
        return _explain_tls(text)
    if isinstance(error, failure.ProxyError):
        return "the proxy does not pass it on", "check HTTPS_PROXY and HTTP_PROXY, or set NO_PROXY"
    if isinstance(error, failure.ConnectTimeout):
        return f"no connection within {connect:g} s", "check host and port"
    if isinstance(error, failure.Timeout):
        return f"no answer within {read:g} s", "the server is busy or hangs"
    if "timed out" in text:  # urllib3 sends under the first of the two timeouts
        return f"the server took nothing of the request for {connect:g} s", "it is busy or hangs"
    if "refused" in text:
        return "nobody listens there", "start a server: tfaas_server.py"
    if "resolve" in text:
        return "there is no host of that name", "check the URL"
    if isinstance(error, failure.ConnectionError):
        advice = "if it speaks TLS, the URL begins with https; else see its log"
        return "the server closed the connection without an answer", advice
    return " ".join(text.split())[:_LONGEST_REASON], ""


def _explain_tls(text: str) -> tuple[str, str]:
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate is of no authority that is trusted here", "name them: --capath or X509_CERT_DIR"
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "the server does not speak TLS", "the URL begins with http, not https"
    return "TLS fails", "a client certificate may be needed: --cert and --key, or X509_USER_PROXY"
