"""The inputs of a model: one vector of all features, or several named tensors.

    inputs = Inputs.of(specs, {"jets": InputParams(branches=["Jet_pt", "Jet_eta"], length=8, sort="-Jet_pt"),
                               "event": InputParams(branches=["MET_pt"])})
    inputs.shapes                                   # {"jets": (8, 2), "event": (1,)}
    parts, dropped = inputs.make(values, events)
    padded(parts, fill=0.0)          # "jets" (n, 8, 2), "jets_mask" (n, 8), "event" (n, 1), "event_mask" (n, 1)

If no inputs are named, there is one input "x", the vector of all branches, with its "mask". In any case, `layout`
describes a vector of the raw values of all branches in use. Clients send such vectors to a server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mlaas4hep.config import InputParams
from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Columns, Kind
from mlaas4hep.normalisation_choice import NormalisationChoice
from mlaas4hep.reader.layout import VectorLayout
from mlaas4hep.reader.normalise import Normalisation
from mlaas4hep.reader.objects import ObjectLayout, Objects, make_objects
from mlaas4hep.reader.selection import match
from mlaas4hep.reader.vectors import vectorise
from mlaas4hep.specs.specs import Specs

VECTOR = "x"
"""Name of the input if no inputs are named."""

Arrays = dict[str, np.ndarray]
"""Inputs and their masks by name."""

UnpaddedInputs = dict[str, np.ndarray | Objects]
"""Inputs and their masks by name, with objects that are not padded yet."""


@dataclass(frozen=True)
class Input:
    """One input tensor of a model, and how it is computed."""

    name: str
    layout: VectorLayout | ObjectLayout
    normalisation: Normalisation

    @property
    def mask(self) -> str:
        """The name of its mask."""
        return mask_of(self.name)

    @property
    def branches(self) -> list[str]:
        """The branches that it is computed from, including the one that sorts objects."""
        return self.layout.needed if isinstance(self.layout, ObjectLayout) else list(self.layout.branches)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape per event: (features,), (objects, features) or (objects, parts, features)."""
        return self.layout.shape if isinstance(self.layout, ObjectLayout) else (self.layout.width,)

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """Shape per event of its mask."""
        return mask_shape_of(self.shape)

    def make(self, values: Columns, events: int, fill: float) -> tuple[UnpaddedInputs, dict[str, int]]:
        """Compute the tensor for some events; see `Inputs.make`."""
        if isinstance(self.layout, ObjectLayout):
            objects, dropped = make_objects(values, events, self.layout, self.normalisation, fill)
            return {self.name: objects}, {self.name: dropped} if dropped else {}
        x, mask, truncated = vectorise(values, events, self.layout, self.normalisation, fill)
        return {self.name: x, self.mask: mask}, truncated


@dataclass(frozen=True)
class Inputs:
    """All inputs of a model; see the module's docstring.

    Attributes:
        members: the inputs of the model, in the order of the parameters.
        layout: layout of a vector with the raw values of all branches that the model uses.
        training_only: inputs that only losses and training steps get.
    """

    members: tuple[Input, ...]
    layout: VectorLayout
    training_only: tuple[Input, ...] = ()

    @classmethod
    def of(
        cls, specs: Specs, params: Mapping[str, InputParams] | None = None, normalise: NormalisationChoice = "auto"
    ) -> Inputs:
        """Create the inputs for the branches of some specs.

        Args:
            params: parameters of the inputs by name; without any, there is one vector of all branches.
            normalise: normalisation of inputs that do not define their own.

        Raises:
            ConfigError: an input cannot be computed from its branches.
            BranchNotFound: the specs lack a branch.
        """
        if not params:
            layout = VectorLayout.of(specs)
            return cls((Input(VECTOR, layout, Normalisation.of(specs, layout, normalise)),), layout)
        every = {name: _input(name, specs, one, normalise) for name, one in params.items()}
        members = tuple(one for name, one in every.items() if not params[name].training_only)
        used = {branch for one in members for branch in one.branches}
        layout = VectorLayout.of(Specs({name: specs.branches[name] for name in sorted(used)}))
        return cls(members, layout, tuple(one for name, one in every.items() if params[name].training_only))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Per-event shape of each input of the model, without masks."""
        return {one.name: one.shape for one in self.members}

    @property
    def branches(self) -> set[str]:
        """The branches that the model uses."""
        return {branch for one in self.members for branch in one.branches}

    @property
    def width(self) -> int:
        """Number of values per event in all inputs, without masks."""
        return sum(math.prod(one.shape) for one in (*self.members, *self.training_only))

    def of_model(self) -> Inputs:
        """Return the inputs without training-only ones."""
        return replace(self, training_only=())

    def make(self, values: Columns, events: int, fill: float = 0.0) -> tuple[UnpaddedInputs, dict[str, int]]:
        """Compute the inputs, training-only ones included, with objects that are not padded yet; see `padded`.

        Args:
            values: every branch, for the same events.
            fill: value of missing values.

        Returns:
            By name, `Objects`, or vectors, float32 (events, features), with bool masks of the same shape; and the
            numbers of dropped values by branch, and of dropped objects by input.
        """
        arrays: UnpaddedInputs = {}
        dropped: dict[str, int] = {}
        for one in (*self.members, *self.training_only):
            tensors, counts = one.make(values, events, fill)
            arrays |= tensors
            dropped |= counts
        return arrays, dropped

    def raw_vectors(self, values: Columns, events: int) -> tuple[UnpaddedInputs, dict[str, int]]:
        """Compute vectors of raw values with NaN for missing ones, as described by `layout`, as the input "x"."""
        x, mask, truncated = vectorise(values, events, self.layout, None, np.nan)
        return {VECTOR: x, mask_of(VECTOR): mask}, truncated


def padded(parts: Mapping[str, np.ndarray | Objects], fill: float) -> Arrays:
    """Return the arrays with objects padded to float32 (events, *shape, features), and masks bool (events, *shape)."""
    arrays: Arrays = {}
    for name, part in parts.items():
        if isinstance(part, Objects):
            arrays[name], arrays[mask_of(name)] = part.pad(fill=fill)
        else:
            arrays[name] = part
    return arrays


def mask_of(name: str) -> str:
    """Return the name of the mask of an input."""
    return "mask" if name == VECTOR else f"{name}_mask"


def mask_shape_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the per-event shape of the mask of an input; the features of an object share its mask."""
    return shape[:-1] or shape


