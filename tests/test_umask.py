"""Outputs have the permissions that the umask gives to any other file; the cache is private with any umask."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import ROOT, only_error_line
from tinyroot import write_events

from mlaas4hep import DataReader
from mlaas4hep.config import Params
from mlaas4hep.histograms.write import write_histograms
from mlaas4hep.reader.export import write_vectors
from mlaas4hep.scoring.files import score_files
from mlaas4hep.training import train_model

pytestmark = pytest.mark.usefixtures("without_trial_export")

MODEL = "from sklearn.linear_model import LogisticRegression\ndef model(idim): return LogisticRegression()\n"


@pytest.fixture(name="mask", params=[0o000, 0o027, 0o077])
def mask_fixture(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask that is in force during the test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, set[int]]:
    """The permissions of all files and folders in a folder."""
    found: dict[str, set[int]] = {"files": set(), "folders": set()}
    for path in folder.rglob("*"):
        found["folders" if path.is_dir() else "files"].add(stat.S_IMODE(path.stat().st_mode))
    return found


def test_all_outputs_have_the_permissions_of_the_umask(
    mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, place = tmp_path / "data", tmp_path / "place"
    data.mkdir()
    for index, name in enumerate("ab"):
        write_events(data / f"{name}.root", 200, seed=index, run=index)
    (data / "model.py").write_text(MODEL)
    monkeypatch.setenv("MLAAS4HEP_CACHE", str(tmp_path / "cache"))
    files = [str(data / "a.root"), str(data / "b.root")]
    train_model(files, ["a", "b"], str(data / "model.py"), Params(tfaas=False, kfold=2), fout=str(place / "bundle"))
    list(score_files(place / "bundle", files, place / "scores"))
    with DataReader(files[0]) as reader:
        for ending in ("npz", "parquet", "h5"):
            write_vectors(reader, place / f"vectors.{ending}")
        reader.specs.save(place / "specs.json")
        write_histograms(reader, place / "histograms")
    assert modes(place) == {"files": {0o666 & ~mask}, "folders": {0o777 & ~mask}}
    cache = modes(tmp_path / "cache")["folders"]
    assert cache == {0o700}


def test_models_on_a_server_have_the_permissions_of_the_umask(mask: int, tmp_path: Path) -> None:
    from serving_fixtures import Server, run_client, write_bundle

    bundle = write_bundle(tmp_path / "htautau")
    with Server.start(tmp_path / "models") as server:
        for option in ("--bundle=", "--upload="):
            done = run_client(f"--url={server.url}", f"{option}{bundle}{'/upload.json' * (option == '--upload=')}")
            assert done.returncode == 0, done.stderr
            model = tmp_path / "models" / "htautau"
            assert stat.S_IMODE(model.stat().st_mode) == 0o777 & ~mask
            assert modes(model) == {"files": {0o666 & ~mask}, "folders": set()}


SCRIPTS = {
    "reader.py": ["--fin=a.root", "--fout=v.json"],
    "workflow.py": ["--files=a.root"],
    "tfaas_server.py": ["--models-dir=models", "--port=0"],
    "tfaas_client.py": ["--models"],
    "hep_resnet.py": ["--fdir=images", "--flabels=labels.csv"],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_umask_that_denies_the_owner_is_an_error_of_one_line(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / script), *SCRIPTS[script]]
    done = subprocess.run(command, cwd=tmp_path, umask=0o777, capture_output=True, text=True, check=False, timeout=60)
    expected = "error: the umask 0777 denies you access to your own new files; set another: umask 022"
    assert only_error_line(done) == expected
    assert list(tmp_path.iterdir()) == []
