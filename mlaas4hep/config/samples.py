"""Samples files: which files belong to which sample, and how the events of a sample are labelled and weighted.

    samples = load_samples("samples.json")
    samples["ggH"].files, samples["ggH"].xsec          # {"ggH_0.root": "", "ggH_1.root": "Events"}, 48.6

A samples file is JSON or YAML. Besides its own form, it may be a fileset of coffea or a specification for RDataFrame's
FromSpec. `samples.fileset` expands the names of the files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import Self

from mlaas4hep.config.checked import CheckedModel
from mlaas4hep.config.friends import Friends
from mlaas4hep.errors import ConfigError
from mlaas4hep.input_files import check_is_file, read_json, read_yaml
from mlaas4hep.unique_names import first_repeated

YAML_ENDINGS = (".yaml", ".yml")

_MAX_SIZE = 50_000_000
"""Size in bytes up to which a file whose name ends in .json can be a samples file."""

_SPECIFICATION_KEYS = {"samples", "friends", "range"}
"""Keys of a specification for RDataFrame's FromSpec."""

_METADATA = {
    "xsec": "xsec", "xsecs": "xsec", "sumw": "sumw", "sumws": "sumw", "weight": "weight", "is_data": "is_data",
    "label": "label", "sample_category": "label",
}  # fmt: skip
"""Keys of the metadata in a specification for FromSpec that have a meaning here, and what they correspond to."""


def _file_trees(value: Any) -> Any:
    """Convert the forms of `files` to {name: tree}; the tree is "" if it is not given."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        repeated = first_repeated(value)
        if repeated is not None:
            raise ValueError(f"the file '{repeated}' is listed twice")
        return dict.fromkeys(value, "")
    if isinstance(value, Mapping) and value:
        return {name: _tree_of(tree) for name, tree in value.items()}
    raise ValueError('give a file, a list of files, or an object {"file": "tree"}')


def _tree_of(value: Any) -> Any:
    """Return the tree in a value of a fileset of coffea: "tree", {"object_path": "tree", ...} or None."""
    if isinstance(value, Mapping):
        value = value.get("object_path")
    return "" if value is None else value


def _label_text(value: Any) -> Any:
    """Convert a number to text, because labels are strings."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


class SampleParams(CheckedModel):
    """One sample of a samples file."""

    files: Annotated[dict[str, str], BeforeValidator(_file_trees)] = Field(
        description="paths, globs, LFNs or URLs, also with the tree: `file.root:tree`; one, a list, or an object"
        ' `{"file": "tree"}`',
    )
    label: Annotated[str, BeforeValidator(_label_text)] = Field(
        "", description="class or target of the events; empty: name of the sample"
    )
    branch: str = Field("", description="name of the tree; empty: `branch` of the params")
    friends: Friends = Field({}, description="friend trees; empty: `friends` of the params")
    weight: str = Field("", description="event weight, before scaling; empty: `weight` of the params")
    xsec: float | None = Field(
        None,
        gt=0,
        description="cross section, in pb; weights are multiplied by `lumi` of the params × `xsec` / `sumw`",
    )
    sumw: float | str = Field(
        "",
        description="sum of the weights of all events before cuts: a number; an expression that is summed over them;"
        ' or `"TREE:EXPRESSION"`, which is summed over another tree of the same files; empty: the sum of the weights',
    )
    is_data: bool = Field(False, description="whether the events are recorded data, whose weight is 1")
    cut: str = Field("", description="condition that events of this sample must pass, after the preprocessing")
    part: Literal["", "train", "valid", "test"] = Field(
        "", description="set to which all events of this sample belong; empty: `split` of the params assigns them"
    )
    nevts: int | None = Field(None, ge=-1, description="maximum number of events per file; null: `nevts` of the params")
    metadata: dict[str, Any] = Field({}, description="anything else; copied to the bundle")
    reasons: dict[str, str] = Field(
        {}, description="written to `skipped.json`: why each file was left out; otherwise ignored"
    )

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        if self.is_data:
            for key in ("weight", "xsec", "sumw"):
                if getattr(self, key):
                    raise ValueError(f"events of data have weight 1, but '{key}' is given")
        if self.sumw != "" and self.xsec is None:
            raise ValueError("'sumw' has no effect without 'xsec'")
        if isinstance(self.sumw, float) and not self.sumw > 0:
            raise ValueError(f"'sumw' must be positive, not {self.sumw}")
        return self


