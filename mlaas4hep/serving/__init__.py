"""Floor 5: trained models answer requests over HTTP, in the TFaaS protocol.

    from mlaas4hep.serving import TFaaSClient
    TFaaSClient("http://localhost:8083").predict("input.json")

`client` talks to any TFaaS server, `server` is one. Neither loads what the other needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep.serving.client import TFaaSClient
    from mlaas4hep.serving.event_file import EventFile
    from mlaas4hep.serving.events import Events, read_events
    from mlaas4hep.serving.server import create_app, serve

__all__ = ["EventFile", "Events", "TFaaSClient", "create_app", "read_events", "serve"]

_HOMES = {
    "EventFile": "mlaas4hep.serving.event_file",
    "Events": "mlaas4hep.serving.events",
    "TFaaSClient": "mlaas4hep.serving.client",
    "create_app": "mlaas4hep.serving.server",
    "read_events": "mlaas4hep.serving.events",
    "serve": "mlaas4hep.serving.server",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
