"""Floor 5: trained models answer requests over HTTP, in the TFaaS protocol and the Open Inference Protocol.

    from mlaas4hep.serving import Settings, serve
    serve(Settings("tfaas_models", port=8083))

The client is in `client`. Neither loads what the other needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep.serving.server import create_app, serve
    from mlaas4hep.serving.settings import Settings

__all__ = ["Settings", "create_app", "serve"]

_HOMES = {
    "Settings": "mlaas4hep.serving.settings",
    "create_app": "mlaas4hep.serving.server",
    "serve": "mlaas4hep.serving.server",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
