"""Arguments of Keras 2, as in Adam(lr=0.001), which Keras 3 rejects.

with LegacyArguments() as legacy:
    import keras
    legacy.translate()
    keras.optimizers.Adam(lr=0.001)         # learning_rate=0.001, with a notice
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from mlaas4hep import console


class LegacyArguments:
    """Translates the arguments of Keras's optimizers during a block, from the first call of `translate`."""

    def __init__(self) -> None:
        self._optimizer: Any = None
        self._own_init: Callable[..., None] | None = None

    def __enter__(self) -> Self:
        self.translate()
        return self

    def translate(self) -> None:
        """Translate arguments from now on, if Keras is imported; otherwise do nothing."""
        optimizers = getattr(sys.modules.get("keras"), "optimizers", None)
        optimizer = getattr(optimizers, "Optimizer", None)  # None while Keras is being imported
        if optimizer is None or self._optimizer is not None:
            return
        self._optimizer, self._own_init = optimizer, vars(optimizer).get("__init__")
        original = optimizer.__init__

        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            if "lr" in kwargs:
                kwargs["learning_rate"] = kwargs.pop("lr")
                console.notice(
                    f"{type(self).__name__}(lr=...) is now written as {type(self).__name__}(learning_rate=...)"
                )
            original(self, *args, **kwargs)

        optimizer.__init__ = init

    def __exit__(self, *_: object) -> None:
        if self._optimizer is None:
            return
        if self._own_init is None:
            del self._optimizer.__init__
        else:
            self._optimizer.__init__ = self._own_init
        self._optimizer = None
