"""The table of all targets, by name."""

from __future__ import annotations

from fuzz import (
    archive_targets,
    client_targets,
    description_targets,
    file_targets,
    grpc_targets,
    onnx_targets,
    server_targets,
)
from fuzz.checks import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (
        *(server_targets, grpc_targets, onnx_targets, archive_targets),
        *(description_targets, file_targets, client_targets),
    )
    for target in module.TARGETS
}
