"""The house stands as it was drawn: imports go down, frameworks stay out, --help is quick."""

import ast
import subprocess
import sys
import time

import pytest
from scripts import ROOT

FLOORS = {"io": 1, "reader": 2, "stream": 3, "images": 4, "training": 4, "client": 5, "serving": 5}
HEAVY = {"awkward", "dask", "keras", "matplotlib", "onnx", "onnxruntime", "sklearn", "starlette", "tensorflow", "torch",
         "uvicorn", "xgboost"}  # fmt: skip
TENSORFLOW = ("onnx_interpreter", "onnx_layers", "onnx_ml", "onnx_ops", "onnx_recurrent", "onnx_shapes")
STARLETTE = ("access", "answers", "app", "bodies", "gate", "oip", "origins", "page", "parsers", "predictions", "proto",
             "service")  # fmt: skip
OWNERS = {
    "keras": {"images/resnet.py", "training/keras_backend.py"},
    "torch": {"training/torch_backend.py", "training/torch_dataset.py"},
    "onnx": {"training/onnx_graph.py", *(f"training/{name}.py" for name in TENSORFLOW)},
    "tensorflow": {f"training/{name}.py" for name in TENSORFLOW},
    "sklearn": {"training/sklearn_backend.py"},
    "xgboost": {"training/xgboost_backend.py"},
    "starlette": {f"serving/{name}.py" for name in STARLETTE},
    "uvicorn": {"serving/connections.py", "serving/server.py"},
}
MODULES = sorted((ROOT / "mlaas4hep").rglob("*.py"))


def floor_of(parts):
    """The floor of a module, given its path inside the package."""
    return FLOORS.get(parts[0], 0) if parts else 0


def imports(tree):
    """Every imported module of a file, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_its_own_floor_and_those_below(path):
    own = path.relative_to(ROOT / "mlaas4hep").parts
    if own == ("__init__.py",):
        return  # the public names come from all floors, lazily
    for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
        top, *rest = name.split(".")
        if top == "mlaas4hep" and rest:
            assert floor_of(rest) <= floor_of(own), f"{name} is above"


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
        assert top not in HEAVY or own in OWNERS.get(top, ()), f"{name} on top of {own}"


def test_importing_the_package_loads_no_framework():
    packages = "mlaas4hep, mlaas4hep.reader, mlaas4hep.stream, mlaas4hep.images, mlaas4hep.training"
    code = f"import sys, {packages}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & (HEAVY - {"awkward"})  # uproot itself brings awkward


def test_public_names_are_there():
    import mlaas4hep

    for name in mlaas4hep.__all__:
        assert getattr(mlaas4hep, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'DataRaeder'"):
        _ = mlaas4hep.DataRaeder


@pytest.mark.parametrize("script", ["reader.py", "workflow.py", "tfaas_client.py", "tfaas_server.py", "hep_resnet.py"])
def test_help_comes_in_less_than_half_a_second(script):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, ROOT / script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5  # the one time that was asked for
    assert f"{script} --" in done.stdout
