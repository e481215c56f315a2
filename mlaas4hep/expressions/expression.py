"""Expressions over branches, which may come from untrusted files: arithmetic and named functions only.

    mass = Expression.parse("sqrt(2*Muon_pt[:,0]*Muon_pt[:,1]*(cosh(Muon_eta[:,0]-Muon_eta[:,1]) - cos(dphi)))")
    mass.names                                 # {"Muon_pt", "Muon_eta", "dphi"}
    mass.evaluate(source.read(mass.names, 0, 1000))

The text is never executed. `grammar` parses it into a syntax tree, whose nodes are translated into calls of the
functions in `functions`; all other nodes are errors. Expressions do not check whether the branches exist.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast, overload

import numpy as np
from typing_extensions import Self

from mlaas4hep.errors import nearest
from mlaas4hep.expressions import arithmetic, functions, grammar
from mlaas4hep.expressions.arithmetic import ExpressionTypeError, Value
from mlaas4hep.expressions.functions import FUNCTIONS
from mlaas4hep.io import Columns, Jagged, Nested
from mlaas4hep.io.columns import Values

if TYPE_CHECKING:
    import awkward as ak

MAX_DEPTH = 100
"""Maximum nesting depth of operators and calls."""

CONSTANTS: Mapping[str, float | bool] = {"pi": np.pi, "True": True, "False": False}

_LARGEST_INTEGER = int(np.iinfo(np.int64).max)
_LARGEST_FLOAT = float(np.finfo(np.float64).max)
_LARGEST_INDEX = int(np.iinfo(np.int32).max)

_OPERATORS: Mapping[type[ast.AST], Callable[..., Value]] = {
    ast.Add: functions.numeric(np.add),
    ast.Sub: functions.numeric(np.subtract),
    ast.Mult: functions.numeric(np.multiply),
    ast.Div: functions.numeric(np.true_divide),
    ast.FloorDiv: functions.divide(np.floor_divide),
    ast.Mod: functions.divide(np.remainder),
    ast.Pow: functions.power,
    ast.BitAnd: functions.bitwise(np.bitwise_and),
    ast.BitOr: functions.bitwise(np.bitwise_or),
    ast.BitXor: functions.exclusive_or,
    ast.And: functions.logical(np.logical_and),
    ast.Or: functions.logical(np.logical_or),
    ast.Not: functions.logical(np.logical_not),
    ast.Invert: functions.logical(np.logical_not),
    ast.UAdd: functions.numeric(np.positive),
    ast.USub: functions.numeric(np.negative),
    ast.Lt: functions.numeric(np.less),
    ast.LtE: functions.numeric(np.less_equal),
    ast.Gt: functions.numeric(np.greater),
    ast.GtE: functions.numeric(np.greater_equal),
    ast.Eq: functions.numeric(np.equal),
    ast.NotEq: functions.numeric(functions.not_equal),
}


@dataclass(frozen=True, slots=True)
class _Constant:
    value: np.ndarray


@dataclass(frozen=True, slots=True)
class _Branch:
    name: str
    position: int


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[..., Value]
    arguments: tuple[_Node, ...]
    position: int


_Node: TypeAlias = "_Constant | _Branch | _Call"


@dataclass(frozen=True)
class Expression:
    """A parsed expression; two expressions are equal if their texts are.

    Attributes:
        text: the original text.
        names: the branches that it uses.
    """

    text: str
    names: frozenset[str] = field(compare=False)
    _root: _Node = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an expression; see `grammar` for its syntax and `functions.FUNCTIONS` for the functions.

        Args:
            text: the expression; branch names with characters other than letters, digits and underscores must be in
                backticks.

        Raises:
            ConfigError: the expression is invalid; the message quotes it and the offending part, and suggests similar
                names for an unknown function.
        """
        builder = _TreeBuilder(grammar.parse(text))
        root = builder.build(builder.syntax.body)
        return cls(text, frozenset(builder.names), root)

    @overload
    def evaluate(self, arrays: Columns) -> np.ndarray | Jagged: ...
    @overload
    def evaluate(self, arrays: Mapping[str, Values | ak.Array]) -> np.ndarray | Jagged | ak.Array: ...
    def evaluate(self, arrays: Mapping[str, Values | ak.Array]) -> np.ndarray | Jagged | ak.Array:
        """Evaluate the expression for all events, in bool, int64 and float64.

        Division by zero gives infinity. A function outside its domain gives NaN, as does an index beyond the end of a
        list. Comparisons with NaN are False, including `!=`. One number per event is broadcast to the lists of the same
        event. A fixed-size column (events, size) is treated as lists.

        Args:
            arrays: the branches in `names`, for the same events; further ones are ignored.

        Returns:
            (events,) if the result is one number per event, () if the expression uses no branches, or lists: `Jagged`,
            or an awkward array if one of the branches is an awkward array.

        Raises:
            ConfigError: the expression cannot be applied to the values, for example if it adds lists of different
                lengths.
            KeyError: `arrays` lacks a branch.
        """
        columns = {name: arrays[name] for name in self.names}
        awkward_names = [
            name for name, values in columns.items() if not isinstance(values, (np.ndarray, Jagged, Nested))
        ]
        if awkward_names:
            from mlaas4hep.io.formats.awkward_bridge import from_awkward, to_awkward

            columns |= {name: from_awkward(columns[name]) for name in awkward_names}
        with np.errstate(all="ignore"):
            result = _evaluate(self._root, columns, self.text)
        return to_awkward(result) if awkward_names and isinstance(result, Jagged) else result

    def __reduce__(self) -> tuple[Callable[[str], Self], tuple[str]]:
        return type(self).parse, (self.text,)  # the functions in the tree cannot be pickled


