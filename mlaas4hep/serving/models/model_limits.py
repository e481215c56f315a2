"""The limits of untrusted models.

ModelLimits(memory=2e9, load_time=60, run_time=10, processes=8)
"""

from __future__ import annotations

from dataclasses import dataclass

from mlaas4hep.protocol.limits import DEFAULTS, Limits


@dataclass(frozen=True)
class ModelLimits:
    """Limits of the process of one model, and of the number of these processes.

    Attributes:
        memory: bytes in addition to what the process uses without a model.
        load_time: seconds to check and load the model.
        run_time: seconds for one run.
        processes: maximum number of processes per server process.
        general: limits of inputs, of scores, and of the bounds of graphs.
    """

    memory: float = 2e9
    load_time: float = 60.0
    run_time: float = 10.0
    processes: int = 8
    general: Limits = DEFAULTS
