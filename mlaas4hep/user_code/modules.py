"""The helper modules of a Python file: modules and packages in the same folder, which the file may import.

    modules = HelperModules(Path("nets/net.py"), "mlaas4hep_model_file_net")
    module = modules.new_main_module()              # in its code, `import layers` runs nets/layers.py
    modules.sources                                 # {"layers.py": b"..."}

Only the code of these files can import the helper modules by their short names. In `sys.modules` they are submodules of
the main module, so that files of different folders may have helper modules of the same name. An installed package takes
precedence over a helper module of the same name. Python's bytecode cache is neither read nor written.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from mlaas4hep.errors import ConfigError, FileUnreadable

LARGEST_FOLDER = 50_000_000
"""Maximum total size, in bytes, of the files in a model folder."""

MOST_FILES = 1_000
"""Maximum number of files in a model folder."""


class HelperModules:
    """The modules in the folder of a Python file; see the module's docstring.

    Attributes:
        sources: contents, by path relative to the folder, of the files that the code has imported or may import later;
            with `whole_folder`, of all files except the main file.
        whole_folder: whether all files of the folder belong to the model.
        stand_ins: modules of this package that replace top-level modules, by the name that the code imports.
        after_import: called after each import of the code.
    """

    def __init__(self, main: Path, name: str, whole_folder: bool = False) -> None:
        """Read the files.

        Args:
            main: the Python file.
            name: name of its module.
            whole_folder: keep all files of the folder, not only modules that are imported.

        Raises:
            FileUnreadable: a file cannot be read.
            ConfigError: the folder is too large.
        """
        self.folder = Path(os.path.abspath(main.parent))  # the working directory may change before a later import
        self.stand_ins: dict[str, str] = {}
        self.after_import: Callable[[], None] = _do_nothing
        self.sources: dict[str, bytes] = {}
        self.whole_folder = whole_folder
        self._main, self._name = main, name
        self._scanned: set[Path] = set()
        if whole_folder:
            self.sources = _read_folder(self.folder)
            self.sources.pop(main.name, None)
        with suppress(SyntaxError, ValueError):  # reported when the file is run
            self._add_imports(main.read_bytes(), package="")

    def new_main_module(self) -> ModuleType:
        """Return an empty module for the code of the main file, and add it to `sys.modules`."""
        for name in [name for name in sys.modules if name == self._name or name.startswith(f"{self._name}.")]:
            del sys.modules[name]  # from an earlier run of this file, or of another file with the same name
        _Finder.install()
        _Finder.by_main_module[self._name] = self
        module = ModuleType(self._name)
        module.__file__ = str(self._main)
        module.__path__ = [str(self.folder)]
        module.__package__ = self._name
        self.prepare(module)
        sys.modules[self._name] = module
        return module

    def prepare(self, module: ModuleType) -> None:
        """Allow the code of a module to import helper modules by their short names."""
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}

    def _import(
        self,
        name: str,
        globals_: Mapping[str, object] | None = None,
        locals_: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Import a module, as `builtins.__import__` does; its name may be that of a helper module or a stand-in."""
        top, _, inner = name.partition(".")
        try:
            if not level and self.is_helper(top):
                return self._import_as(f"{self._name}.{top}", inner, fromlist, globals_)
            if not level and top in self.stand_ins:
                return self._import_as(self.stand_ins[top], inner, fromlist, globals_)
            return builtins.__import__(name, globals_, locals_, fromlist or (), level)
        except ModuleNotFoundError as error:
            if top in self.stand_ins and (error.name or "").startswith(self.stand_ins[top]):
                raise ConfigError(f"{self._main} imports '{name}', which has no equivalent here") from error
            raise
        finally:
            self.after_import()

    def _import_as(
        self, top: str, inner: str, fromlist: Sequence[str] | None, globals_: Mapping[str, object] | None
    ) -> ModuleType:
        """Import the module `inner` of the module `top`, or `top` itself; return what an import statement needs."""
        name = f"{top}.{inner}" if inner else top
        importlib.import_module(name)
        return builtins.__import__(name, globals_, None, fromlist, 0) if fromlist else sys.modules[top]

    def is_helper(self, top: str) -> bool:
        """Return whether an absolute import of a top-level module refers to a module in the folder."""
        file = self.locate(top)
        return file is not None and file != self.folder / self._main.name and not _is_installed(top)

    def locate(self, name: str) -> Path | None:
        """Return the file of a module, given its dotted name relative to the folder, or the folder of its package."""
        base = self.folder.joinpath(*name.split("."))
        for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if file.is_file():
                return file
        return base if base.is_dir() and any(base.glob("*.py")) else None

    def read(self, file: Path) -> bytes:
        """Return the content of a file of the folder, as it was when it was first read."""
        name = file.relative_to(self.folder).as_posix()
        if name not in self.sources:
            self.sources[name] = _read(file)
        return self.sources[name]

    def _add_imports(self, source: bytes, package: str) -> None:
        """Add the modules that the code of a module imports, anywhere in it; `package` is relative to the folder."""
        for name in _imported_names(ast.parse(source), package, self.is_helper):
            file = self.locate(name)
            if file is None or file in self._scanned or file.is_dir():
                continue
            self._scanned.add(file)
            with suppress(SyntaxError, ValueError):
                own_package = name if file.name == "__init__.py" else name.rpartition(".")[0]
                self._add_imports(self.read(file), own_package)


