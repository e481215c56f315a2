"""Expressions against plain Python, one event at a time."""

from __future__ import annotations

import math
import operator
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.errors import ConfigError, printable
from mlaas4hep.expressions.expression import Expression
from mlaas4hep.expressions.functions import FUNCTIONS
from mlaas4hep.expressions.grammar import MAX_LENGTH
from mlaas4hep.io import Jagged
from mlaas4hep.io.formats.awkward_bridge import from_awkward, to_awkward

NAN = math.nan


@dataclass
class Event:
    """One event as a person would write it down."""

    n: int
    met: float
    good: bool
    pt: list[float]
    eta: list[float]
    charge: list[int]

    @property
    def jets(self) -> list[tuple[float, float]]:
        return list(zip(self.pt, self.eta, strict=True))


EVENTS = [
    Event(2, 41.5, True, [50.5, 20.25], [1.0, -3.0], [1, -1]),
    Event(0, 0.0, False, [], [], []),
    Event(1, 12.25, True, [35.0], [2.25], [-1]),
    Event(3, 7.5, False, [90.0, 60.0, 30.0], [-0.5, 2.5, 0.0], [1, 1, -1]),
]


def jagged(lists: list[list[Any]], dtype: type) -> Jagged:
    offsets = np.cumsum([0] + [len(values) for values in lists])
    return Jagged(offsets, np.array([value for values in lists for value in values], dtype))


def columns(events: list[Event]) -> dict[str, np.ndarray | Jagged]:
    """The events as a ROOT file gives them: narrow and unsigned types."""
    return {
        "n": np.array([event.n for event in events], np.uint32),
        "met": np.array([event.met for event in events], np.float32),
        "good": np.array([event.good for event in events], bool),
        "pt": jagged([event.pt for event in events], np.float32),
        "eta": jagged([event.eta for event in events], np.float32),
        "charge": jagged([event.charge for event in events], np.int8),
    }


def listed(values: np.ndarray | Jagged) -> list[Any]:
    if isinstance(values, Jagged):
        bounds = zip(values.offsets[:-1], values.offsets[1:], strict=True)
        return [values.content[start:stop].tolist() for start, stop in bounds]
    return list(values.tolist())


def evaluate(text: str, events: list[Event] = EVENTS) -> list[Any]:
    return listed(Expression.parse(text).evaluate(columns(events)))


def at(values: list[Any], index: int) -> float:
    return values[index] if -len(values) <= index < len(values) else NAN


def divided(a: float, b: float) -> float:
    if b:
        return a / b
    return NAN if a == 0 else math.inf * math.copysign(1, a) * math.copysign(1, b)


