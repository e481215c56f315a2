"""Columns computed from expressions that are not features: event weights, and conditions for the split.

derived = DerivedColumns({"weight": "genWeight * 0.5", "test": "event % 5 == 0"})
derived.check(columns, "tree 'Events' of a.root")
derived.evaluate(values, events)["weight"]          # float64 (events,)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from mlaas4hep.errors import BranchNotFound, ConfigError, error_context, nearest
from mlaas4hep.expressions.expression import Expression
from mlaas4hep.io import Column, Columns, Jagged, Kind
from mlaas4hep.io.columns import empty_columns
from mlaas4hep.specs.exact import exact_sum
from mlaas4hep.specs.specs import FLOAT32_MAX


class DerivedColumns:
    """Columns with one number per event, each computed from an expression.

    Attributes:
        names: the branches that the expressions use.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Parse the expressions, given by purpose, such as "weight"; raise ConfigError if one is invalid."""
        self._expressions = {}
        for purpose, text in texts.items():
            with error_context(purpose):
                self._expressions[purpose] = Expression.parse(text)
        self.names = frozenset().union(*(one.names for one in self._expressions.values()))

    def check(self, columns: Mapping[str, Column], where: str) -> None:
        """Check that the expressions can be evaluated with the columns of a file; `where` names it in errors.

        Raises:
            BranchNotFound: a branch is missing.
            ConfigError: an expression gives lists, or uses a branch that is not numeric.
        """
        for purpose, expression in self._expressions.items():
            check_branches(purpose, expression.names, columns, where)
        self.evaluate(empty_columns(columns, self.names), 0)

    def evaluate(self, values: Columns, events: int) -> dict[str, np.ndarray]:
        """Return the columns of some events by purpose, (events,) each; raise ConfigError if one has lists."""
        columns = {}
        for purpose, expression in self._expressions.items():
            result = expression.evaluate({name: values[name] for name in expression.names})
            if isinstance(result, Jagged):
                raise ConfigError(
                    f"{purpose}: '{expression.text}' gives a list per event",
                    hint="take one of its values, as in Jet_pt[:, 0], or use sum(...), any(...) or all(...)",
                )
            columns[purpose] = np.broadcast_to(result, (events,))
        return columns

    def exact_sum(self, values: Columns, events: int) -> int:
        """Return the exact sum of the only expression over some events, in units of 2^-1074.

        Raise ConfigError if it is not a finite float32 number for some event.
        """
        ((purpose, numbers),) = self.evaluate(values, events).items()
        finite = np.abs(numbers) <= FLOAT32_MAX
        if not finite.all():
            text = self._expressions[purpose].text
            raise ConfigError(f"{purpose}: '{text}' is {numbers[~finite][0]} for an event, not a finite float32 number")
        return exact_sum(numbers)


def check_branches(purpose: str, names: Iterable[str], columns: Mapping[str, Column], where: str) -> None:
    """Check that a file has the branches that an expression uses, and that they are numeric.

    Raises:
        BranchNotFound: a branch is missing.
        ConfigError: a branch is not numeric.
    """
    for name in sorted(names):
        if name not in columns:
            raise BranchNotFound(f"{purpose}: branch '{name}' is not in {where}", nearest=nearest(name, columns))
        if columns[name].kind is Kind.OTHER:
            raise ConfigError(f"{purpose}: branch '{name}' of {where} is not numeric: {columns[name].reason}")
