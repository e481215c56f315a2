"""The parts of a bundle's training.json that scoring needs, validated.

read_description(Path("bundle")).columns      # ["MET_phi", "MET_pt"]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlaas4hep.config import InputParams, Params, TaskName, model_inputs
from mlaas4hep.errors import ConfigError
from mlaas4hep.input_files import read_json
from mlaas4hep.normalisation_choice import NormalisationChoice

PartName = Literal["", "train", "valid", "test"]


class TrainingFile(BaseModel):
    """A file of the training.

    Attributes:
        identity: identifier of its content, without its friends; "" in bundles of older versions.
        entries: number of entries that were read, before cuts.
        part: the part that all of its events belong to; "": the split decides.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    identity: str = ""
    entries: int = 0
    part: PartName = ""


class TrainingSample(BaseModel):
    """A sample of the training; `part` is the same for all of its files."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    part: PartName = ""


class BundleDescription(BaseModel):
    """Inputs and outputs of a trained model.

    Attributes:
        params: parameters with which the events were read.
        identifier: branches that identify an event.
        columns: names of the columns of the model's input, in order.
        classes: names of the classes, labels or targets.
        outputs: number of outputs per event.
        folds: number of cross-validation folds; 0: a single model.
        friend_features: branches of friend trees among the features, by alias of the friend.
        model: name of the file with the model in the format of its framework; "" if there is none.
        model_function: name of the function of the model file that returns the model.
        normalise: normalisation of the inputs.
        files: files of the training.
        samples: samples of the training that have names, by name.
        target_centre, target_spread: for regression, mean and standard deviation of each target.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    params: Params
    identifier: list[str]
    columns: list[str]
    classes: list[str]
    outputs: int = Field(ge=1, le=1_000_000)
    task: TaskName = "classification"
    folds: int = Field(0, ge=0, le=100)
    friend_features: dict[str, list[str]] = {}
    model: str = ""
    model_function: str = "model"
    normalise: NormalisationChoice = "auto"
    files: list[TrainingFile] = []
    samples: dict[str, TrainingSample] = {}
    target_centre: list[float] = []
    target_spread: list[float] = []

    @property
    def model_inputs(self) -> dict[str, InputParams]:
        """Parameters of the inputs of the model, without training-only inputs."""
        return model_inputs(self.params.inputs)


def read_description(bundle: Path) -> BundleDescription:
    """Read training.json of a bundle.

    Raises:
        FileUnreadable, ConfigError: the file is missing, or does not describe a model of events.
    """
    path = bundle / "training.json"
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("params"), dict):
        raise ConfigError(f"{bundle} is not a bundle", hint="--predict takes the folder of a trained model")
    try:
        return BundleDescription.model_validate({**content, "params": Params.parse(content["params"], str(path))})
    except ValidationError as error:
        raise _explain(error, path) from error


def _explain(error: ValidationError, path: Path) -> ConfigError:
    first: Any = error.errors(include_url=False)[0]
    key, reason = ".".join(map(str, first["loc"])), first["msg"]
    return ConfigError(
        f"{path} has an invalid value for '{key}': {reason[0].lower()}{reason[1:]}",
        hint="--predict takes a bundle written by workflow.py",
    )
