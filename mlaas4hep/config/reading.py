"""The options for reading, which scripts, params.json and `DataReader` share.

options = ReadParams.parse({"branch": "Events", "selected_branches": "Jet_*,MET_pt", "workers": 2})

Each field is the single definition of its key, keyword, flag (see `flags`), default, bounds and documentation.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mlaas4hep.config.checked import CheckedModel, Names
from mlaas4hep.config.flags import Option
from mlaas4hep.config.friends import Friends
from mlaas4hep.list_lengths import parse_max_length
from mlaas4hep.normalisation_choice import parse_normalisation

IDENTIFIER = ("run", "luminosityBlock", "event")
"""Branches that identify an event in CMS formats, the default of `identifier`; a file may lack some of them."""


ByBranch = dict[str, str | dict[str, float | list[float]]]
"""Normalisation by branch: a method, or fixed constants."""


def _check_normalise(choice: str | ByBranch | None) -> str | ByBranch | None:
    if choice is not None:
        parse_normalisation(choice)
    return choice


def _check_max_length(choice: int | str | dict[str, int | str] | None) -> int | str | dict[str, int | str] | None:
    parse_max_length(choice)
    return choice


class InputParams(CheckedModel):
    """One named input of a model, as in {"branches": ["Jet_pt", "Jet_eta"], "length": 8, "sort": "-Jet_pt"}."""

    branches: Names = Field(min_length=1, description="features, in this order: names, globs, `/regexes/`, `@files`")
    length: int | None = Field(None, ge=1, description="maximum number of objects per event; null: a flat vector")
    inner_length: int | None = Field(
        None,
        ge=1,
        description="maximum number of parts per object, such as hits of a track; for lists of lists (`nested: pad`)",
    )
    sort: str = Field("", description="branch that orders the objects; `-branch`: largest first; empty: as in the file")
    normalise: Annotated[str | ByBranch | None, AfterValidator(_check_normalise)] = Field(
        None, description="normalisation of this input; null: as `normalise` of all inputs"
    )

    training_only: bool = Field(
        False,
        description="pass the input to `loss` and `training_step`, but not to the model; predictions do not need it",
    )

    @property
    def key(self) -> str:
        """The branch that orders the objects, or ""."""
        return self.sort.removeprefix("-")

    @property
    def descending(self) -> bool:
        """Whether objects are sorted from the largest value to the smallest."""
        return self.sort.startswith("-")


def _check_inputs(inputs: dict[str, InputParams]) -> dict[str, InputParams]:
    reserved = {"x", "mask", "y", "weight", "inputs", "scores"}
    for name, one in inputs.items():
        if not name.isidentifier() or keyword.iskeyword(name) or name in reserved or name.endswith("_mask"):
            raise ValueError(f"'{name}' cannot name an input; it becomes an argument of the model, as in jets or event")
        if one.sort and one.length is None:
            raise ValueError(f"input '{name}' has 'sort' but no 'length'; only objects can be sorted")
        if one.inner_length is not None and one.length is None:
            raise ValueError(f"input '{name}' has 'inner_length' but no 'length'; set the maximum number of objects")
    if inputs and not model_inputs(inputs):
        raise ValueError("all inputs are 'training_only'; define at least one input of the model")
    return inputs


def model_inputs(inputs: Mapping[str, InputParams]) -> dict[str, InputParams]:
    """Return the inputs of the model, without training-only inputs."""
    return {name: one for name, one in inputs.items() if not one.training_only}


class ReadParams(CheckedModel):
    """Options for reading events from a file."""

    branch: str = Field(
        "Events",
        description="name of the tree, with its folders, and with its cycle if it is not the newest: `Events;1`; for"
        " files whose name does not contain a tree (`data.root:Events`)",
    )
    friends: Annotated[Friends, Option(metavar="LIST", default="none")] = Field(
        {},
        description="friend trees, whose columns are read as `alias.column`: `file.root:tree`, or `:tree` for a tree of"
        " the same file; with an index, an object",
    )
    identifier: Annotated[Names, Option(metavar="LIST")] = Field(
        list(IDENTIFIER), description="branches that identify an event; never used as features"
    )
    selected_branches: Annotated[Names, Option("--branches", "LIST", "all numeric branches")] = Field(
        [], description="features: names, globs (`Jet_*`), `/regular expressions/`, `@file` with one name per line"
    )
    exclude_branches: Annotated[Names, Option(metavar="LIST", default="none")] = Field(
        [], description="branches to leave out, in the same forms; takes precedence over the selected branches"
    )
    inputs: Annotated[dict[str, InputParams], AfterValidator(_check_inputs), Option("")] = Field(
        {}, description="named input tensors instead of a single vector, see below"
    )
    nevts: int = Field(
        -1,
        ge=-1,
        description="maximum number of events per file; -1: all; 0: all, but the first pass reads only 20,000",
    )
    chunk_size: int = Field(10_000, ge=1, description="events per chunk")
    normalise: Annotated[str | ByBranch, AfterValidator(_check_normalise), Option(metavar="HOW")] = Field(
        "auto", description="auto, standard, minmax or none; per branch: `auto,Jet_*=standard`"
    )
    nested: Annotated[Literal["exclude", "flatten", "pad"], Option(metavar="HOW")] = Field(
        "exclude",
        description="lists of lists: exclude: leave these branches out; flatten: one list per event; pad: columns"
        " `branch_i_j` for value j of list i",
    )
    max_length: Annotated[
        int | str | dict[str, int | str] | None,
        AfterValidator(_check_max_length),
        Option(metavar="N", default="all values"),
    ] = Field(
        None,
        description="maximum number of values per list in a vector; per branch: `20,Jet_*=10`;"
        " for lists of lists: `hits=8x30`",
    )
    redirector: Annotated[Names, Option(metavar="LIST", default="none")] = Field(
        [], description="XRootD servers to try, in this order, for LFNs that are not on disk: `root://host[:port]`"
    )
    workers: int = Field(1, ge=1, description="number of threads that read")
    timeout: float = Field(60.0, gt=0, description="seconds to wait for a server's response to a request")
    retries: int = Field(
        4,
        ge=0,
        description="number of retries if all locations of a file have failed, after pauses of 1, 2, 4, ... seconds",
    )
    on_error: Annotated[Literal["raise", "skip"], Option(metavar="HOW")] = Field(
        "raise",
        description="raise: stop at damaged data; skip: skip damaged clusters, and files that cannot be opened, and"
        " report them",
    )


class FilesParams(ReadParams):
    """Options for reading events from several files together."""

    max_bad: float = Field(
        0.01,
        ge=0,
        description="with `on_error=skip`: maximum number of files to leave out; below 1: fraction of the files, but at"
        " least one file; 0: none",
    )
    missing_branches: Annotated[Literal["error", "common", "nan"], Option(metavar="HOW")] = Field(
        "error",
        description="branches that some of the files lack: error: stop; common: leave them out; nan: their values are"
        " missing (NaN, mask False) in these files",
    )

    def reading(self) -> dict[str, object]:
        """Return the options for reading alone, by name."""
        return {name: getattr(self, name) for name in FilesParams.model_fields}


def parse_inputs(inputs: Mapping[str, Mapping[str, object] | InputParams]) -> dict[str, InputParams]:
    """Validate named inputs as params.json has them; raise ConfigError if a name, key or value is invalid."""
    return ReadParams.parse({"inputs": dict(inputs)}, "inputs").inputs
