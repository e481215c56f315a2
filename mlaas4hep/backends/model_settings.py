"""Names that a model file defines: settings that override the params, and names that have no effect.

params = with_file_settings(file, params)
for line in unused_names(file, backend.reads):
    console.notice(line)
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from mlaas4hep.backends.model_file import DEFINITIONS, ModelFile
from mlaas4hep.config import Params
from mlaas4hep.config.optimization import FILE_SETTINGS, OptimizationParams
from mlaas4hep.errors import ConfigError, nearest

_OTHER_NAMES = {
    "callbacks": "callbacks are not supported; see 'patience', 'lr_patience' and 'tensorboard' of the params",
    "criterion": "closest: 'loss'",
    "lr_scheduler": "closest: 'scheduler'",
    "lr": "closest: 'learning_rate' of the params",
    "opt": "closest: 'optimizer'",
    "optim": "closest: 'optimizer'",
    "train_step": "closest: 'training_step'",
}
"""Names that other frameworks use, and what to use instead."""


def with_file_settings(file: ModelFile, params: Params) -> Params:
    """Return the parameters, in which values that are not set explicitly are those of the model file.

    Raises:
        ConfigError: a setting is invalid.
    """
    settings = {name: value for name, value in file.settings.items() if name not in params.model_fields_set}
    if not settings:
        return params
    given = {name: getattr(params, name) for name in params.model_fields_set & {*OptimizationParams.model_fields}}
    valid = Params.parse({**given, **settings}, str(file.path))
    return params.model_copy(update={name: getattr(valid, name) for name in settings})


def check_default_optimizer(file: ModelFile, params: Params, replaced: bool) -> None:
    """Raise ConfigError if the params have settings of the default optimizer, which the model file replaces."""
    for name in ("learning_rate", "weight_decay"):
        if replaced and getattr(params, name) is not None:
            raise ConfigError(
                f"{file.path} defines its own optimizer, so that '{name}' in the params has no effect",
                hint="set it in the model file, or leave out the optimizer there",
            )


def check_estimator(file: ModelFile, params: Params) -> None:
    """Raise ConfigError if the params or an estimator's model file have settings of gradient descent."""
    for name in ("learning_rate", "weight_decay", *FILE_SETTINGS):
        if getattr(params, name) != Params.model_fields[name].default:
            raise ConfigError(
                f"'{name}' has no effect on the estimator of {file.path}",
                hint="leave it out; settings of the estimator are arguments of its constructor",
            )


def unused_names(file: ModelFile, reads: Collection[str], framework: str) -> Iterator[str]:
    """Yield messages about definitions of a model file that have no effect.

    Args:
        reads: names of definitions that the backend uses.
        framework: its name.
    """
    known = [*DEFINITIONS, *FILE_SETTINGS]
    for name in known:
        is_defined = name in file.settings or getattr(file, name, None) is not None
        if is_defined and name not in reads:
            yield f"'{name}' of {file.path} has no effect on this {framework} model"
    for name in sorted(_unread(file.source) - {*known, "model", file.function}):
        own_params = name in Params.model_fields
        matches = [one for one in known if one in name.lower()] or nearest(name, known, 1)
        if name in _OTHER_NAMES:
            yield f"'{name}' of {file.path} is not used; {_OTHER_NAMES[name]}"
        elif own_params:
            yield f"'{name}' of {file.path} is not used; set it in the params"
        elif matches:
            yield f"'{name}' of {file.path} is not used; closest: '{matches[0]}'"


def _unread(source: str) -> set[str]:
    """Return the names that the code of a file defines at top level, but does not use."""
    with suppress(SyntaxError, ValueError):
        tree = ast.parse(source)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        return {name for node in tree.body for name in _defined(node) if not name.startswith("_")} - used
    return set()


def _defined(node: Any) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    for target in targets:
        yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))
