"""Expressions over branches, from people and from strangers' files: arithmetic and named functions, and nothing else.

    mass = Expression.parse("sqrt(2*Muon_pt[:,0]*Muon_pt[:,1]*(cosh(Muon_eta[:,0]-Muon_eta[:,1]) - cos(dphi)))")
    mass.names                                 # {"Muon_pt", "Muon_eta", "dphi"}
    mass.evaluate(source.read(mass.names, 0, 1000))

A text is never executed. `grammar` makes a syntax tree of it; here the nodes that are known, and only those, become
calls of what `functions` lists. Which branches there are is the caller's business.
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
from mlaas4hep.io import Columns, Jagged
from mlaas4hep.reader import arithmetic, functions, grammar
from mlaas4hep.reader.arithmetic import Unfit, Value
from mlaas4hep.reader.functions import FUNCTIONS

if TYPE_CHECKING:
    import awkward as ak

MAX_DEPTH = 100
"""How deep operators and calls may nest."""

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
    ast.BitXor: functions.exclusive,
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
    ast.NotEq: functions.numeric(functions.differs),
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
    """A parsed expression; two are equal where their texts are.

    Attributes:
        text: as it was written.
        names: branches that it needs.
    """

    text: str
    names: frozenset[str] = field(compare=False)
    _root: _Node = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an expression; `grammar` says how it may be written, `functions.FUNCTIONS` what it may call.

        Args:
            text: branch names with other characters than letters, digits and underscores stand in backticks.

        Raises:
            ConfigError: the text is no expression, or has more in it than an expression may; quotes the text and the
                offending part, and names the nearest function where an unknown one is called.
        """
        builder = _Builder(grammar.parse(text))
        root = builder.build(builder.syntax.body)
        return cls(text, frozenset(builder.names), root)

    @overload
    def evaluate(self, arrays: Columns) -> np.ndarray | Jagged: ...
    @overload
    def evaluate(self, arrays: Mapping[str, np.ndarray | Jagged | ak.Array]) -> np.ndarray | Jagged | ak.Array: ...
    def evaluate(self, arrays: Mapping[str, np.ndarray | Jagged | ak.Array]) -> np.ndarray | Jagged | ak.Array:
        """Calculate the expression for all events at once, in bool, int64 and float64.

        A division by zero is infinite; a function outside its domain is NaN, and so is a value that an index asks for
        beyond the end of a list. Comparisons with NaN are False, `!=` included. One number an event meets lists by
        standing for each of that event's values. A fixed-size column (events, size) counts as lists.

        Args:
            arrays: at least the branches in `names`, over the same events.

        Returns:
            (events,) where there is one number an event, () where the expression names no branch, or lists: `Jagged`,
            or an awkward array where one of the branches was given as that.

        Raises:
            ConfigError: the values do not suit the expression, as when lists of different lengths are added.
            KeyError: a branch is missing in `arrays`.
        """
        given = {name: arrays[name] for name in self.names}
        foreign = [name for name, values in given.items() if not isinstance(values, (np.ndarray, Jagged))]
        if foreign:
            from mlaas4hep.io.awkward_bridge import from_awkward, to_awkward

            given |= {name: from_awkward(given[name]) for name in foreign}
        with np.errstate(all="ignore"):
            result = _evaluate(self._root, given, self.text)
        return to_awkward(result) if foreign and isinstance(result, Jagged) else result

    def __reduce__(self) -> tuple[Callable[[str], Self], tuple[str]]:
        return type(self).parse, (self.text,)  # the text is all that another process needs


def _evaluate(node: _Node, columns: Columns, text: str) -> Value:
    if isinstance(node, _Constant):
        return node.value
    try:
        if isinstance(node, _Branch):
            return arithmetic.load(columns[node.name])
        return node.function(*[_evaluate(argument, columns, text) for argument in node.arguments])
    except Unfit as error:
        raise grammar.refusal(text, node.position, str(error)) from error


