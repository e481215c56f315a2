"""Parameters of optimisation: learning rate, schedule, gradient clipping and accumulation, averaged weights.

FILE_SETTINGS           # the parameters that a model file may also set
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from mlaas4hep.config.reading import FilesParams

ScheduleName = Literal["constant", "cosine", "one_cycle", "flat_decay"]

FILE_SETTINGS = ("lr_schedule", "lr_warmup", "clip_norm", "accumulate", "ema")
"""Parameters that a model file may define as variables; values in the params take precedence."""


class OptimizationParams(FilesParams):
    """Parameters of gradient descent; they do not affect estimators."""

    epochs: int = Field(20, ge=1, description="maximum number of epochs")
    batch_size: int = Field(256, ge=1, description="events per batch")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="learning rate of the default optimizer; null: 0.001; an error if the model file defines an"
        " `optimizer`",
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        description="weight decay of the default optimizer, applied to weight matrices and kernels, but not to biases"
        " and normalisation layers; null: 0.01 for all weights (PyTorch's AdamW) or none (Keras's Adam)",
    )
    lr_schedule: ScheduleName = Field(
        "constant",
        description="learning rate schedule: constant: no change; cosine: falls to 0; one_cycle: rises from 1/25 to the"
        " maximum in 30% of the steps, then falls to 4e-6 of it; flat_decay: constant for 70% of the steps, then falls"
        " exponentially to 1%",
    )
    lr_warmup: float = Field(
        0.0, ge=0, description="number of epochs, such as 0.5, in which the learning rate first rises linearly"
    )
    clip_norm: float = Field(
        0.0, ge=0, description="PyTorch: maximum norm of the gradient of all weights; 0: no clipping"
    )
    accumulate: int = Field(
        1, ge=1, description="PyTorch: number of batches whose gradients are accumulated for each step"
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="PyTorch: decay, such as 0.999, of an exponential moving average of the weights; the average is"
        " validated and saved instead of the weights; 0: no average",
    )
    lr_patience: int = Field(
        0,
        ge=0,
        description="the learning rate is reduced after this number of epochs without a better validation loss;"
        " 0: never",
    )
    lr_factor: float = Field(0.3, gt=0, lt=1, description="factor by which the learning rate is reduced")

    @property
    def has_schedule(self) -> bool:
        """Whether the learning rate depends on the step."""
        return self.lr_schedule != "constant" or self.lr_warmup > 0

    @model_validator(mode="after")
    def _schedules_agree(self) -> Self:
        if self.lr_schedule == "one_cycle" and self.lr_warmup:
            raise ValueError("'lr_schedule' is one_cycle, which has its own warm-up; leave out 'lr_warmup'")
        if self.has_schedule and self.lr_patience:
            raise ValueError("'lr_patience' cannot be combined with 'lr_schedule' or 'lr_warmup'; leave one out")
        if self.lr_warmup >= self.epochs:
            raise ValueError(f"'lr_warmup' is {self.lr_warmup:g}, but 'epochs' is {self.epochs}; reduce 'lr_warmup'")
        return self
