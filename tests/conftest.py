"""What holds for all tests."""

import pytest


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    """No test finds the cached events of another, or leaves any behind."""
    monkeypatch.setenv("MLAAS4HEP_CACHE", str(tmp_path_factory.mktemp("cache")))
