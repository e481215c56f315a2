"""Cuts: conditions on events.

cut = Cut("cut", Expression.parse("nMuon >= 2 & MET_pt > 20"))
cut.passes(source.read(cut.expression.names, 0, 1000))        # bool (1000,)
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from mlaas4hep.errors import ConfigError, error_context
from mlaas4hep.expressions.arithmetic import ExpressionTypeError, as_condition
from mlaas4hep.expressions.expression import Expression
from mlaas4hep.expressions.functions import all_of_list, any_of_list
from mlaas4hep.io import Columns, Jagged, Kind

_QUANTIFIERS = {"any": any_of_list, "all": all_of_list}
_SHAPES = {Kind.FLAT: "flat (one number per event)", Kind.JAGGED: "jagged (a list per event)"}


@dataclass(frozen=True, slots=True)
class Cut:
    """A condition that events must pass.

    Attributes:
        where: what defines the cut, for error messages.
        expression: the condition.
        quantifier: whether "any" or "all" elements of a list must fulfil the condition. Empty lists fail "any" and
            pass "all".
        kind: FLAT or JAGGED if the condition must have this kind, otherwise None.
        training_only: whether the cut applies only in training, not to events that are scored.
    """

    where: str = field(compare=False)
    expression: Expression
    quantifier: str = "any"
    kind: Kind | None = None
    training_only: bool = False

    def passes(self, columns: Columns) -> np.ndarray:
        """Return which events pass the cut, bool (events,).

        Raises:
            ConfigError: the expression is not a condition, or is not of the required kind.
        """
        with error_context(self.where):
            values = self.expression.evaluate(columns)
            check_kind(values, self.kind, self.expression)
            try:
                condition = as_condition(values)
            except ExpressionTypeError as error:
                raise ConfigError(f"expression '{self.expression.text}': {error}") from error
        return _QUANTIFIERS[self.quantifier](condition) if isinstance(condition, Jagged) else condition


def training_only_cut(condition: str) -> str:
    """Return the content of a preproc.json whose only cut is a condition that applies only in training."""
    return json.dumps({"cuts": [{"cut": condition, "training_only": True}]}, ensure_ascii=False)


def check_kind(values: np.ndarray | Jagged, kind: Kind | None, expression: Expression) -> None:
    """Raise ConfigError if the values of an expression are not of the required kind, FLAT or JAGGED."""
    actual = Kind.JAGGED if isinstance(values, Jagged) else Kind.FLAT
    if kind not in (None, actual):
        raise ConfigError(f"the result must be {_SHAPES[kind]}, but '{expression.text}' is {_SHAPES[actual]}")
