"""Floor 5: events and models go to a server over HTTP, in the TFaaS protocol or the Open Inference Protocol.

    from mlaas4hep.client import TFaaSClient
    TFaaSClient("http://localhost:8083").predict("input.json")

The server is in `serving`. Neither loads what the other needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep.client.event_file import EventFile
    from mlaas4hep.client.events import Events, read_events
    from mlaas4hep.client.tfaas import TFaaSClient

__all__ = ["EventFile", "Events", "TFaaSClient", "read_events"]

_HOMES = {
    "EventFile": "mlaas4hep.client.event_file",
    "Events": "mlaas4hep.client.events",
    "TFaaSClient": "mlaas4hep.client.tfaas",
    "read_events": "mlaas4hep.client.events",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