def branches_of(
    params: Mapping[str, InputParams], columns: Mapping[str, object], where: str, optional: bool = False
) -> list[str]:
    """Return the columns that inputs are computed from.

    Raise BranchNotFound if the file, `where`, lacks one, unless it is `optional`.
    """
    return match(columns, patterns_of(params), where, optional)


def patterns_of(params: Mapping[str, InputParams]) -> list[str]:
    """Return the patterns of the branches that inputs are computed from."""
    return [pattern for one in params.values() for pattern in (*one.branches, *([one.key] if one.key else []))]


def _input(name: str, specs: Specs, params: InputParams, normalise: NormalisationChoice) -> Input:
    where = f"the branches that input '{name}' can use"
    left_out = {branch: None for branch in specs.missing if branch not in specs.branches}
    branches = [
        branch
        for pattern in params.branches
        for branch in match(specs.branches, [pattern], where, bool(match(left_out, [pattern], where, True)))
    ]
    if not branches:
        what = f"some of the files lack all branches of input '{name}'"
        raise ConfigError(what, hint='set "missing_branches" to "nan" in the params, or leave the input out')
    branches = list(dict.fromkeys(branches))  # in the order of the patterns, without duplicates
    choice = params.normalise if params.normalise is not None else normalise
    layout: VectorLayout | ObjectLayout
    if params.length is None:
        layout = VectorLayout.of(Specs({branch: specs.branches[branch] for branch in branches}))
    else:
        _check_lists(name, branches, params, specs)
        layout = ObjectLayout(name, tuple(branches), params.length, params.key, params.descending, params.inner_length)
    return Input(name, layout, Normalisation.of(specs, layout, choice))


def _check_lists(name: str, branches: Sequence[str], params: InputParams, specs: Specs) -> None:
    for branch in branches:
        kind = specs.branches[branch].kind
        if kind is Kind.FLAT:
            raise ConfigError(
                f"input '{name}' has a length, but '{branch}' is one number per event",
                hint="move it to an input without a length",
            )
        if kind is Kind.NESTED and params.inner_length is None:
            raise ConfigError(
                f"input '{name}' has no inner_length, but '{branch}' has lists of lists",
                hint='set "inner_length" to the maximum length of the inner lists, or "nested" to "flatten"',
            )
        if kind is not Kind.NESTED and params.inner_length is not None:
            raise ConfigError(
                f"input '{name}' has an inner_length, but '{branch}' does not have lists of lists",
                hint='move it to an input without "inner_length", or set "nested" to "pad" if it has',
            )
    if params.key and specs.branches[params.key].kind is Kind.NESTED:
        raise ConfigError(
            f"input '{name}' cannot be sorted by '{params.key}', which has lists of lists",
            hint="sort by a branch with one number per object",
        )