class _Builder:
    """Turns the nodes of a syntax tree into constants, branches and calls, and refuses what is none of these."""

    def __init__(self, syntax: grammar.Syntax) -> None:
        self.syntax = syntax
        self.names: set[str] = set()

    def build(self, node: ast.expr, depth: int = 0) -> _Node:
        """Return the counterpart of a node that lies `depth` below the root.

        Raises:
            ConfigError: it has none, or it lies too deep.
        """
        if depth > MAX_DEPTH:
            self._refuse(node, f"operators and calls nest more than {MAX_DEPTH} deep")
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
                return self._call(node, partial(_join, _OPERATORS[type(operator)]), operands, depth)
            case ast.Compare(left=left, ops=operators, comparators=others):
                comparisons = [_OPERATORS[type(operator)] for operator in operators]
                return self._call(node, partial(_compare, comparisons), [left, *others], depth)
        self._refuse(node, "this has no meaning in an expression")

    def _call(self, node: ast.expr, function: Callable[..., Value], operands: Sequence[ast.expr], depth: int) -> _Node:
        """Return the call of a function, or its result where all operands are constants."""
        arguments = tuple(self.build(operand, depth + 1) for operand in operands)
        call = _Call(function, arguments, self.syntax.position(node))
        if not all(isinstance(argument, _Constant) for argument in arguments):
            return call
        with np.errstate(all="ignore"):
            return _Constant(cast(np.ndarray, _evaluate(call, {}, self.syntax.text)))

    def _power(self, node: ast.expr, operands: Sequence[ast.expr], depth: int) -> _Node:
        power = self._call(node, functions.power, operands, depth)
        if isinstance(power, _Constant) and not np.isfinite(power.value):
            self._refuse(node, "this power is no finite number")
        return power

    def _number(self, node: ast.expr, value: Any) -> _Constant:
        if value > (_LARGEST_INTEGER if isinstance(value, int) else _LARGEST_FLOAT):
            self._refuse(node, "this number is too large")
        return _Constant(np.asarray(value))

    def _name(self, node: ast.Name) -> _Constant | _Branch:
        written = self.syntax.name(node)
        constant = _without_prefix(written)
        if constant in CONSTANTS:
            return _Constant(np.asarray(CONSTANTS[constant]))
        if "." in written and "`" not in written:
            self._refuse(node, "a branch with dots in its name stands in backticks", hint=f"write `{written}`")
        if written.startswith("__"):
            self._refuse(node, "names with two underscores in front stand in backticks")
        name = written.strip("`")
        self.names.add(name)
        return _Branch(name, self.syntax.position(node))

    def _function(self, node: ast.Name, arguments: int) -> Callable[..., Value]:
        name = _without_prefix(self.syntax.name(node))
        if name not in FUNCTIONS:
            self._refuse(node, f"there is no function '{name}'", nearest=nearest(name, FUNCTIONS))
        function = FUNCTIONS[name]
        if arguments not in function.arity:
            wanted = " or ".join(map(str, function.arity))
            self._refuse(node, f"'{name}' takes {wanted} argument{'s' * (wanted != '1')}, not {arguments}")
        return function.call

    def _subscript(self, node: ast.expr, values: ast.expr, index: ast.expr, depth: int) -> _Node:
        """Read x[:, 0], x[:, 1:3] or x[condition]."""
        match index:
            case ast.Tuple(elts=[ast.Slice(lower=None, upper=None, step=None), ast.Slice(step=None) as stretch]):
                start, stop = (None if edge is None else self._index(edge) for edge in (stretch.lower, stretch.upper))
                return self._call(node, partial(arithmetic.cut_out, start=start, stop=stop), [values], depth)
            case ast.Tuple(elts=[ast.Slice(lower=None, upper=None, step=None), place]):
                return self._call(node, partial(arithmetic.pick, index=self._index(place)), [values], depth)
            case ast.Tuple() | ast.Slice() | ast.Constant() | ast.UnaryOp(op=ast.USub()):
                hint = "write [:, 0] for the first value of each event, [:, 1:3] for some, or [condition]"
                self._refuse(index, "an index counts within the list of each event", hint=hint)
        return self._call(node, arithmetic.where_true, [values, index], depth)

    def _index(self, node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(value)) if value <= _LARGEST_INDEX:
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))) if value <= _LARGEST_INDEX:
                return -value
        self._refuse(node, "an index is a whole number")

    def _refuse(self, node: ast.expr, reason: str, **more: Any) -> NoReturn:
        raise grammar.refusal(self.syntax.text, self.syntax.position(node), reason, **more)


def _join(function: Callable[..., Value], *values: Value) -> Value:
    return reduce(function, values)


def _compare(comparisons: Sequence[Callable[..., Value]], *values: Value) -> Value:
    """Compare neighbours: a < b < c is a < b and b < c."""
    pairs = zip(comparisons, values[:-1], values[1:], strict=True)
    return _join(_OPERATORS[ast.And], *[comparison(left, right) for comparison, left, right in pairs])


def _without_prefix(name: str) -> str:
    return name.removeprefix("np.").removeprefix("numpy.")