def load_samples(path: str) -> dict[str, SampleParams]:
    """Return the samples in a samples file, by name, in the order of the file.

    Raises:
        FileUnreadable: the file cannot be read.
        ConfigError: it is not a samples file, or a key or value is invalid.
    """
    read = read_yaml if path.lower().endswith(YAML_ENDINGS) else read_json
    return parse_samples(read(path), path)


def parse_samples(content: Any, where: str = "samples") -> dict[str, SampleParams]:
    """Return the samples by name, given the content of a samples file; see `load_samples`."""
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{where} contains no samples", hint='write {"ggH": {"files": ["ggH.root"]}, ...}')
    is_specification = _is_specification(content)
    if is_specification:
        for key, hint in (
            ("range", "limit the events with 'nevts'"),
            ("friends", "name them in 'friends' of the params"),
        ):
            if content.get(key):
                raise ConfigError(f"{where}: '{key}' is not supported", hint=hint)
        content = content["samples"]
    samples = {}
    for name, one in content.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{where}: the name of a sample cannot be {name!r}", hint="put it in quotes")
        entry = _plain_entry(one)
        if is_specification:
            entry = _from_specification(entry, f"sample '{name}' of {where}")
        samples[name] = SampleParams.parse(entry, f"sample '{name}' of {where}")
    return samples


def _plain_entry(one: Any) -> dict[str, Any]:
    """Return the entry of a sample without the keys that only coffea needs."""
    entry = {key: value for key, value in one.items() if key != "form"} if isinstance(one, Mapping) else {"files": one}
    if "treename" in entry:
        entry["branch"] = entry.pop("treename")
    if entry.get("metadata", {}) is None:
        del entry["metadata"]
    return entry


def is_samples_file(path: str) -> bool:
    """Return whether a file on disk is a samples file, rather than data in JSON: by its suffix and its content."""
    if path.lower().endswith(YAML_ENDINGS):
        check_is_file(path)
        return os.path.exists(path)
    if not (path.lower().endswith(".json") and os.path.isfile(path) and os.path.getsize(path) <= _MAX_SIZE):
        return False
    text = Path(path).read_text(encoding="utf-8-sig", errors="replace").lstrip()
    if not text.startswith("{"):
        return False
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        return error.msg != "Extra data" and re.search("[\"']files[\"']", text) is not None  # extra data: rows of data
    except (ValueError, RecursionError):
        return False
    values = content.values()
    has_samples = any(isinstance(one, Mapping) and "files" in one for one in values)
    return has_samples or _is_specification(content) or (bool(values) and all(map(_is_list_of_files, values)))


def _is_list_of_files(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _is_specification(content: Mapping[str, Any]) -> bool:
    """Return whether a content is a specification for FromSpec, rather than one of a sample called "samples"."""
    samples = content.get("samples")
    return (
        content.keys() <= _SPECIFICATION_KEYS
        and isinstance(samples, Mapping)
        and any(isinstance(one, Mapping) and "files" in one for one in samples.values())
    )


def _from_specification(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """Convert a sample of a specification for FromSpec; raise ConfigError if its files and trees do not match."""
    trees = _as_list(entry.pop("trees", []), f"'trees' of {where}")
    if trees:
        files = _as_list(entry.get("files"), f"'files' of {where}")
        if len(trees) not in (1, len(files)):
            raise ConfigError(f"{where} has {len(files)} files and {len(trees)} trees", hint="give one tree per file")
        pairs = list(zip(files, trees * len(files) if len(trees) == 1 else trees, strict=True))
        repeated = first_repeated(pairs)
        if repeated is not None:
            raise ConfigError(f"{where}: the file '{repeated[0]}' is listed twice", hint="name the file once")
        several = len(set(files)) < len(files)  # two trees of a file
        entry["files"] = {f"{file}:{tree}": "" for file, tree in pairs} if several else dict(pairs)
    metadata = entry.get("metadata", {})
    known = metadata if isinstance(metadata, Mapping) else {}  # other types are errors of `SampleParams`
    return {**{_METADATA[key]: value for key, value in known.items() if key in _METADATA}, **entry}


def _as_list(value: Any, what: str) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{what} cannot be {value!r}", hint="give a list of names")
    return names
