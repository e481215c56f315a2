"""The text of an expression → Python's syntax tree of it, with positions in the text.

    syntax = parse("nMuon >= 2 & abs(Jet_eta) < 2.4")    # the tree of (nMuon >= 2) & (abs(Jet_eta) < 2.4)
    syntax.position(syntax.body), syntax.name(syntax.body.left.left)

The grammar is Python's, with what physicists write beside it: `&&`, `||` and `!` are accepted, and comparisons bind
tighter than `&`, `^` and `|`. From loosest to tightest: or ||, and &&, |, ^, &, not, comparisons, + -, * / // %, signs
and ~ !, **. Only names, numbers and operators reach Python's parser, and nothing is compiled; which nodes of the tree
mean something is up to `expressions`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlaas4hep.errors import ConfigError

MAX_LENGTH = 10_000
"""Characters of an expression; a longer one is refused."""
MAX_BRACKETS = 50
"""How deep brackets may nest; Python's own parser gives up at 200, two of which stand for one of ours."""

_TOKEN = re.compile(
    r"""
    (?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<name>`[^`]+`|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)
    |(?P<operator>\*\*|//|<=|>=|==|!=|&&|\|\||[-+*/%<>&|^~!()\[\],:])
    """,
    re.VERBOSE | re.ASCII,
)
_PYTHONS = {"&&": "and", "||": "or", "!": "~"}
_WORDS = frozenset({"and", "or", "not"})
_ENDS_COMPARISON = frozenset({"&", "|", "^", "and", "or", ",", ":", ")", "]"})


@dataclass(frozen=True)
class Syntax:
    """A text and the tree of it.

    Attributes:
        text: as it was written.
        body: the tree; every name in it is `n`, see `name`.
        tokens: names, numbers and operators by their position in the text.
        origin: position in the text of each column of the tree.
    """

    text: str
    body: ast.expr
    tokens: Mapping[int, str]
    origin: Sequence[int]

    def position(self, node: ast.expr) -> int:
        """Return where in the text a node begins."""
        return self.origin[node.col_offset]

    def name(self, node: ast.Name) -> str:
        """Return a name as it was written, with its backticks or dots."""
        return self.tokens[self.position(node)]


def parse(text: str) -> Syntax:
    """Read an expression.

    Raises:
        ConfigError: it is too long, empty, nested too deeply, or against the grammar.
    """
    if len(text) > MAX_LENGTH:
        raise refusal(text, 0, f"{len(text)} characters are too many, at most {MAX_LENGTH} are read")
    tokens = _tokenize(text)
    source, origin = _rewrite(text, tokens)
    try:
        tree = ast.parse(source, mode="eval")
    except (RecursionError, MemoryError) as error:
        raise refusal(text, 0, "operators and brackets nest too deeply") from error
    except SyntaxError as error:
        column = (error.offset or 0) - 1
        position = origin[column] if 0 <= column < len(origin) else len(text)
        raise refusal(text, position, "this is no expression") from error
    return Syntax(text, tree.body, tokens, origin)


def refusal(text: str, position: int, reason: str, **more: Any) -> ConfigError:
    """Return the error that quotes an expression, on one line, and the part of it that is wrong.

    Args:
        position: where the part begins.
        more: `nearest` and `hint` of the error.
    """
    part = " ".join(text[position : position + 24].split())
    where = f" at '{part}' (character {position + 1})" if part else " at its end"
    shown = " ".join(text[:200].split()) + "..." * (len(text) > 200)
    return ConfigError(f"expression '{shown}': {reason}{where}", **more)


def _tokenize(text: str) -> dict[int, str]:
    """Return names, numbers and operators by position; whatever else there is, is refused."""
    tokens: dict[int, str] = {}
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
        elif match := _TOKEN.match(text, position):
            tokens[position] = match[0]
            position = match.end()
        else:
            raise refusal(text, position, f"{text[position]!r} has no meaning here")
    if not tokens:
        raise refusal(text, 0, "it is empty")
    return tokens


def _rewrite(text: str, tokens: Mapping[int, str]) -> tuple[str, list[int]]:
    """Write the tokens for Python's parser, and return also from which position in the text each character comes.

    Each stretch that `&`, `|`, `and` and their like, commas and colons leave is put in parentheses, so that comparisons
    bind tighter than these operators. Names become `n`: what they are is looked up by position, so any name will do.
    """
    pieces: list[tuple[str, int]] = []
    brackets: list[int] = []
    inside = False  # a stretch whose parenthesis is open
    for position, written in tokens.items():
        token = _PYTHONS.get(written, written)
        if inside is (token in _ENDS_COMPARISON):
            pieces.append((")" if inside else "(", position))
            inside = not inside
        if token in ("(", "["):
            brackets.append(position)
            if len(brackets) > MAX_BRACKETS:
                raise refusal(text, position, f"brackets nest more than {MAX_BRACKETS} deep")
            inside = False
        elif token in (")", "]"):
            if not brackets:
                raise refusal(text, position, "this bracket was never opened")
            brackets.pop()
            inside = True
        is_name = (token[0] in "`_" or token[0].isalpha()) and token not in _WORDS
        pieces.append((" n " if is_name else f" {token} ", position))
    if brackets:
        raise refusal(text, brackets[-1], "this bracket is never closed")
    pieces.append((")" if inside else "", len(text)))
    return "".join(piece for piece, _ in pieces), [position for piece, position in pieces for _ in piece]
