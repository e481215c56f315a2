"""The server: trained models over HTTP, in the TFaaS protocol and the Open Inference Protocol.

    from mlaas4hep.serving import Settings, serve
    serve(Settings("tfaas_models", port=8083))

The client is in `mlaas4hep.client`. Neither imports the dependencies of the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlaas4hep.lazy_names import lazy_names

if TYPE_CHECKING:
    from mlaas4hep.serving.app import create_app
    from mlaas4hep.serving.server import serve
    from mlaas4hep.serving.settings import Settings

__all__ = ["Settings", "create_app", "serve"]

__getattr__ = lazy_names(
    __name__,
    {
        "Settings": "mlaas4hep.serving.settings",
        "create_app": "mlaas4hep.serving.app",
        "serve": "mlaas4hep.serving.server",
    },
)
