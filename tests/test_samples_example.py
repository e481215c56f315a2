"""The four-sample analysis in examples/htautau: yields from uproot and NumPy alone, and a classifier that trains."""

import json

import numpy as np
import pytest
import uproot
from scripts import HTAUTAU, run_forked

SAMPLES = json.loads((HTAUTAU / "samples.json").read_text())
LUMI = 19.7


def test_weighted_yields_and_training(tmp_path):
    params = {
        **json.loads((HTAUTAU / "samples_params.json").read_text()),
        "epochs": 2,
        "tfaas": False,
        "trial_export": False,
    }
    (tmp_path / "params.json").write_text(json.dumps(params))
    arguments = [f"--files={HTAUTAU / 'samples.json'}", "--model=ex_pytorch.py", "--params=params.json", "--fout=out"]
    done = run_forked("workflow.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Yields: sample  label       events  sum of weights (19.7/fb)" in done.stdout
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    yields = {(one.get("sample", ""), one["label"]): one for one in metrics["yields"]}
    totals = {"signal": np.zeros(3), "background": np.zeros(3)}
    for name, sample in SAMPLES.items():
        with uproot.open(HTAUTAU / sample["files"]) as file:
            generated = file["Runs"]["genEventSumw"].array(library="np").sum()
            weight = np.full(file["Events"].num_entries, LUMI * 1000 * sample["xsec"] / generated)
        moments = np.array([len(weight), weight.sum(), (weight**2).sum()])
        totals[sample["label"]] += moments
        check(yields[name, sample["label"]], moments)
    for label, moments in totals.items():
        check(yields["", label], moments)
    assert metrics["test"]["auc"] > 0.7
    report = (tmp_path / "out/report.html").read_text()
    assert "Yields after cuts, scaled to 19.7/fb." in report
    assert f"{yields['DY', 'background']['weighted']:.6g}" in report


def check(found, moments):
    assert found["events"] == moments[0]
    assert found["weighted"] == pytest.approx(moments[1], rel=1e-6)
    assert found["error"] == pytest.approx(np.sqrt(moments[2]), rel=1e-6)
