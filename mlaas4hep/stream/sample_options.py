"""Options for reading and dividing the files of samples, from the parameters.

base = read_options(Params(nevts=1000), preproc=None, labels=(), derived={}, fileset=fileset)
input_files(fileset, base, Params(nevts=1000))      # each file with the options of its sample
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.expressions.derived import DerivedColumns
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.reader import ReadOptions
from mlaas4hep.reader.selection import match
from mlaas4hep.samples.fileset import Fileset
from mlaas4hep.samples.input_files import WEIGHT, weight_of
from mlaas4hep.stream.split import Split


def split_of(params: Params, fold: int = 0) -> Split:
    """Return the rule that divides the sample."""
    if isinstance(params.split, dict):
        return Split(expressions=params.split)
    return Split(params.split, folds=params.kfold, fold=fold)


def check_task(params: Params, wanted: str | Sequence[object] | None) -> None:
    """Raise ConfigError if the task needs labels, or cannot be balanced."""
    if params.task != "classification" and wanted is None:
        raise ConfigError(f"'task' is '{params.task}', which needs labels", hint="name branches with --labels")
    if params.balance != "none" and params.task != "classification":
        raise ConfigError(f"'balance' needs classes, but 'task' is '{params.task}'", hint="give a 'weight' instead")


def report_labels_as_features(params: Params, labels: Sequence[str]) -> None:
    """Report label branches that are selected as features, which they are not used as."""
    selected = match(dict.fromkeys(labels), params.selected_branches, "the labels", missing_allowed=True)
    if selected:
        console.notice(f"label branch '{selected[0]}' is selected as a feature, but labels are not used as features")


def check_inputs_without_labels(params: Params, labels: Sequence[str]) -> None:
    """Raise ConfigError if an input is defined by the name of a label branch."""
    for name, one in params.inputs.items():
        for label in sorted({*one.branches} & {*labels}):
            raise ConfigError(f"input '{name}' has the label branch '{label}'", hint="remove it from the input")


def read_options(
    params: Params, preproc: Preproc | None, labels: Sequence[str], derived: Mapping[str, str], fileset: Fileset
) -> ReadOptions:
    """Return the options for reading files that all samples have in common.

    Args:
        labels: branches that hold labels.
        derived: expressions to evaluate per event, by name.
    """
    exclude = list(params.exclude_branches)
    weights = {weight for sample in fileset.samples if (weight := weight_of(sample, params))}
    if not params.selected_branches:  # weights often reveal the class
        exclude += sorted({name for weight in weights for name in DerivedColumns({WEIGHT: weight}).names})
    files = len(fileset.files)
    return ReadOptions.parse(
        {
            **params.reading(),
            "exclude_branches": list(dict.fromkeys(exclude)),
            "exclude_missing": files > 1,
            "optional_branches": files > 1 and params.missing_branches != "error",
            "workers": max(params.workers // files, 1),
            "nan": 0.0,
            "preproc": preproc,
            "extra": labels,
            "derived": dict(derived),
        }
    )