TRUTHS: dict[str, Callable[[Event], Any]] = {
    "met": lambda e: e.met,
    "n - 3": lambda e: e.n - 3,
    "-n": lambda e: -e.n,
    "+met": lambda e: e.met,
    "met + n*2": lambda e: e.met + e.n * 2,
    "-met**2": lambda e: -(e.met**2),
    "2**n": lambda e: 2.0**e.n,
    "n**-1": lambda e: divided(1, e.n),
    "n // 2": lambda e: e.n // 2,
    "n % 2": lambda e: e.n % 2,
    "7 // n": lambda e: 7 // e.n if e.n else math.inf,
    "7 % n": lambda e: 7 % e.n if e.n else NAN,
    "1/met": lambda e: divided(1, e.met),
    "n/n": lambda e: divided(e.n, e.n),
    "sqrt(-n)": lambda e: -0.0 if e.n == 0 else NAN,
    "log(n)": lambda e: math.log(e.n) if e.n else -math.inf,
    "np.log1p(met) + numpy.abs(met)": lambda e: math.log1p(e.met) + abs(e.met),
    "arctan2(met, n)": lambda e: math.atan2(e.met, e.n),
    "erf(met) + erfc(n)": lambda e: math.erf(e.met) + math.erfc(e.n),
    "min(n, 1) + max(met, 10)": lambda e: min(e.n, 1) + max(e.met, 10),
    "round(met)": lambda e: round(e.met),
    "where(good, met, -1)": lambda e: e.met if e.good else -1,
    "2 * pi * n": lambda e: 2 * math.pi * e.n,
    "deltaphi(met, -2)": lambda e: math.remainder(e.met + 2, 2 * math.pi),
    "n >= 2": lambda e: e.n >= 2,
    "1<=n<=2": lambda e: 1 <= e.n <= 2,
    "0 < n < met != 41.5": lambda e: 0 < e.n < e.met != 41.5,
    "n >= 2 & met > 10": lambda e: e.n >= 2 and e.met > 10,
    "n >= 2 | met > 10 & good": lambda e: e.n >= 2 or (e.met > 10 and e.good),
    "n >= 2 || met > 10 && !good": lambda e: e.n >= 2 or (e.met > 10 and not e.good),
    "not n >= 2 and good": lambda e: not e.n >= 2 and e.good,
    "not n >= 2 & good": lambda e: (not e.n >= 2) and e.good,
    "~(n >= 2) ^ good": lambda e: (not e.n >= 2) != e.good,
    "n && good": lambda e: e.n != 0 and e.good,
    "n & 1": lambda e: e.n & 1,
    "n & 1 | 0x4": lambda e: e.n & 1 | 4,
    "(n & 2) > 0": lambda e: (e.n & 2) > 0,
    "good + good": lambda e: e.good + e.good,
    "good == True": lambda e: e.good,
    "pt * 2": lambda e: [pt * 2 for pt in e.pt],
    "pt / met": lambda e: [divided(pt, e.met) for pt in e.pt],
    "met - pt": lambda e: [e.met - pt for pt in e.pt],
    "sqrt(pt**2 * cosh(eta))": lambda e: [math.sqrt(pt**2 * math.cosh(eta)) for pt, eta in e.jets],
    "where(abs(eta) < 2.4, pt, n)": lambda e: [pt if abs(eta) < 2.4 else e.n for pt, eta in e.jets],
    "n >= 2 & abs(eta) < 2.4": lambda e: [e.n >= 2 and abs(eta) < 2.4 for eta in e.eta],
    "pt > 30 & !(eta > 2) & good": lambda e: [pt > 30 and not eta > 2 and e.good for pt, eta in e.jets],
    "pt[:,0]": lambda e: at(e.pt, 0),
    "pt[:, 1] - met": lambda e: at(e.pt, 1) - e.met,
    "pt[:,-1]": lambda e: at(e.pt, -1),
    "pt[:,-2]": lambda e: at(e.pt, -2),
    "charge[:,0] * charge[:,1] == -1": lambda e: at(e.charge, 0) * at(e.charge, 1) == -1,
    "charge[:,0] != charge[:,1]": lambda e: len(e.charge) > 1 and e.charge[0] != e.charge[1],
    "(pt > 40)[:,0] & good": lambda e: bool(e.pt) and e.pt[0] > 40 and e.good,
    "pt[:,1:]": lambda e: e.pt[1:],
    "pt[:,:2]": lambda e: e.pt[:2],
    "pt[:,-2:-1]": lambda e: e.pt[-2:-1],
    "pt[:,:-5]": lambda e: e.pt[:-5],
    "pt[:,:]": lambda e: e.pt,
    "pt[abs(eta) < 2.4]": lambda e: [pt for pt, eta in e.jets if abs(eta) < 2.4],
    "pt[abs(eta) < 2.4 & n > 2][:,0]": lambda e: at([pt for pt, eta in e.jets if abs(eta) < 2.4 and e.n > 2], 0),
    "sum(pt)": lambda e: sum(e.pt),
    "sum(charge)": lambda e: sum(e.charge),
    "sum(pt > 30) >= 2": lambda e: sum(pt > 30 for pt in e.pt) >= 2,
    "sum(pt[pt > 30])": lambda e: sum(pt for pt in e.pt if pt > 30),
    "count(pt) == len(eta)": lambda e: True,
    "count(pt)": lambda e: len(e.pt),
    "min(pt)": lambda e: min(e.pt, default=NAN),
    "max(charge)": lambda e: max(e.charge, default=NAN),
    "mean(pt)": lambda e: sum(e.pt) / len(e.pt) if e.pt else NAN,
    "any(pt > 40)": lambda e: any(pt > 40 for pt in e.pt),
    "all(pt > 40)": lambda e: all(pt > 40 for pt in e.pt),
    "deltar(eta, pt, eta[:,0], met)": lambda e: [
        math.hypot(eta - e.eta[0], math.remainder(pt - e.met, 2 * math.pi)) for pt, eta in e.jets
    ],
}


