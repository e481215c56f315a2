"""Numbers of an event that are no features: weights, and conditions that decide where an event belongs.

derived = Derived({"weight": "genWeight * 0.5", "test": "event % 5 == 0"})
derived.check(columns, "tree 'Events' of a.root")
derived.evaluate(values, events)["weight"]          # float64 (events,)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlaas4hep.errors import BranchNotFound, ConfigError, nearest
from mlaas4hep.io import Column, Columns, Jagged, Kind
from mlaas4hep.io.columns import no_events
from mlaas4hep.reader.expressions import Expression


class Derived:
    """Expressions of which each gives one number an event.

    Attributes:
        names: branches that they need.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Read expressions, by what each is for.

        Raises:
            ConfigError: a text is no expression.
        """
        self._expressions = {}
        for purpose, text in texts.items():
            try:
                self._expressions[purpose] = Expression.parse(text)
            except ConfigError as error:
                raise ConfigError(f"{purpose}: {error.what}", nearest=error.nearest, hint=error.hint) from error
        self.names = frozenset().union(*(one.names for one in self._expressions.values()))

    def check(self, columns: Mapping[str, Column], where: str) -> None:
        """Make sure that the expressions suit the columns of a file.

        Raises:
            BranchNotFound: a branch is missing.
            ConfigError: an expression gives lists, or needs what is no number.
        """
        for purpose, expression in self._expressions.items():
            for name in sorted(expression.names):
                if name not in columns:
                    raise BranchNotFound(
                        f"{purpose}: branch '{name}' is not in {where}", nearest=nearest(name, columns)
                    )
                if columns[name].kind is Kind.OTHER:
                    raise ConfigError(f"{purpose}: branch '{name}' of {where} is no number: {columns[name].reason}")
        self.evaluate(no_events(columns, self.names), 0)

    def evaluate(self, values: Columns, events: int) -> dict[str, np.ndarray]:
        """Return the numbers of some events by purpose, (events,) each.

        Raises:
            ConfigError: an expression gives lists.
        """
        found = {}
        for purpose, expression in self._expressions.items():
            result = expression.evaluate({name: values[name] for name in expression.names})
            if isinstance(result, Jagged):
                raise ConfigError(
                    f"{purpose}: '{expression.text}' gives a list an event",
                    hint="take one of its values, as in Jet_pt[:, 0], or sum(...), any(...), all(...)",
                )
            found[purpose] = np.broadcast_to(result, (events,))
        return found