def _evaluate(node: _Node, columns: Columns, text: str) -> Value:
    if isinstance(node, _Constant):
        return node.value
    try:
        if isinstance(node, _Branch):
            return arithmetic.promote(columns[node.name])
        return node.function(*[_evaluate(argument, columns, text) for argument in node.arguments])
    except ExpressionTypeError as error:
        raise grammar.expression_error(text, node.position, str(error)) from error


class _TreeBuilder:
    """Translates the nodes of a syntax tree into constants, branches and calls; all other nodes are errors."""

    def __init__(self, syntax: grammar.SyntaxTree) -> None:
        self.syntax = syntax
        self.names: set[str] = set()

    def build(self, node: ast.expr, depth: int = 0) -> _Node:
        """Translate a node at a depth below the root; raise ConfigError if it is unsupported, or nested too deeply."""
        if depth > MAX_DEPTH:
            self._fail(node, f"operators and calls are nested more than {MAX_DEPTH} deep")
        match node:
            case ast.Constant(value=value):
                return self._number(node, value)
            case ast.Name():
                return self._name(node)
            case ast.Subscript(value=values, slice=index):
                return self._subscript(node, values, index, depth)
            case ast.Call(func=ast.Name() as name, args=arguments, keywords=[]):
                return self._call(node, self._function(name, len(arguments)), arguments, depth)
            case ast.UnaryOp(op=operator, operand=operand):
                return self._call(node, _OPERATORS[type(operator)], [operand], depth)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return self._power(node, [left, right], depth)
            case ast.BinOp(left=left, op=operator, right=right):
                return self._call(node, _OPERATORS[type(operator)], [left, right], depth)
            case ast.BoolOp(op=operator, values=operands):
                return self._call(node, partial(_reduce, _OPERATORS[type(operator)]), operands, depth)
            case ast.Compare(left=left, ops=operators, comparators=others):
                comparisons = [_OPERATORS[type(operator)] for operator in operators]
                return self._call(node, partial(_compare, comparisons), [left, *others], depth)
        self._fail(node, "unsupported syntax")

    def _call(self, node: ast.expr, function: Callable[..., Value], operands: Sequence[ast.expr], depth: int) -> _Node:
        """Return the call of a function, or its result if all operands are constants."""
        arguments = tuple(self.build(operand, depth + 1) for operand in operands)
        call = _Call(function, arguments, self.syntax.position(node))
        if not all(isinstance(argument, _Constant) for argument in arguments):
            return call
        with np.errstate(all="ignore"):
            return _Constant(cast(np.ndarray, _evaluate(call, {}, self.syntax.text)))

    def _power(self, node: ast.expr, operands: Sequence[ast.expr], depth: int) -> _Node:
        power = self._call(node, functions.power, operands, depth)
        if isinstance(power, _Constant) and not np.isfinite(power.value):
            self._fail(node, "this power is not finite")
        return power

    def _number(self, node: ast.expr, value: Any) -> _Constant:
        if value > (_LARGEST_INTEGER if isinstance(value, int) else _LARGEST_FLOAT):
            self._fail(node, "this number is too large")
        return _Constant(np.asarray(value))

    def _name(self, node: ast.Name) -> _Constant | _Branch:
        written = self.syntax.name(node)
        constant = _without_prefix(written)
        if constant in CONSTANTS:
            return _Constant(np.asarray(CONSTANTS[constant]))
        if "." in written and "`" not in written:
            self._fail(node, "a branch name with dots must be in backticks", hint=f"write `{written}`")
        if written.startswith("__"):
            self._fail(node, "a name that begins with two underscores must be in backticks")
        name = grammar.without_backticks(written)
        self.names.add(name)
        return _Branch(name, self.syntax.position(node))

    def _function(self, node: ast.Name, arguments: int) -> Callable[..., Value]:
        name = _without_prefix(self.syntax.name(node))
        if name not in FUNCTIONS:
            self._fail(node, f"unknown function '{name}'", nearest=nearest(name, FUNCTIONS))
        function = FUNCTIONS[name]
        if arguments not in function.arity:
            expected = " or ".join(map(str, function.arity))
            self._fail(node, f"'{name}' takes {expected} argument{'s' * (expected != '1')}, not {arguments}")
        return function.call

    def _subscript(self, node: ast.expr, values: ast.expr, index: ast.expr, depth: int) -> _Node:
        """Translate x[:, 0], x[:, 1:3] or x[condition]."""
        match index:
            case ast.Tuple(elts=[ast.Slice(lower=None, upper=None, step=None), ast.Slice(step=None) as bounds]):
                start, stop = (None if edge is None else self._index(edge) for edge in (bounds.lower, bounds.upper))
                return self._call(node, partial(arithmetic.slice_lists, start=start, stop=stop), [values], depth)
            case ast.Tuple(elts=[ast.Slice(lower=None, upper=None, step=None), element]):
                return self._call(node, partial(arithmetic.take, index=self._index(element)), [values], depth)
            case ast.Tuple() | ast.Slice() | ast.Constant() | ast.UnaryOp(op=ast.USub()):
                hint = "write [:, 0] for the first value of each event, [:, 1:3] for a slice, or [condition]"
                self._fail(index, "an index must refer to the list of each event", hint=hint)
        return self._call(node, arithmetic.filter_lists, [values, index], depth)

    def _index(self, node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(value)) if value <= _LARGEST_INDEX:
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))) if value <= _LARGEST_INDEX:
                return -value
        self._fail(node, "an index must be an integer")

    def _fail(self, node: ast.expr, reason: str, **details: Any) -> NoReturn:
        raise grammar.expression_error(self.syntax.text, self.syntax.position(node), reason, **details)


def _reduce(function: Callable[..., Value], *values: Value) -> Value:
    return reduce(function, values)


def _compare(comparisons: Sequence[Callable[..., Value]], *values: Value) -> Value:
    """Evaluate a chain of comparisons: a < b < c means a < b and b < c."""
    pairs = zip(comparisons, values[:-1], values[1:], strict=True)
    return _reduce(_OPERATORS[ast.And], *[comparison(left, right) for comparison, left, right in pairs])


def _without_prefix(name: str) -> str:
    return name.removeprefix("np.").removeprefix("numpy.")
