"""Real ROOT files for tests: CMS open data and samples of scikit-hep, which are not in the repository."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def real_file(name):
    """Return the path of a real file, or skip the test with the reason why there is none.

    It is looked for in $MLAAS4HEP_TESTDATA, in ../shared/data beside the clone, and through scikit-hep-testdata, where
    that is installed and can download.
    """
    folders = [Path(os.environ["MLAAS4HEP_TESTDATA"])] if "MLAAS4HEP_TESTDATA" in os.environ else []
    folders.append(ROOT.parent / "shared" / "data")
    for folder in folders:
        for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if path.is_file():
                return str(path)
    return _downloaded(name)


def case_file(name):
    """Return the path of a small file that shows a user's situation, or skip the test if it is not beside the clone."""
    path = ROOT.parent / "shared" / "cases" / "reading" / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return str(path)


def _downloaded(name):
    try:
        import skhep_testdata
    except ModuleNotFoundError:
        pytest.skip(f"{name} is not here: set MLAAS4HEP_TESTDATA to its folder, or install scikit-hep-testdata")
    try:
        return skhep_testdata.data_path(name)
    except Exception as error:
        pytest.skip(f"{name} is not here, and cannot be downloaded: {error}")