@pytest.mark.parametrize("text", TRUTHS)
def test_an_expression_has_the_value_that_python_computes_event_by_event(text: str) -> None:
    result = evaluate(text)
    expected = [TRUTHS[text](event) for event in EVENTS]
    assert [np.shape(values) for values in result] == [np.shape(values) for values in expected]
    for found, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


float32s = st.floats(-1e6, 1e6, width=32)


@st.composite
def some_events(draw: st.DrawFn) -> list[Event]:
    events = []
    for _ in range(draw(st.integers(0, 5))):
        size = draw(st.integers(0, 4))
        pt, eta = (draw(st.lists(float32s, min_size=size, max_size=size)) for _ in range(2))
        charge = draw(st.lists(st.sampled_from([-1, 1]), min_size=size, max_size=size))
        events.append(Event(draw(st.integers(0, 9)), draw(float32s), draw(st.booleans()), pt, eta, charge))
    return events


ILL_CONDITIONED = ("log", "sqrt", "delta", "erf")
"""Functions with a domain, or whose last digits are gone at 1e6."""


@given(some_events(), st.sampled_from([text for text in TRUTHS if not any(name in text for name in ILL_CONDITIONED)]))
@settings(max_examples=200, deadline=None)
def test_random_events_have_the_values_that_python_computes(events: list[Event], text: str) -> None:
    result, expected = evaluate(text, events), [TRUTHS[text](event) for event in events]
    assert len(result) == len(expected)
    for found, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", TRUTHS)
def test_no_events_give_an_empty_result_of_the_same_type(text: str) -> None:
    some, none = (Expression.parse(text).evaluate(columns(events)) for events in (EVENTS, []))
    assert listed(none) == []
    assert type(some) is type(none)
    whole_numbers_divided_by_zero = ("7 // n", "7 % n")
    if text not in whole_numbers_divided_by_zero:
        assert np.asarray(getattr(some, "content", some)).dtype == np.asarray(getattr(none, "content", none)).dtype


def test_names_are_the_branches_and_neither_functions_nor_constants() -> None:
    assert Expression.parse("sqrt(pt[:,0]) + pi*n > max(sum, 1) & True").names == {"pt", "n", "sum"}


def test_any_branch_name_can_be_written_in_backticks() -> None:
    expression = Expression.parse("`Muon/Muon.pt` * 2 + `pi`")
    assert expression.names == {"Muon/Muon.pt", "pi"}
    np.testing.assert_array_equal(
        expression.evaluate({"Muon/Muon.pt": np.array([1.5, 2]), "pi": np.array([1, 2])}), [4.0, 6.0]
    )


def test_python_keywords_may_be_branch_names() -> None:
    assert Expression.parse("lambda + class > n").names == {"lambda", "class", "n"}


def test_comparisons_with_nan_are_false_including_not_equal() -> None:
    x = {"x": np.array([NAN, 1.0])}
    for text in ("x > 0", "x <= 0", "x == x", "x != 2", "0 < x < 2"):
        assert not Expression.parse(text).evaluate(x)[0]
    assert listed(Expression.parse("isnan(x)").evaluate(x)) == [True, False]


