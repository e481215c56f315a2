"""What holds for all tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch_exports import share_registry_if_loaded
from what_tests_start import PACKAGES, markers_of, markers_of_import

from mlaas4hep.config import Params

WITHOUT_FRAMEWORKS = "not framework"
"""Within an expression of -m: such a run does not even import the modules that import a framework."""


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    """No test finds the cached events of another, or leaves any behind."""
    monkeypatch.setenv("MLAAS4HEP_CACHE", str(tmp_path_factory.mktemp("cache")))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip whole modules whose import takes as long as their tests."""
    is_module = collection_path.suffix == ".py" and WITHOUT_FRAMEWORKS in config.option.markexpr
    return True if is_module and "framework" in markers_of_import(collection_path) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that load a framework or start a process."""
    for marker in markers_of(item.path, getattr(item, "originalname", item.name)):
        item.add_marker(marker)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that both processes of `make test` end at about the same time."""
    with_framework, with_process = (
        {item.path for item in items if item.get_closest_marker(marker)} for marker in ("framework", "process")
    )
    forks = "test_datasets.py"  # a fork may wait for ever after XRootD's client was used in the same process
    items.sort(
        key=lambda item: (item.path.name != forks, item.path not in with_framework, item.path not in with_process)
    )


@pytest.fixture
def empty_working_folder(tmp_path_factory, monkeypatch):
    """Relative names do not refer to files in the folder where pytest was started."""
    monkeypatch.chdir(tmp_path_factory.mktemp("working"))


@pytest.fixture(scope="module")
def without_plots():
    """Reports have tables alone, which saves a second per training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlaas4hep.report.plots.available", lambda: False)
        yield


@pytest.fixture(scope="module")
def without_trial_export():
    """By default, models are exported only after the training, which saves a second per training."""
    with pytest.MonkeyPatch.context() as patch:
        default = Params.model_fields["trial_export"]
        patch.setattr(default, "default", False)
        Params.model_rebuild(force=True)
        yield
    Params.model_rebuild(force=True)


_LOADED_BEFORE = pytest.StashKey[frozenset[str]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> object:
    """Note what is loaded before a test and its fixtures."""
    item.stash[_LOADED_BEFORE] = PACKAGES & sys.modules.keys()
    return (yield)


@pytest.fixture(autouse=True)
def _frameworks_only_in_tests_with_the_marker(request):
    """What tests/what_tests_start.py does not find in the source code is found when it happens."""
    share_registry_if_loaded()
    yield
    new = PACKAGES & sys.modules.keys() - request.node.stash[_LOADED_BEFORE]
    if request.node.get_closest_marker("framework") is None:
        assert new == set(), "`make test-fast` loads no framework; give this test the marker @pytest.mark.framework"
