"""Options for reading and dividing the files of samples, from the parameters.

base = read_options(Params(nevts=1000), preproc=None, labels=(), derived={}, fileset=fileset)
input_files(fileset, base, Params(nevts=1000))      # each file with the options of its sample
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.expressions.cut import training_only_cut
from mlaas4hep.expressions.derived import DerivedColumns
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.expressions.preproc_json import JsonPreproc
from mlaas4hep.expressions.preproc_script import ScriptPreproc
from mlaas4hep.reader import DataReader, ReadOptions
from mlaas4hep.reader.inputs import patterns_of
from mlaas4hep.reader.selection import literal_names, match
from mlaas4hep.samples.fileset import Fileset
from mlaas4hep.samples.input_files import WEIGHT, weight_of
from mlaas4hep.samples.survey import Survey
from mlaas4hep.stream.labels import Labels, labels_of_files, read_labels
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
    if params.reweight is not None and (params.task != "classification" or wanted is None):
        raise ConfigError(
            "'reweight' needs classes", hint="set --labels, and train a classification, or leave 'reweight' out"
        )
    if params.balance != "none" and params.task != "classification":
        raise ConfigError(f"'balance' needs classes, but 'task' is '{params.task}'", hint="give a 'weight' instead")


def report_labels_as_features(params: Params, labels: Sequence[str]) -> None:
    """Report label branches that are selected as features, because labels are not used as features."""
    selected = match(dict.fromkeys(labels), params.selected_branches, "the labels", missing_allowed=True)
    if selected:
        console.notice(f"label branch '{selected[0]}' is selected as a feature, but labels are not used as features")


def check_parts_of_samples(params: Params, fileset: Fileset) -> None:
    """Raise ConfigError if a sample sets its part and folds are used, because folds divide the events."""
    for name, sample in zip(fileset.names, fileset.samples, strict=True):
        if sample.part and params.kfold:
            raise ConfigError(
                f"sample '{name}' has the part '{sample.part}', but 'kfold' divides all events into folds",
                hint="leave out 'part', or set 'kfold' to 0",
            )


def check_prediction_without_labels(reader: DataReader, labels: Sequence[str]) -> None:
    """Check that a bundle can be applied to data without the label branches.

    Raises:
        ConfigError: the preprocessing needs a label branch for a feature, or for a cut that is not training-only.
    """
    preproc = reader.options.preproc
    if isinstance(preproc, JsonPreproc):
        for cut in preproc.cuts:
            needed = sorted(preproc.sources(cut.expression.names).intersection(labels))
            if needed and not cut.training_only:
                raise ConfigError(
                    f"{cut.where}: the cut needs the label branch '{needed[0]}', which recorded data do not have",
                    hint=f"apply it only in training: {training_only_cut(cut.expression.text)}",
                )
    if preproc is not None and (needed := sorted(preproc.sources(reader.inputs.branches) & {*labels})):
        raise ConfigError(
            f"the preprocessing computes features from the label branch '{needed[0]}', which recorded data do not have",
            hint="leave these features out; cuts that need the label may be 'training_only' in a preproc.json",
        )


def report_weight_sources(reader: DataReader, weight: str) -> None:
    """Report features, and branches that cuts need, from which the weight is computed.

    Args:
        weight: expression of the weight; "": there is none.
    """
    options, preproc = reader.options, reader.options.preproc
    if not weight or isinstance(preproc, ScriptPreproc):
        return
    names = DerivedColumns({WEIGHT: weight}).names
    sources = {*names} if preproc is None else preproc.sources(names)
    chosen = literal_names(reader.available, [*options.selected_branches, *patterns_of(options.inputs)])
    features = reader.inputs.branches
    revealing = sorted(sources.intersection(features) - chosen)
    if revealing:
        console.notice(
            f"branch '{revealing[0]}' is a feature, and the weight '{weight}' is computed from it; if it reveals the"
            f' label, or if data do not have it, leave it out: "exclude_branches": ["{revealing[0]}"] in the params'
        )
    if not isinstance(preproc, JsonPreproc):
        return
    for cut in preproc.cuts:
        needed = sorted((preproc.sources(cut.expression.names) & sources) - features)
        if needed and not cut.training_only:
            console.notice(
                f"{cut.where}: the cut needs '{needed[0]}', from which the weight is computed, so --predict works"
                f" only for files that have it; to cut only in training: {training_only_cut(cut.expression.text)}"
            )


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


def files_as_labels(wanted: object, params: Params, fileset: Fileset) -> Labels | None:
    """Return the files as labels, if the events have no labels and the params say so."""
    chosen = wanted is None and params.labels == "files" and params.task == "classification"
    return labels_of_files(fileset.files) if chosen else None


def labels_of_readable(labels: Sequence[object], found: Survey) -> list[object]:
    """Return the labels of the files that can be read, given those of all files.

    Raise FileUnreadable if none of the files of a label can be read.
    """
    kept = [labels[index] for index in found.indices]
    for file in found.left_out:
        if labels[file.index] not in kept:
            raise FileUnreadable(f"none of the files with label '{labels[file.index]}' can be read: {file.reason}")
    return kept


def wanted_labels(labels: str | Sequence[object] | None, fileset: Fileset) -> str | list[object] | None:
    """Return one label per file, or the names or patterns of label branches; None if the events are not labelled."""
    wanted = read_labels(labels) if isinstance(labels, str) else labels
    if wanted is None:
        by_sample = fileset.labels()
        return None if by_sample is None else list(by_sample)
    return wanted if isinstance(wanted, str) else list(wanted)