def test_float32_is_compared_in_double_precision_as_in_root() -> None:
    x = {"x": np.array([0.1], np.float32)}
    assert listed(Expression.parse("x > 0.1").evaluate(x)) == [True]


def test_event_numbers_beyond_float64_stay_exact() -> None:
    event = {"event": np.array([2**53 + 1, 2**63 + 3], np.uint64)}
    assert listed(Expression.parse("event % 2 == 1").evaluate({"event": event["event"][:1]})) == [True]
    assert listed(Expression.parse("event == 9007199254740993").evaluate(event)) == [True, False]
    assert listed(Expression.parse("event & 1").evaluate(event)) == [1, 1]


def test_a_fixed_size_column_counts_as_lists() -> None:
    columns = {"x": np.array([[1, 2, 3], [4, 5, 6]], np.int16), "n": np.array([10, 20])}
    assert listed(Expression.parse("x[:,2] + sum(x)").evaluate(columns)) == [9, 21]
    assert listed(Expression.parse("x * n").evaluate(columns)) == [[10, 20, 30], [80, 100, 120]]


def test_awkward_arrays_give_awkward_arrays() -> None:
    events = {"pt": ak.Array([[50.0, 20.0], [], [35.0]]), "n": np.array([2, 0, 1])}
    result = Expression.parse("pt * n").evaluate(events)
    assert isinstance(result, ak.Array)
    assert result.to_list() == [[100, 40], [], [35]]
    assert listed(Expression.parse("pt[:,0] > 40").evaluate(events)) == [True, False, False]


def test_an_expression_of_constants_is_one_number() -> None:
    assert Expression.parse("2*pi").evaluate({}) == pytest.approx(2 * math.pi)


def test_expressions_can_be_pickled() -> None:
    expression = pickle.loads(pickle.dumps(Expression.parse("sum(pt[abs(eta) < 2.4])")))
    assert expression == Expression.parse("sum(pt[abs(eta) < 2.4])")
    assert listed(expression.evaluate(columns(EVENTS))) == [50.5, 0, 35, 120]


def test_a_backtick_in_a_name_is_doubled_within_backticks() -> None:
    events = {"b`t": np.array([1.0, 2.0]), "`": np.array([10.0, 20.0]), "μ_pt": np.array([5.0, 6.0])}
    assert Expression.parse("`b``t` + ````*`μ_pt`").names == set(events)
    assert listed(Expression.parse("`b``t` + ````*`μ_pt`").evaluate(events)) == [51, 122]


