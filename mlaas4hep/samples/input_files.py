"""The files to read, each with the tree, the friends, the cut and the weight of its sample.

input_files(fileset, ReadOptions(), Params(weight="genWeight"))
"""

from __future__ import annotations

from mlaas4hep.config import Params
from mlaas4hep.config.samples import SampleParams
from mlaas4hep.reader import ReadOptions
from mlaas4hep.samples.fileset import Fileset
from mlaas4hep.samples.readers import InputFile

WEIGHT = "weight"
"""Name of the expression of the event weights."""


def weight_of(sample: SampleParams, params: Params) -> str:
    """Return the expression of the event weights of a sample before scaling; "": all are 1."""
    return "" if sample.is_data else sample.weight or params.weight


def input_files(fileset: Fileset, base: ReadOptions, params: Params | None = None) -> list[InputFile]:
    """Return the files, each with the tree, the friends, the cut and the weight of its sample.

    Args:
        base: options that all files have in common.
        params: with the default weight; None: no weights are read.
    """
    options: dict[tuple[int, str], ReadOptions] = {}  # files share them, which saves memory
    files = []
    for name, tree, index in zip(fileset.files, fileset.trees, fileset.sample_of, strict=True):
        if (index, tree) not in options:
            sample = fileset.samples[index]
            changes: dict[str, object] = {"cut": sample.cut}
            if tree or sample.branch:
                changes["branch"] = tree or sample.branch
            if sample.friends:
                changes["friends"] = sample.friends
            if sample.nevts is not None:
                changes["nevts"] = sample.nevts
            if params is not None and (weight := weight_of(sample, params)):
                changes["derived"] = {**base.derived, WEIGHT: weight}
            options[index, tree] = base.model_copy(update=changes)
        files.append(InputFile(name, options[index, tree], fileset.names[index]))
    return files
