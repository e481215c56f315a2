"""What a model is given: one vector of everything, or several named tensors.

    inputs = Inputs.of(specs, {"jets": InputParams(branches=["Jet_pt", "Jet_eta"], length=8, sort="-Jet_pt"),
                               "event": InputParams(branches=["MET_pt"])})
    inputs.shapes                                   # {"jets": (8, 2), "event": (1,)}
    parts, lost = inputs.make(values, events)
    padded(parts, fill=0.0)          # "jets" (n, 8, 2), "jets_mask" (n, 8), "event" (n, 1), "event_mask" (n, 1)

Without names there is one input, "x", the vector of all branches, and its "mask". Whatever the inputs are, `layout` is
one row of raw numbers that holds all that they are made of: what a server is sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Columns, Kind
from mlaas4hep.methods import Choice
from mlaas4hep.reader.layout import VectorLayout
from mlaas4hep.reader.normalise import Normalisation
from mlaas4hep.reader.objects import ObjectLayout, Objects, make_objects
from mlaas4hep.reader.selection import match
from mlaas4hep.reader.specs import Specs
from mlaas4hep.reader.vectors import vectorise

if TYPE_CHECKING:
    from mlaas4hep.config import InputParams

VECTOR = "x"
"""The input that there is where none is named."""

Arrays = dict[str, np.ndarray]
"""Inputs and their masks by name."""

Parts = dict[str, np.ndarray | Objects]
"""The same, where the objects of all events do not have their room yet."""


@dataclass(frozen=True)
class Input:
    """One tensor that a model is given, and how it is made."""

    name: str
    layout: VectorLayout | ObjectLayout
    normalisation: Normalisation

    @property
    def mask(self) -> str:
        """The name of its mask."""
        return mask_of(self.name)

    @property
    def branches(self) -> list[str]:
        """What it is made of, a branch that orders it included."""
        return self.layout.needed if isinstance(self.layout, ObjectLayout) else list(self.layout.branches)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one event: (features,), or (objects, features)."""
        return self.layout.shape if isinstance(self.layout, ObjectLayout) else (self.layout.width,)

    def make(self, values: Columns, events: int, fill: float) -> tuple[Parts, dict[str, int]]:
        """Return the objects, or the vectors and their mask, by name; and by input or branch, how much did not fit."""
        if isinstance(self.layout, ObjectLayout):
            objects, count = make_objects(values, events, self.layout, self.normalisation, fill)
            return {self.name: objects}, {self.name: count} if count else {}
        x, mask, lost = vectorise(values, events, self.layout, self.normalisation, fill)
        return {self.name: x, self.mask: mask}, lost


@dataclass(frozen=True)
class Inputs:
    """Everything that a model is given; see the module's docstring.

    Attributes:
        members: the inputs, in the order in which they were named.
        layout: of the raw numbers that all of them are made of.
    """

    members: tuple[Input, ...]
    layout: VectorLayout

    @classmethod
    def of(cls, specs: Specs, params: Mapping[str, InputParams] | None = None, normalise: Choice = "auto") -> Inputs:
        """Lay out the branches of some specs.

        Args:
            params: what the inputs are called and made of; none: a vector of all branches.
            normalise: how, where an input does not say it for itself.

        Raises:
            ConfigError: an input cannot be made of its branches.
            BranchNotFound: the specs lack a branch.
        """
        if not params:
            layout = VectorLayout.of(specs)
            return cls((Input(VECTOR, layout, Normalisation.of(specs, layout, normalise)),), layout)
        members = tuple(_input(name, specs, one, normalise) for name, one in params.items())
        used = {branch for one in members for branch in one.branches}
        return cls(members, VectorLayout.of(Specs({name: specs.branches[name] for name in sorted(used)})))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one event, by name, without masks."""
        return {one.name: one.shape for one in self.members}

    @property
    def width(self) -> int:
        """Numbers an event, masks not counted."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def make(self, values: Columns, events: int, fill: float = 0.0) -> tuple[Parts, dict[str, int]]:
        """Make the inputs of some events; `padded` makes tensors of objects.

        Args:
            values: every branch, over the same events.
            fill: what stands where there is no value.

        Returns:
            by name, objects, or vectors, float32 (events, features), and bool masks of the same shape; and how much did
            not fit: values by branch, or objects by input.
        """
        arrays: Parts = {}
        lost: dict[str, int] = {}
        for one in self.members:
            mine, cut = one.make(values, events, fill)
            arrays |= mine
            lost |= cut
        return arrays, lost

    def rows(self, values: Columns, events: int) -> tuple[Parts, dict[str, int]]:
        """Make rows of raw numbers as `layout` has them, NaN where there is none, as if they were the only input."""
        x, mask, lost = vectorise(values, events, self.layout, None, np.nan)
        return {VECTOR: x, mask_of(VECTOR): mask}, lost


def padded(parts: Mapping[str, np.ndarray | Objects], fill: float) -> Arrays:
    """Return tensors: float32 (events, length, features) and bool (events, length) for objects."""
    arrays: Arrays = {}
    for name, part in parts.items():
        if isinstance(part, Objects):
            arrays[name], arrays[mask_of(name)] = part.pad(fill=fill)
        else:
            arrays[name] = part
    return arrays


def mask_of(name: str) -> str:
    """Return what the mask of an input is called."""
    return "mask" if name == VECTOR else f"{name}_mask"


def branches_of(params: Mapping[str, InputParams], columns: Mapping[str, object], where: str) -> list[str]:
    """Return the columns that some inputs are made of.

    Raises:
        BranchNotFound: a column is missing.
    """
    wanted = [pattern for one in params.values() for pattern in (*one.branches, *([one.key] if one.key else []))]
    return match(columns, wanted, where)


def _input(name: str, specs: Specs, params: InputParams, normalise: Choice) -> Input:
    where = f"what input '{name}' can be made of"
    branches = [branch for pattern in params.branches for branch in match(specs.branches, [pattern], where)]
    branches = list(dict.fromkeys(branches))  # in the order asked for, each once
    choice = params.normalise if params.normalise is not None else normalise
    layout: VectorLayout | ObjectLayout
    if params.length is None:
        layout = VectorLayout.of(Specs({branch: specs.branches[branch] for branch in branches}))
    else:
        _check_lists(name, branches, specs)
        layout = ObjectLayout(name, tuple(branches), params.length, params.key, params.descending)
    return Input(name, layout, Normalisation.of(specs, layout, choice))


def _check_lists(name: str, branches: Sequence[str], specs: Specs) -> None:
    for branch in branches:
        if specs.branches[branch].kind is Kind.FLAT:
            raise ConfigError(
                f"input '{name}' has a length, but '{branch}' is one number an event",
                hint="put it into an input without length",
            )
