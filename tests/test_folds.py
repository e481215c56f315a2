"""Generators of cross-validation folds: they share the survey of the sample, and give the batches of separate ones."""

import json

import numpy as np
import pytest
from tinyroot import write_events

from mlaas4hep import DataGenerator
from mlaas4hep.config import Params
from mlaas4hep.reader import DataReader
from mlaas4hep.stream.fold_specs import specs_by_fold
from mlaas4hep.training.run import train_model

pytestmark = pytest.mark.usefixtures("without_trial_export")

FOLDS = 3
MODEL = "from sklearn.linear_model import SGDClassifier\ndef model(idim): return SGDClassifier(loss='log_loss')\n"


@pytest.fixture
def samples(tmp_path):
    """Samples with cross sections; a file lacks a branch, and another one cannot be read."""
    for number, name in enumerate(("a", "b", "c")):
        more = {"extra": np.arange(300, dtype=np.float32)} if name != "b" else {}
        weight = np.linspace(0.5, 1.5, 300)
        write_events(tmp_path / f"{name}.root", 300, seed=number, run=number, genWeight=weight, **more)
    (tmp_path / "bad.root").write_text("not a ROOT file")
    files = {name: str(tmp_path / f"{name}.root") for name in ("a", "b", "c", "bad")}
    return {
        "signal": {"files": [files["a"], files["bad"]], "xsec": 2.0, "sumw": "genWeight"},
        "background": {"files": [files["b"], files["c"]], "xsec": 30.0, "cut": "met > 10"},
    }


PARAMS = {
    "kfold": FOLDS, "weight": "genWeight", "lumi": 5.0, "on_error": "skip", "missing_branches": "nan", "batch_size": 64,
    "chunk_size": 200, "cache": False, "balance": "weights",
}  # fmt: skip


@pytest.mark.parametrize(
    "more", [{}, {"max_length": 2, "cache": True}, {"selected_branches": ["met", "pt"]}, {"normalise": "none"}]
)
def test_the_batches_are_those_of_a_separate_generator(samples, more):
    params = {**PARAMS, **more}
    with DataGenerator(samples, params=params) as whole:
        assert whole.composition  # of fold 0; every fold has its own
        left_out = {file.name: file.reason for file in whole.sample.survey.left_out}
        assert len(left_out) == 1
        for fold, specs in enumerate(specs_by_fold(whole.sample, FOLDS)):
            separate = DataGenerator(samples, params=params, specs=specs, fold=fold, left_out=left_out)
            with whole.for_fold(fold, specs) as shared, separate:
                assert shared.specs == separate.specs
                assert shared.sample.key == separate.sample.key
                np.testing.assert_array_equal(shared.composition.events, separate.composition.events)
                for part in ("train", "valid", "test"):
                    pairs = zip(shared.batches(part), separate.batches(part), strict=True)
                    for mine, other in pairs:
                        np.testing.assert_array_equal(mine.x, other.x)
                        np.testing.assert_array_equal(mine.mask, other.mask)
                        np.testing.assert_array_equal(mine.y, other.y)
                        np.testing.assert_array_equal(mine.weight, other.weight)
                        np.testing.assert_array_equal(mine.ids["event"], other.ids["event"])
                assert shared.sample.data_notices() == separate.sample.data_notices()


def test_each_event_is_in_the_test_part_of_one_fold(samples):
    with DataGenerator(samples, params=PARAMS) as whole:
        every = sorted((int(run), int(event)) for batch in whole for run, event in _ids(batch))
        tested = []
        for fold in range(FOLDS):
            with whole.for_fold(fold, whole.specs) as generator:
                tested += [(int(run), int(event)) for batch in generator.batches("test") for run, event in _ids(batch)]
    assert sorted(tested) == every


def _ids(batch):
    return zip(batch.ids["run"], batch.ids["event"], strict=True)


def test_a_run_surveys_the_files_and_sums_their_weights_once(samples, tmp_path, monkeypatch):
    sums, opened = [], []
    original_sum, original_open = DataReader.sum_before_cuts, DataReader.open.__func__
    monkeypatch.setattr(
        DataReader,
        "sum_before_cuts",
        lambda reader, weight: [sums.append(reader.name), original_sum(reader, weight)][1],
    )

    def recorded(cls, name, *arguments, **options):
        opened.append(name)
        return original_open(cls, name, *arguments, **options)

    monkeypatch.setattr(DataReader, "open", classmethod(recorded))
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    params = Params(**PARAMS, tfaas=False)
    train_model(str(tmp_path / "samples.json"), None, str(tmp_path / "model.py"), params, fout=tmp_path / "out")
    assert sorted(name.rpartition("/")[2] for name in sums) == ["a.root", "b.root", "c.root"]
    assert sum(name.endswith("bad.root") for name in opened) == 1