INVALID = {
    "__import__('os').system('x')": "unexpected \"'\" at ''os').system('x')' (character 12)",
    "__import__(os)": "unknown function '__import__'",
    "().__class__": "unexpected '.'",
    "pt.__class__": "must be in backticks",
    "__builtins__": "two underscores",
    "exec(pt)": "unknown function 'exec'",
    "np.load(pt)": "unknown function 'load'",
    "os.system(pt)": "unknown function 'os.system'",
    "[x for x in pt]": "invalid syntax at 'x for x in pt]'",
    "[1, 2]": "unsupported syntax",
    "(1, 2)": "unsupported syntax",
    "lambda: 0": "invalid syntax",
    "lambda x: x": "invalid syntax",
    "(x := 3)": "unexpected '='",
    "x = 3": "unexpected '='",
    "x; y": "unexpected ';'",
    "{x}": "unexpected '{'",
    "f'{x}'": "unexpected ",
    "'text'": "unexpected ",
    "x if y else z": "invalid syntax",
    "sum(*pt)": "invalid syntax",
    "sum(pt, axis=1)": "unexpected '='",
    "sqrt(n)(n)": "unsupported syntax",
    "3(n)": "unsupported syntax",
    "`sqrt`(n)": "unknown function",
    "9**9**9": "this power is not finite",
    "n + 9**9**9": "this power is not finite at '9**9**9' (character 5)",
    "n**9**9**9": "this power is not finite",
    "1e999": "this number is too large",
    "9" * 30: "this number is too large",
    "9" * 9000: "invalid syntax",
    "(" * 1000 + "n" + ")" * 1000: "brackets are nested more than 50 deep",
    "sqrt(" * 60 + "n" + ")" * 60: "brackets are nested more than 50 deep",
    "-" * 5000 + "n": "nested",
    "n" + "+n" * 3000: "nested",
    "n" + "**n" * 3000: "nested",
    "n+" * 500_000: f"1000000 characters are too many, the maximum is {MAX_LENGTH}",
    "": "the expression is empty",
    " \n ": "the expression is empty",
    "n >": "invalid syntax at the end",
    "n n": "invalid syntax",
    "(n": "bracket is never closed",
    "n)": "closing bracket without an opening one",
    "(n]": "invalid syntax",
    "`n": "unexpected '`'",
    "n\0": "unexpected ",
    "ñ": "write `ñ`",
    "μ_pt*2": "unexpected 'μ' at 'μ_pt*2' (character 1); a name with non-ASCII letters must be in"
    " backticks: write `μ_pt`",
    "n + pt_μ.x": "write `pt_μ.x`",
    "pt[0]": "an index must refer to the list of each event",
    "pt[-1]": "an index must refer to the list of each event",
    "pt[:]": "an index must refer to the list of each event",
    "pt[1:, 0]": "an index must refer to the list of each event",
    "pt[:, 0, 0]": "an index must refer to the list of each event",
    "pt[:, ::2]": "an index must be an integer",
    "pt[:, 0.5]": "an index must be an integer",
    "pt[:, n]": "an index must be an integer",
    "pt[:, 99999999999]": "an index must be an integer",
    "deltar(eta, pt)": "'deltar' takes 4 arguments, not 2",
    "min()": "'min' takes 1 or 2 arguments, not 0",
}


@pytest.mark.parametrize("text", INVALID, ids=lambda text: text[:30])
def test_the_error_for_an_invalid_expression_quotes_the_invalid_part(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Expression.parse(text)
    message = str(caught.value)
    assert INVALID[text] in message
    assert printable(" ".join(text[:100].split())) in message
    assert "\n" not in message
    assert len(message) < 500


TYPE_ERRORS = {
    "sum(met)": "sum needs a list per event",
    "met[:,0]": "an index needs a list per event",
    "met[:,1:]": "a slice needs a list per event",
    "pt[met > 3]": "a condition in brackets needs a list per event",
    "pt[eta]": "a number is not a condition",
    "pt[pt[:,1:] > 3]": "the lists of an event differ in length",
    "met + pt + pt[:,1:]": "the lists of an event differ in length at 'met + pt + pt[:,1:]' (character 1)",
    "not met": "a number is not a condition",
    "met and good": "a number is not a condition",
    "met & n > 2": "both sides must be conditions, or both must be integers",
    "n & met > 2": "both sides must be conditions, or both must be integers",
    "n^2": "write ** for a power",
    "any(pt)": "a number is not a condition",
    "count(pt > 3)": "use sum to count those that are true",
    "name": "a column of type <U1 is not numeric at 'name'",
}


@pytest.mark.parametrize("text", TYPE_ERRORS)
def test_values_of_the_wrong_type_are_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Expression.parse(text).evaluate(columns(EVENTS) | {"name": np.array(list("abcd"))})
    assert TYPE_ERRORS[text] in str(caught.value)
    assert f"expression '{text}'" in str(caught.value)


def test_the_error_for_an_unknown_function_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown function 'sqr' at 'sqr\(n\)' .*closest: 'sqrt'"):
        Expression.parse("1 + sqr(n)")


def test_nested_comparisons_are_parsed_in_linear_time() -> None:
    text = "n"
    for _ in range(40):
        text = f"(0 <= {text} <= 1)"
    assert evaluate(text) == [True, True, True, True]


PIECES = ["n", "met", "pt", "eta", "good", "2", "1.5", "0", "(", ")", "[:,0]", "[:,1:]", "[", "]", ",", ":", " and ",
          " not ", "!", "~", "&", "|", "^", "&&", "<", "==", "!=", "+", "-", "*", "**", "/", "//", "%", "sqrt(", "sum(",
          "where(", "min(", "`a.b`", ".", "=", "'", "__", "lambda "]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=30))
