"""The client of TFaaS servers and of servers of the Open Inference Protocol.

    from mlaas4hep.client import TFaaSClient
    TFaaSClient("http://localhost:8083").predict("input.json")

The server is in `serving`. Importing one does not import the dependencies of the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlaas4hep.lazy_names import lazy_names

if TYPE_CHECKING:
    from mlaas4hep.client.event_file import EventFile
    from mlaas4hep.client.events import Events, read_events
    from mlaas4hep.client.tfaas import TFaaSClient

__all__ = ["EventFile", "Events", "TFaaSClient", "read_events"]

__getattr__ = lazy_names(
    __name__,
    {
        "EventFile": "mlaas4hep.client.event_file",
        "Events": "mlaas4hep.client.events",
        "TFaaSClient": "mlaas4hep.client.tfaas",
        "read_events": "mlaas4hep.client.events",
    },
)
