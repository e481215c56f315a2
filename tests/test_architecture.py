"""The rules of the architecture: layers, no import cycles, no framework at import, a quick --help."""

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter

import pytest
from scripts import ROOT

LAYERS = {"io": 1, "protocol": 1, "expressions": 2, "specs": 2, "reader": 3, "histograms": 4, "stream": 4, "samples": 4}
LAYERS |= {"backends": 5, "duplicates": 5}
LAYERS |= {"images": 6, "onnx_to_tf": 6, "report": 6, "training": 6, "scoring": 6, "client": 7, "serving": 7}
HEAVY = {"awkward", "keras", "matplotlib", "onnx", "onnxruntime", "sklearn", "starlette", "tensorflow", "torch",
         "uvicorn", "xgboost"}  # fmt: skip
OWNERS = {
    "keras": {
        "images/resnet.py",
        "backends/keras.py",
        "backends/keras_aux_loss.py",
        "backends/keras_precision.py",
        "backends/keras_state.py",
        "backends/keras_training.py",
    },
    "torch": {
        "backends/torch.py",
        "backends/pytorch/average.py",
        "backends/pytorch/export.py",
        "backends/torch_dataset.py",
        "backends/pytorch/loss.py",
        "backends/pytorch/optimizer.py",
        "backends/original/jarray/pytorch.py",
    },
    "onnx": {"training/onnx_graph.py"},
    "sklearn": {"backends/sklearn.py"},
    "xgboost": {"backends/xgboost.py"},
    "uvicorn": {"serving/http/connections.py", "serving/http/fast_path.py", "serving/process.py"},
}
"""Modules that import a package when they are imported themselves."""
OWNING_PACKAGES = {"onnx": ("onnx_to_tf/",), "tensorflow": ("onnx_to_tf/",), "starlette": ("serving/",)}
"""Packages whose modules may do so."""
MODULES = sorted((ROOT / "mlaas4hep").rglob("*.py"))


def layer_of(parts):
    """The layer of a module, given its path inside the package."""
    return LAYERS.get(parts[0], 0) if parts else 0


def imports(tree):
    """Every imported module of a file, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_its_own_layer_and_those_below(path):
    own = path.relative_to(ROOT / "mlaas4hep").parts
    if own == ("__init__.py",):
        return  # the public names come from all layers, lazily
    for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
        top, *rest = name.split(".")
        if top == "mlaas4hep" and rest:
            assert layer_of(rest) <= layer_of(own), f"{name} is above"


def test_client_and_server_import_nothing_from_each_other():
    for package, other in (("client", "serving"), ("serving", "client")):
        modules = [path for path in MODULES if package in path.relative_to(ROOT / "mlaas4hep").parts[:1]]
        assert len(modules) > 5
        for path in modules:
            names = list(imports(ast.parse(path.read_text(encoding="utf-8"))))
            assert not [name for name in names if name.startswith(f"mlaas4hep.{other}")], path


def test_no_package_has_more_than_20_modules():
    packages = Counter(path.parent for path in MODULES)
    assert len(packages) > 15
    assert {package: count for package, count in packages.items() if count > 20} == {}


NAMES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
"""The file of each module."""


def imported(nodes):
    """The modules of the package that import statements name."""
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & NAMES.keys()
            found |= submodules or {node.module}
    return found & NAMES.keys()


def executed(body):
    """The statements that the import of a module executes, without those that are for type checking."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try) and "TYPE_CHECKING" not in ast.unparse(node).splitlines()[0]:
            yield from executed([*node.body, *node.orelse])


def packages_of(module):
    """The packages that Python imports before a module."""
    parts = module.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


def test_no_module_imports_itself_through_others():
    """Imports within functions and for type checking count as well."""
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in NAMES.items()}
    assert len(trees) > 200
    graph = {name: imported(list(ast.walk(tree))) for name, tree in trees.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_every_module_can_be_the_first_that_is_imported():
    """The packages that a module is in are imported before it, and their imports before them."""
    graph = {}
    for name, path in NAMES.items():
        found = imported(list(executed(ast.parse(path.read_text(encoding="utf-8")).body)))
        found |= {package for module in found for package in packages_of(module)}
        graph[name] = found - {name} - packages_of(name)
    assert sum(map(len, graph.values())) > 500
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_are_imported_on_top_only_by_the_module_that_is_for_them(path):
    own = str(path.relative_to(ROOT / "mlaas4hep"))
    top_level = ast.Module(
        [
            node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ],
        [],
    )
    for name in imports(top_level):
        top = name.partition(".")[0]
        is_owner = own in OWNERS.get(top, ()) or own.startswith(OWNING_PACKAGES.get(top, "-"))
        assert top not in HEAVY or is_owner, f"{name} on top of {own}"


def test_importing_the_package_loads_no_framework():
    packages = "mlaas4hep, mlaas4hep.reader, mlaas4hep.stream, mlaas4hep.images, mlaas4hep.training"
    code = f"import sys, {packages}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & (HEAVY - {"awkward"})  # uproot itself brings awkward


def test_public_names_can_be_imported():
    import mlaas4hep

    for name in mlaas4hep.__all__:
        assert getattr(mlaas4hep, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'DataRaeder'"):
        _ = mlaas4hep.DataRaeder


@pytest.mark.parametrize("script", ["reader.py", "workflow.py", "tfaas_client.py", "tfaas_server.py", "hep_resnet.py"])
def test_help_is_printed_without_slow_imports(script):
    command = [sys.executable, "-X", "importtime", ROOT / script, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{script} --" in done.stdout
    loaded = set(re.findall(r"^import time: .*\| +(\w+)$", done.stderr, re.M))
    assert "argparse" in loaded
    assert not loaded & {*HEAVY, "numpy", "uproot", "requests"}
    assert "pydantic" not in loaded or script == "reader.py"  # whose flags are made from a model