@settings(max_examples=400, deadline=None)
def test_any_text_is_evaluated_or_raises_config_error(text: str) -> None:
    with suppress(ConfigError):
        expression = Expression.parse(text)
        if expression.names <= columns(EVENTS).keys():
            result = expression.evaluate(columns(EVENTS))
            assert not expression.names or len(result) == len(EVENTS)


@pytest.mark.parametrize(
    ("symbol", "function"),
    {
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
        "==": operator.eq,
        "!=": operator.ne,
    }.items(),
)
def test_comparisons_bind_tighter_than_and(symbol: str, function: Callable[[Any, Any], bool]) -> None:
    wanted = [function(event.n, 2) and function(event.met, 12.25) for event in EVENTS]
    assert evaluate(f"n {symbol} 2 & met {symbol} 12.25") == wanted


OF_LISTS = {"all", "any", "count", "len", "mean", "sum"}


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - OF_LISTS))
def test_a_numeric_function_accepts_numbers_lists_and_conditions(name: str) -> None:
    for argument, kind in (("n", np.ndarray), ("charge", Jagged), ("good", np.ndarray), ("pt > 3", Jagged)):
        arguments = ", ".join([argument] * max(FUNCTIONS[name].arity))
        result = Expression.parse(f"{name}({arguments})").evaluate(columns(EVENTS))
        assert isinstance(result, kind)
        assert len(result) == len(EVENTS)


lists = st.lists(st.lists(float32s, max_size=3), max_size=5)


@given(lists)
def test_lists_are_unchanged_after_a_conversion_to_awkward_and_back(values: list[list[float]]) -> None:
    before = jagged(values, np.float32)
    assert to_awkward(before).to_list() == values
    after = from_awkward(to_awkward(before))
    assert isinstance(after, Jagged)
    assert listed(after) == values
    assert after.content.dtype == np.float32


def test_missing_awkward_values_become_nan_or_an_empty_list() -> None:
    lists = from_awkward(ak.Array([[1, None], None, []]))
    assert isinstance(lists, Jagged)
    assert lists.offsets.tolist() == [0, 2, 2, 2]
    np.testing.assert_array_equal(lists.content, [1, NAN])
    np.testing.assert_array_equal(from_awkward(ak.Array([1.5, None])), [1.5, NAN])
    assert listed(from_awkward(ak.Array([True, None]))) == [True, False]


def test_regular_awkward_arrays_are_fixed_size_columns() -> None:
    values = np.arange(6, dtype=np.int16).reshape(2, 3)
    after = from_awkward(to_awkward(values))
    assert isinstance(after, np.ndarray)
    assert after.dtype == np.int16
    np.testing.assert_array_equal(after, values)


@pytest.mark.parametrize("values", [["a"], [["a"]], [[[["a"]]]], [[[[1]]]], [{"x": 1}], [1, [2]]], ids=str)
def test_awkward_arrays_without_numbers_are_refused(values: list[Any]) -> None:
    with pytest.raises(ConfigError, match="type"):
        from_awkward(ak.Array(values))


def test_importing_and_evaluating_does_not_import_awkward() -> None:
    code = (
        "import sys, numpy; from mlaas4hep.expressions.expression import Expression; "
        "Expression.parse('x[:,0] > 1').evaluate({'x': numpy.ones((2, 2))}); assert 'awkward' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
