"""What a model that is not trusted may use.

ModelLimits(memory=2e9, load_time=60, run_time=10, processes=8)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelLimits:
    """Limits of the process of one model, and of the number of these processes.

    Attributes:
        memory: bytes, beyond what the process takes without a model.
        load_time: seconds to check and load the model.
        run_time: seconds of one run.
        processes: that one server process may have at a time.
    """

    memory: float = 2e9
    load_time: float = 60.0
    run_time: float = 10.0
    processes: int = 8
