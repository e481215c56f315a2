"""Which tests load a framework or start a process, found in their source code.

A test does if it, or a fixture, helper or constant in `tests/` that it uses directly or indirectly, matches a pattern.

markers_of(Path("tests/test_run.py"), "test_sigterm_ends_a_run_with_a_checkpoint")    # {"framework", "process"}
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGES = frozenset(
    ["keras", "playwright", "skl2onnx", "sklearn", "tensorboard", "tensorflow", "tf2onnx", "torch", "xgboost"]
)
"""The frameworks, and other packages whose import takes seconds."""

_TESTS = Path(__file__).parent
_PATTERNS = {
    "framework": re.compile(
        rf"\b(?:import|from|importorskip\(\"|find_spec\(\") *(?:[\w.]+\.)?(?:{'|'.join(sorted(PACKAGES))})\b"
        r"|\brun_forked\(|which\(\"(?:chromium|xrootd)\"\)|\bex_[a-z]\w+|examples/models"
    ),
    "process": re.compile(
        r"\bsubprocess\.\w+\(|\bPopen\(|\bmultiprocessing\b|\bSubprocessPredictor\b|\bModelLoader\b"
        r"|\bPredictors\("
    ),
}


@cache
def markers_of(path: Path, name: str) -> frozenset[str]:
    """Return the markers of a function of a test module."""
    return markers_of_import(path) | _Module.read(path).markers(name, set())


@cache
def markers_of_import(path: Path) -> frozenset[str]:
    """Return the markers of the import of a test module, and of the helpers that it imports."""
    module = _Module.read(path)
    return frozenset(module.on_import).union(*map(markers_of_import, module.helpers))


class _Definition(NamedTuple):
    """The markers of a top-level statement itself, and the names that it uses."""

    markers: frozenset[str]
    uses: frozenset[str]


class _Module:
    """The functions, classes, constants and imports of a file in `tests/`, by name."""

    def __init__(self, path: Path) -> None:
        source = path.read_text(encoding="utf-8")
        self._lines = source.splitlines()
        self._definitions: dict[str, list[_Definition]] = {}
        self._imported: dict[str, tuple[Path, str]] = {}
        self.on_import: set[str] = set()
        for node in ast.parse(source).body:
            self._add(node)
        self.helpers = {helper for helper, _ in self._imported.values()}

    @classmethod
    @cache
    def read(cls, path: Path) -> _Module:
        return cls(path)

    def markers(self, name: str, visited: set[tuple[_Module, str]]) -> frozenset[str]:
        """Return the markers of the definition of a name, and of anything that it uses."""
        if (self, name) in visited:
            return frozenset()
        visited.add((self, name))
        if name in self._imported:
            path, original = self._imported[name]
            return _Module.read(path).markers(original, visited)
        if name not in self._definitions:  # perhaps a fixture that is imported, under the name that pytest knows
            helpers = map(_Module.read, self.helpers)
            return frozenset().union(*(one.markers(name, visited) for one in helpers if name in one._definitions))
        found = self._definitions[name]
        used = {used for definition in found for used in definition.uses}
        own = (definition.markers for definition in found)
        return frozenset().union(*own, *(self.markers(each, visited) for each in used))

    def _add(self, node: ast.stmt) -> None:
        nodes = list(ast.walk(node))
        for each in nodes:
            if isinstance(each, ast.ImportFrom) and (helper := _TESTS / f"{each.module}.py").is_file():
                self._imported |= {alias.asname or alias.name: (helper, alias.name) for alias in each.names}
        uses = {each.id for each in nodes if isinstance(each, ast.Name)}
        uses |= {each.arg for each in nodes if isinstance(each, ast.arg)}  # fixtures
        decorators = getattr(node, "decorator_list", [])
        first = min(each.lineno for each in [node, *decorators])
        text = "\n".join(self._lines[first - 1 : node.end_lineno])
        markers = frozenset(marker for marker, pattern in _PATTERNS.items() if pattern.search(text))
        names: set[str] = set()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = {node.name, *(name for each in decorators if (name := _fixture_name(each)))}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names = {each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
            if any(isinstance(each, ast.Call) for each in nodes):  # and not the text of a model file
                self.on_import |= markers
        elif "framework" in markers:
            self.on_import.add("framework")
        for name in names:
            self._definitions.setdefault(name, []).append(_Definition(markers, frozenset(uses - {name})))


def _fixture_name(decorator: ast.expr) -> str | None:
    """Return X of @pytest.fixture(name=X)."""
    for keyword in decorator.keywords if isinstance(decorator, ast.Call) else []:
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return None
