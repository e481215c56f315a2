"""Parsing of expressions into Python syntax trees, with positions in the original text.

    syntax = parse("nMuon >= 2 & abs(Jet_eta) < 2.4")    # the tree of (nMuon >= 2) & (abs(Jet_eta) < 2.4)
    syntax.position(syntax.body), syntax.name(syntax.body.left.left)

The grammar is that of Python with additions from C++: `&&`, `||` and `!` are accepted, and comparisons bind more
tightly than `&`, `^` and `|`. From the lowest precedence to the highest: or ||, and &&, |, ^, &, not, comparisons, + -,
* / // %, signs and ~ !, **. Only names, numbers and operators reach Python's parser, and nothing is compiled.
`expression` decides which nodes of the tree are supported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlaas4hep.errors import ConfigError

MAX_LENGTH = 10_000
"""Maximum number of characters in an expression."""
MAX_BRACKETS = 50
"""Maximum nesting depth of brackets. Python's parser supports 200, and `_rewrite` adds up to one for each of these."""

_TOKEN = re.compile(
    r"""
    (?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<name>`(?:[^`]|``)+`|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)
    |(?P<operator>\*\*|//|<=|>=|==|!=|&&|\|\||[-+*/%<>&|^~!()\[\],:])
    """,
    re.VERBOSE | re.ASCII,
)
_UNQUOTED_NAME = re.compile(r"(?:[A-Za-z0-9_.]|[^\x00-\x7f\s])+")
"""A name that may have characters for which it needs backticks."""
_PYTHON_OPERATORS = {"&&": "and", "||": "or", "!": "~"}
_KEYWORDS = frozenset({"and", "or", "not"})
_ENDS_COMPARISON = frozenset({"&", "|", "^", "and", "or", ",", ":", ")", "]"})


@dataclass(frozen=True)
class SyntaxTree:
    """A Python syntax tree, and the text that it was parsed from.

    Attributes:
        text: the original text.
        body: the tree; every name in it is `n`, see `name`.
        tokens: names, numbers and operators by their position in the text.
        origin: the position in the text for each column offset in the tree.
    """

    text: str
    body: ast.expr
    tokens: Mapping[int, str]
    origin: Sequence[int]

    def position(self, node: ast.expr) -> int:
        """Return the position in the text at which a node begins."""
        return self.origin[node.col_offset]

    def name(self, node: ast.Name) -> str:
        """Return a name as it was written, including backticks and dots."""
        return self.tokens[self.position(node)]


def parse(text: str) -> SyntaxTree:
    """Parse an expression; raise ConfigError if it is too long, empty, nested too deeply, or has invalid syntax."""
    if len(text) > MAX_LENGTH:
        raise expression_error(text, 0, f"{len(text)} characters are too many, the maximum is {MAX_LENGTH}")
    tokens = _tokenize(text)
    source, origin = _rewrite(text, tokens)
    try:
        tree = ast.parse(source, mode="eval")
    except (RecursionError, MemoryError) as error:
        raise expression_error(text, 0, "operators and brackets are nested too deeply") from error
    except SyntaxError as error:
        column = (error.offset or 0) - 1
        position = origin[column] if 0 <= column < len(origin) else len(text)
        raise expression_error(text, position, "invalid syntax") from error
    return SyntaxTree(text, tree.body, tokens, origin)


def in_backticks(name: str) -> str:
    """Return a name in backticks, the form in which an expression may contain any name."""
    return "`" + name.replace("`", "``") + "`"


def as_expression(name: str) -> str:
    """Return an expression whose value is the branch with this name."""
    return name if name.isascii() and name.isidentifier() else in_backticks(name)


def without_backticks(written: str) -> str:
    """Invert `in_backticks`; names without backticks are returned unchanged."""
    return written[1:-1].replace("``", "`") if written.startswith("`") else written


def expression_error(text: str, position: int, reason: str, **details: Any) -> ConfigError:
    """Return an error that quotes an expression on one line, together with its invalid part.

    `position` is where that part begins; `details` are `nearest` and `hint` of the error.
    """
    part = " ".join(text[position : position + 24].split())
    where = f" at '{part}' (character {position + 1})" if part else " at the end"
    shown = " ".join(text[:200].split()) + "..." * (len(text) > 200)
    return ConfigError(f"expression '{shown}': {reason}{where}", **details)


def _tokenize(text: str) -> dict[int, str]:
    """Return the names, numbers and operators by position; any other character is an error."""
    tokens: dict[int, str] = {}
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
        elif match := _TOKEN.match(text, position):
            tokens[position] = match[0]
            position = match.end()
        else:
            hint = _backticks_hint(text, position)
            raise expression_error(text, position, f"unexpected {text[position]!r}", hint=hint)
    if not tokens:
        raise ConfigError("the expression is empty")
    return tokens


def _backticks_hint(text: str, position: int) -> str:
    """Return a hint to put the name at a position in backticks if it has a non-ASCII letter there, otherwise ""."""
    for name in _UNQUOTED_NAME.finditer(text):
        if name.start() <= position < name.end() and text[position] > "\x7f":
            return f"a name with non-ASCII letters must be in backticks: write `{name[0]}`"
    return ""


def _rewrite(text: str, tokens: Mapping[int, str]) -> tuple[str, list[int]]:
    """Return the source for Python's parser, and the position in the text for each of its characters.

    The operands of `&`, `|`, `^`, `and` and `or` are put in parentheses, as is everything between commas and colons, so
    that comparisons bind more tightly than these operators. All names become `n`, since they are looked up by position.
    """
    pieces: list[tuple[str, int]] = []
    brackets: list[int] = []
    inside = False  # whether an added parenthesis is open
    for position, written in tokens.items():
        token = _PYTHON_OPERATORS.get(written, written)
        if inside is (token in _ENDS_COMPARISON):
            pieces.append((")" if inside else "(", position))
            inside = not inside
        if token in ("(", "["):
            brackets.append(position)
            if len(brackets) > MAX_BRACKETS:
                raise expression_error(text, position, f"brackets are nested more than {MAX_BRACKETS} deep")
            inside = False
        elif token in (")", "]"):
            if not brackets:
                raise expression_error(text, position, "closing bracket without an opening one")
            brackets.pop()
            inside = True
        is_name = (token[0] in "`_" or token[0].isalpha()) and token not in _KEYWORDS
        pieces.append((" n " if is_name else f" {token} ", position))
    if brackets:
        raise expression_error(text, brackets[-1], "bracket is never closed")
    pieces.append((")" if inside else "", len(text)))
    return "".join(piece for piece, _ in pieces), [position for piece, position in pieces for _ in piece]
