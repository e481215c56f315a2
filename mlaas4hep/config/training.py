"""params.json: how to read and train. An unknown or mistyped key is an error that names the nearest known one.

params = Params.load("params.json", epochs=5)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from mlaas4hep.config.checked import Names
from mlaas4hep.config.optimization import OptimizationParams
from mlaas4hep.config.reweighting import ReweightParams
from mlaas4hep.errors import ConfigError
from mlaas4hep.input_files import read_json
from mlaas4hep.unique_names import RepeatedKey, unique_keys

TaskName = Literal["classification", "multilabel", "regression"]
"""One class per event; any number of labels per event; numeric targets."""


class Params(OptimizationParams):
    """The content of params.json."""

    shuffle: bool = Field(True, description="shuffle the training set anew in every epoch")
    hist: str = Field("", description="folder for histograms of every branch; empty: none")
    verbose: int = Field(0, ge=0, description="1: print more, as `--verbose` does")
    name: str = Field(
        "", pattern=r"^[A-Za-z0-9_]*$", description="name of the model on a server; empty: name of the bundle's folder"
    )
    task: TaskName = Field(
        "classification", description="multilabel: an event may have several labels; regression: labels are numbers"
    )
    labels: Literal["shuffled", "files"] = Field(
        "shuffled",
        description="task for events without labels: shuffled: distinguish events from copies with shuffled branches;"
        " files: distinguish the files, which is impossible if their distributions are equal",
    )
    weight: str = Field(
        "",
        description="event weight: a branch or an expression; may be negative; its branches are features only if"
        " `selected_branches` or `inputs` name them",
    )
    observers: Names = Field(
        [],
        description="branches with one number per event that `--predict` copies to the files of scores: branches of"
        " the files, of friends, or new ones; patterns are not supported",
    )
    lumi: float | None = Field(
        None,
        gt=0,
        description="integrated luminosity, in 1/fb, to which samples with a cross section (`xsec` in a samples file)"
        " are scaled",
    )
    split: list[float] | dict[str, str] = Field(
        [0.7, 0.15, 0.15],
        description="fractions of the training, validation and test sets, to which a hash of the event's identifier"
        ' assigns it; or expressions: `{"valid": "event % 5 == 0", "test": "event % 5 == 1"}`',
    )
    kfold: int = Field(
        0,
        ge=0,
        le=100,
        description="number of cross-validation folds: each model is tested on the fold that it was not trained on,"
        " and `split` divides the rest; 0: a single model",
    )
    balance: Literal["none", "weights", "sampling"] = Field(
        "none", description="give classes equal weight in training, by event weights or by oversampling small classes"
    )
    reweight: ReweightParams | None = Field(
        None, description="change the distributions of variables in the training set, see below; null: no change"
    )
    mix: Literal["proportional", "balanced", "sequential"] = Field(
        "proportional",
        description="how files are interleaved: proportional: by number of events; balanced: equally many events of"
        " each class, and of each file of a class, while they last; sequential: one file after another",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="random seed: the same seed gives the same batches and weights")
    model_args: dict[str, Any] = Field(
        default_factory=dict, description='keyword arguments of the function of the model file, as in `{"width": 128}`'
    )
    patience: int = Field(
        5, ge=1, description="training stops after this number of epochs without a better validation loss"
    )
    checkpoint: float = Field(
        10.0, ge=0, description="minutes between checkpoints within an epoch; another one is saved after each epoch"
    )
    mixed_precision: bool = Field(
        True, description="train PyTorch models on a GPU in mixed precision (bfloat16); weights and scores stay float32"
    )
    fit_gb: float = Field(
        4.0,
        gt=0,
        description="memory limit, in GB (10^9 bytes), of the training set of models that need all events at once;"
        " XGBoost keeps a larger one on disk",
    )
    threads: int = Field(
        0,
        ge=0,
        le=512,
        description="number of threads of numerical libraries; 0: the value of `OMP_NUM_THREADS` or, if it is not set,"
        " the number of CPUs that the process may use (affinity and `cpu.max` of its control group)",
    )
    tfaas: bool = Field(
        True,
        description="if TensorFlow is installed, also write a SavedModel and a frozen graph for stock TFaaS servers",
    )
    trial_export: bool = Field(
        True,
        description="also export the model to ONNX before the first epoch, to find problems before a long training",
    )
    tensorboard: str = Field("", description="folder for TensorBoard logs; empty: none")
    cache: bool = Field(True, description="cache decoded events on disk, for later epochs and runs")
    cache_gb: float = Field(
        20.0, gt=0, description="maximum size, in GB (10^9 bytes), of the cache, shared by all runs"
    )

    @field_validator("split")
    @classmethod
    def _shares_add_up(cls, shares: list[float] | dict[str, str]) -> list[float] | dict[str, str]:
        if isinstance(shares, dict):
            if set(shares) != {"valid", "test"}:
                raise ValueError('give expressions for "valid" and "test"; all other events are for training')
            return shares
        if not (len(shares) == 3 and min(shares) > 0 and abs(sum(shares) - 1) <= 1e-6):
            raise ValueError("three positive shares that add up to 1 are needed, as in [0.7, 0.15, 0.15]")
        return shares

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        if self.kfold == 1:
            raise ValueError("'kfold' is 1; give 0 for a single model, or at least 2 folds")
        if self.reweight is not None and self.balance != "none":
            raise ValueError("'reweight' already balances the classes; set 'balance' to 'none'")
        if self.kfold and isinstance(self.split, dict):
            raise ValueError("'split' has expressions, which 'kfold' does not support; give fractions")
        return self

    @field_validator("model_args")
    @classmethod
    def _are_json(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(arguments, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"values must be valid JSON: {error}") from error
        return arguments

    @property
    def samples_events(self) -> bool:
        """Whether training events are repeated or left out, so that epochs differ in length."""
        return self.balance == "sampling" or (self.reweight is not None and self.reweight.method == "sampling")

    @classmethod
    def load(cls, path: str, **overrides: Any) -> Self:
        """Read params.json; `overrides` take precedence over its values.

        Raises:
            FileUnreadable: the file is missing or cannot be read.
            ConfigError: the file is not JSON, a key is unknown, or a value is invalid.
        """
        content = read_json(path)
        if not isinstance(content, dict):
            raise ConfigError(f'{path} must contain a JSON object, as in {{"epochs": 5}}')
        return cls.parse({**content, **overrides}, path)


def parse_params(params: Params | Mapping[str, Any] | None) -> Params:
    """Return validated parameters; None stands for the defaults."""
    return params if isinstance(params, Params) else Params.parse(params or {})


def parse_model_args(text: str) -> dict[str, Any]:
    """Return the arguments of a model function from a JSON object on the command line.

    Raises:
        ConfigError: the text is not a JSON object.
    """
    try:
        arguments = json.loads(text, object_pairs_hook=unique_keys)
    except (RepeatedKey, RecursionError, ValueError) as error:
        raise ConfigError(f"--model-args is not JSON: {error}", hint=_MODEL_ARGS) from error
    if not isinstance(arguments, dict):
        raise ConfigError(f"--model-args is {text}, not a JSON object", hint=_MODEL_ARGS)
    return arguments


_MODEL_ARGS = """write it as in --model-args='{"width": 128}'"""
