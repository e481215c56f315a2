"""The OpenAPI 3.1 description of the server, served at GET /openapi.json.

    description("/tfaas")["paths"]["/json"]["post"]

The description is `openapi.json` in this folder. `tests/test_openapi.py` compares it with the routes and responses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlaas4hep.version import __version__

_FILE = Path(__file__).with_name("openapi.json")


def description(base_path: str = "") -> dict[str, Any]:
    """Return the description.

    Args:
        base_path: prefix of every route, as in "/tfaas".
    """
    content: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    content["info"]["version"] = __version__
    content["servers"] = [{"url": base_path or "/"}]
    return content