def _imported_names(tree: ast.AST, package: str, is_helper: Callable[[str], bool]) -> Iterator[str]:
    """Yield the modules that import statements may refer to, and their packages, as dotted names in the folder.

    Args:
        package: package of the code, for relative imports.
        is_helper: whether an absolute import of a top-level module refers to a module in the folder.
    """
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if is_helper(alias.name.partition(".")[0])]
        elif isinstance(node, ast.ImportFrom) and (node.level or is_helper((node.module or "").partition(".")[0])):
            parents = package.split(".")[: package.count(".") + 2 - node.level] if node.level and package else []
            base = [*parents, *([node.module] if node.module else [])]
            names = [".".join([*base, alias.name]) for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


class _Finder:
    """Finds the helper modules, which are submodules of a main module; an entry of `sys.meta_path`."""

    by_main_module: ClassVar[dict[str, HelperModules]] = {}

    @classmethod
    def install(cls) -> None:
        """Add this class to `sys.meta_path`, before the finder that would use the bytecode cache."""
        if cls not in sys.meta_path:
            sys.meta_path.insert(0, cls)

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a helper module; None for other modules."""
        main, _, inner = name.partition(".")
        modules = cls.by_main_module.get(main)
        file = modules.locate(inner) if modules is not None and inner else None
        if modules is None or file is None:
            return None
        if file.is_dir():
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(file)]
            return spec
        folders = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _Loader(name, str(file), modules)
        return importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=folders)


class _Loader(SourceFileLoader):
    """Loads a helper module from its source."""

    def __init__(self, name: str, path: str, modules: HelperModules) -> None:
        super().__init__(name, path)
        self._modules = modules

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Raise OSError, so that the bytecode cache is not used."""
        raise OSError

    def get_data(self, path: str) -> bytes:
        """Return the source."""
        return self._modules.read(Path(path))

    def exec_module(self, module: ModuleType) -> None:
        """Run the module."""
        self._modules.prepare(module)
        super().exec_module(module)


def _do_nothing() -> None:
    """Default of `after_import`."""


@cache
def _is_installed(top: str) -> bool:
    """Return whether a top-level module belongs to Python or to an installed package."""
    if top in sys.stdlib_module_names or top == "mlaas4hep":
        return True
    folders = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    return PathFinder.find_spec(top, folders) is not None


def _read_folder(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files of a folder by path, without hidden files, links to folders and bytecode."""
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        paths = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        files += [path for path in paths if path.is_file()]
        if len(files) > MOST_FILES:
            break
    size = sum(file.stat().st_size for file in files)
    if len(files) > MOST_FILES or size > LARGEST_FOLDER:
        amount = f"more than {MOST_FILES:,} files" if len(files) > MOST_FILES else f"{size / 1e6:,.0f} MB"
        raise ConfigError(
            f"the model folder {folder} has {amount}, which is too much to copy into the bundle",
            hint=f"move the model file and its helper modules (up to {LARGEST_FOLDER / 1e6:.0f} MB) to a folder of"
            " their own, or name the file instead of the folder, to copy only the modules that it imports",
        )
    return {file.relative_to(folder).as_posix(): _read(file) for file in files}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise FileUnreadable(f"cannot read {file}: {error.strerror}") from error
