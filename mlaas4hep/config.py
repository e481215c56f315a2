"""params.json: how to read and train. An unknown or mistyped key is an error that names the nearest known one.

    params = Params.load("params.json", epochs=5)

Which flags a script has is its own business; this is the file.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.input_files import read_json
from mlaas4hep.lists import split_list
from mlaas4hep.methods import parse_choice


def _as_names(value: Any) -> Any:
    """Take the original's spellings of a list: a comma list, "" for none."""
    if isinstance(value, str):
        return split_list(value)
    return value


TaskName = Literal["classification", "multilabel", "regression"]
"""Telling classes apart; labels of which an event may have several; estimating numbers."""

Names = Annotated[list[str], BeforeValidator(_as_names)]


class InputParams(BaseModel):
    """What one named input of a model is made of."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    branches: Names = Field(min_length=1, description="features: names, globs, /regexes/, @files, in this order")
    length: int | None = Field(None, ge=1, description="objects an event has room for; none: a vector")
    sort: str = Field("", description="the branch that orders the objects; -branch: the largest first")
    normalise: str | dict[str, str] | None = Field(None, description="as for all inputs, for this one alone")

    @field_validator("normalise")
    @classmethod
    def _methods_are_known(cls, choice: str | dict[str, str] | None) -> str | dict[str, str] | None:
        if choice is not None:
            parse_choice(choice)
        return choice

    @property
    def key(self) -> str:
        """The branch that orders the objects, or ""."""
        return self.sort.removeprefix("-")

    @property
    def descending(self) -> bool:
        """Whether the largest comes first."""
        return self.sort.startswith("-")


def _check_input_names(inputs: dict[str, InputParams]) -> dict[str, InputParams]:
    taken = {"x", "mask", "y", "weight", "inputs", "scores"}
    for name, one in inputs.items():
        if not name.isidentifier() or keyword.iskeyword(name) or name in taken or name.endswith("_mask"):
            raise ValueError(f"'{name}' cannot name an input: it is an argument of the model, as in jets or event")
        if one.sort and one.length is None:
            raise ValueError(f"input '{name}' is sorted, and has no length")
    return inputs


def parse_inputs(inputs: Mapping[str, Mapping[str, object] | InputParams]) -> dict[str, InputParams]:
    """Check named inputs as they stand in params.json.

    Raises:
        ConfigError: a name, a key or a value makes no sense.
    """
    return Params.parse({"inputs": dict(inputs)}, "inputs").inputs if inputs else {}


class Params(BaseModel):
    """The content of params.json; the first eleven keys are the original's and keep their meaning."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    nevts: int = Field(-1, ge=-1, description="events of each file; -1 all; 0 all, specs from the first 20,000 alone")
    shuffle: bool = Field(True, description="shuffle the training part anew every epoch")
    chunk_size: int = Field(10_000, ge=1, description="events that are mixed and shuffled at a time")
    epochs: int = Field(20, ge=1, description="passes over the training part, at most")
    batch_size: int = Field(256, ge=1, description="events a step of the optimiser sees")
    identifier: Names = Field(["run", "luminosityBlock", "event"], description="branches that name an event")
    branch: str = Field("Events", description="name of the tree")
    selected_branches: Names = Field([], description="features: names, globs, /regexes/, @files; empty: every number")
    exclude_branches: Names = Field([], description="what is left out, in the same forms")
    redirector: Names = Field([], description="where LFNs are asked for that are not on disk, in turn")
    hist: str = Field("", description="folder for histograms of every branch; empty: none")
    verbose: int = Field(0, ge=0, description="1: say more")

    name: str = Field("", pattern=r"^[A-Za-z0-9_]*$", description="the model's name on a server; empty: the folder's")
    normalise: str | dict[str, str] = Field("auto", description="a method of METHODS, or several; see `methods`")
    inputs: Annotated[dict[str, InputParams], AfterValidator(_check_input_names)] = Field(
        {}, description="named tensors in place of one vector: {name: {branches, length, sort, normalise}}"
    )
    task: TaskName = Field("classification", description="what labels are: classes, multilabel or numbers (regression)")
    weight: str = Field("", description="weight of an event: a branch or an expression; negative ones are kept")
    balance: Literal["none", "weights", "sampling"] = Field(
        "none", description="make classes count alike in training: by weights, or by repeating events of smaller ones"
    )
    mix: Literal["proportional", "balanced", "sequential"] = Field(
        "proportional",
        description="of files in a chunk: by their lengths, as many of each class and file, or one after the other",
    )
    kfold: int = Field(0, ge=0, le=100, description="models, of which each never sees one of so many parts; 0: one")
    split: list[float] | dict[str, str] = Field(
        [0.7, 0.15, 0.15], description="shares of training, validation, test part; or {valid: expression, test: ...}"
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="of everything random: the same seed gives the same batches and weights"
    )
    patience: int = Field(5, ge=1, description="epochs without a better validation loss before training stops")
    lr_patience: int = Field(
        0, ge=0, description="epochs without a better validation loss before the learning rate is lowered; 0: never"
    )
    lr_factor: float = Field(0.3, gt=0, lt=1, description="what the learning rate is multiplied by then")
    checkpoint: float = Field(10.0, ge=0, strict=False, description="minutes between checkpoints within an epoch")
    mixed_precision: bool = Field(
        True, description="let PyTorch compute in bfloat16 on a GPU, where that is precise enough"
    )
    fit_gb: float = Field(
        4.0, gt=0, strict=False, description="gigabytes (10^9) that models may take that need all events at once"
    )
    tfaas: bool = Field(True, description="write also what a stock TFaaS server takes: a SavedModel and a frozen graph")
    tensorboard: str = Field("", description="folder for TensorBoard's event files; empty: none")
    workers: int = Field(1, ge=1, description="threads that read ahead")
    cache: bool = Field(True, description="keep events on disk as they were made, so that later epochs need not read")
    cache_gb: float = Field(20.0, gt=0, strict=False, description="gigabytes (10^9) that this and other runs may keep")
    timeout: float = Field(60.0, gt=0, strict=False, description="seconds that a server may take to answer a request")
    retries: int = Field(4, ge=0, description="attempts to reach servers that fail, after 1, 2, 4, ... seconds")
    on_error: Literal["raise", "skip"] = Field("raise", description="skip: leave out clusters that are damaged")

    @field_validator("normalise")
    @classmethod
    def _methods_are_known(cls, choice: str | dict[str, str]) -> str | dict[str, str]:
        parse_choice(choice)
        return choice

    @field_validator("split")
    @classmethod
    def _shares_add_up(cls, shares: list[float] | dict[str, str]) -> list[float] | dict[str, str]:
        if isinstance(shares, dict):
            if set(shares) != {"valid", "test"}:
                raise ValueError('expressions for "valid" and "test" are needed; the rest is for training')
            return shares
        if not (len(shares) == 3 and min(shares) > 0 and abs(sum(shares) - 1) <= 1e-6):
            raise ValueError("three positive shares that add up to 1 are needed, as in [0.7, 0.15, 0.15]")
        return shares

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        if self.kfold == 1:
            raise ValueError("'kfold' is 1; it is 0 for one model, or at least 2")
        if self.kfold and isinstance(self.split, dict):
            raise ValueError("'kfold' divides the events itself; give no expressions in 'split'")
        return self

    @classmethod
    def load(cls, path: str, **overrides: Any) -> Self:
        """Read params.json; `overrides` replace what it says.

        Raises:
            FileUnreadable, ConfigError: it is missing, no JSON, or has a key or value that makes no sense.
        """
        content = read_json(path)
        if not isinstance(content, dict):
            raise ConfigError(f'{path} holds no JSON object, as in {{"epochs": 5}}')
        return cls.parse({**content, **overrides}, path)

    @classmethod
    def parse(cls, content: Mapping[str, Any], where: str = "params") -> Self:
        """Check parameters that are a dict already.

        Raises:
            ConfigError: a key or value makes no sense.
        """
        try:
            return cls.model_validate(dict(content))
        except ValidationError as error:
            raise _explain(error, where, cls.model_fields) from error


def _explain(error: ValidationError, where: str, known: Mapping[str, Any]) -> ConfigError:
    first = error.errors(include_url=False)[0]
    path = [str(step) for step in first["loc"]]
    if len(path) > 1 and path[0] == "inputs":  # the only key that holds keys
        where, path, known = f"input '{path[1]}' of {where}", path[2:], InputParams.model_fields
    key = path[0] if path else ""
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"{where} has an unknown key '{key}'", nearest=nearest(key, known), hint="known keys: " + ", ".join(known)
        )
    reason = first["msg"].removeprefix("Value error, ")
    if not key and first["type"] == "value_error":
        return ConfigError(f"{where}: {reason}")
    what = f"'{key}' in {where} cannot be {first['input']!r}" if key else f"{where} cannot be {first['input']!r}"
    if first["type"] == "missing":
        what = f"{where} has no '{key}'"
    return ConfigError(f"{what}: {reason[0].lower()}{reason[1:]}")
