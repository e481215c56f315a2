"""Every mistake with labels, weights, splits, params and model files is one line that says the cure."""

import json

import numpy as np
import pytest
from tinyroot import write_events

from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, MLaaS4HEPError
from mlaas4hep.stream import DataGenerator
from mlaas4hep.stream.labels import labels_by_branch
from mlaas4hep.training.loop import check_parts

EVENTS = 1100
REGRESSION, MULTILABEL = {"task": "regression"}, {"task": "multilabel"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files with all that can be wrong with labels and weights."""
    folder, number = tmp_path_factory.mktemp("files"), np.arange(EVENTS)
    branches = {
        "kind": number % 2, "many": number, "same": np.ones(EVENTS, int), "both": np.ones(EVENTS, int),
        "w": np.where(number == 7, np.nan, 1.0), "huge": np.full(EVENTS, 1e300),
    }  # fmt: skip
    for run, name in enumerate(("a", "b")):
        write_events(folder / f"{name}.root", EVENTS, run=run, **branches)
    return [str(folder / "a.root"), str(folder / "b.root")]


@pytest.mark.parametrize(
    ("labels", "params", "says", "cure"),
    [
        (["s"], {}, "1 labels for 2 files", "give one label per file, in the same order"),
        (["s", "s"], {}, "a classification needs two classes", "give two classes, or no labels"),
        ("same", {}, "all events have 'same' = 1", "give two classes, or no labels"),
        ("w", {}, "label branch 'w' is NaN for some events", '{"cuts": [{"cut": "w == w", "training_only": true}]}'),
        ("knid", {}, "branch 'knid' is not in", "closest: 'kind'"),
        ("many", {}, "1100 distinct values, more than 1000", "or define classes with --preproc"),
        ("pt", {}, "is not one number per event: it is jagged", '{"define": {"label": "sum(pt)"}}'),
        (
            "[sb]*",
            {},
            "2 of the labels same, both",
            "set 'task' to 'multilabel' in the params, or remove such events in training, with --preproc: "
            '{"cuts": [{"cut": "same + both == 1", "training_only": true}]}',
        ),
        (["kind", "pt"], MULTILABEL, "it is jagged", '{"define": {"label": "sum(pt)"}}'),
        ("same", REGRESSION, "target 'same' has the same value in all events", "remove it from --labels"),
        (
            "w",
            REGRESSION,
            "'w' has the value nan, which is not a finite float32 number",
            '{"cuts": [{"cut": "abs(w) < 1e38", "training_only": true}]}',
        ),
        (
            ["1", "x"],
            REGRESSION,
            "labels of a regression must be numbers: could not convert string to float: 'x'",
            "give one number per file",
        ),
        (["1", "nan"], REGRESSION, "must be finite float32 numbers, not 'nan'", "give one number per file"),
        (["-inf", "1"], REGRESSION, "must be finite float32 numbers, not '-inf'", "give one number per file"),
        ("huge", REGRESSION, "which is not a finite float32 number", "remove such events in training"),
        (["1", "1"], REGRESSION, "target 'target' has the same value in all events", "give files in which it differs"),
        (None, REGRESSION, "which needs labels", "name branches with --labels"),
        (
            "kind",
            {"weight": "w"},
            "is nan for entry 7 of {file}",
            "change 'weight' in the params, or remove such events with a cut",
        ),
        (
            "kind",
            {"weight": "huge"},
            "is 1e+300 for entry 0 of {file}; weights must be finite float32 numbers",
            "change 'weight'",
        ),
        ("kind", {"weight": "pt"}, "'pt' gives a list per event", "take one of its values, as in Jet_pt[:, 0]"),
        ("kind", {"weight": "flor(met)"}, "unknown function 'flor'", "closest: 'floor'"),
        ("kind", {"weight": "mte"}, "branch 'mte' is not in", "closest: 'met'"),
        ("kind", {"weight": "met *"}, "expression 'met *': invalid syntax at the end", ""),
        (
            "kind",
            {"split": {"valid": "event < 9", "test": "event < 5"}},
            "'event < 9' and 'event < 5' both select some events",
            "'(event < 5) & !(event < 9)'",
        ),
        ("kind", {"split": {"valid": "event < 9"}}, "cannot be", 'give expressions for "valid" and "test"'),
        ("kind", {"split": [1, 1, 1]}, "cannot be [1, 1, 1]", "that add up to 1 are needed, as in [0.7, 0.15, 0.15]"),
        ("kind", {"balance": "weight"}, "cannot be 'weight'", "should be 'none', 'weights' or 'sampling'"),
        ("kind", {"mix": "balnced"}, "cannot be 'balnced'", "should be 'proportional', 'balanced' or 'sequential'"),
        ("kind", {"epoch": 5}, "unknown key 'epoch'", "closest: 'epochs'"),
        ("kind", {"balance": "weights", "kfold": 1}, "'kfold' is 1", "give 0 for a single model, or at least 2 folds"),
    ],
)
def test_a_mistake_with_labels_weights_or_params_is_a_line_with_its_cure(labels, params, says, cure, files):
    with pytest.raises(MLaaS4HEPError) as caught, DataGenerator(files, labels, params) as generator:
        list(generator.batches("train"))
    check(caught.value, says.format(file=files[0]), cure)


@pytest.mark.parametrize(
    ("text", "says", "cure"),
    [
        (
            "def model(idim):\n    return 1 / (idim - 3)",
            "model(3) of {path} fails, line 2: ZeroDivisionError",
            "must return a model",
        ),
        ("def model(idim): pass", "model(3) of {path} returns None", "end it with: return model"),
        ("def modle(idim): pass", "{path} does not define a function 'model'", "closest: 'modle'"),
        ("import trch", "{path} imports 'trch', which is neither an installed package nor a file", "closest: 'torch'"),
        ("import skimage", "{path} imports 'skimage', which is not installed", "pip install scikit-image"),
        (
            "def model(idim, width): pass",
            "model of {path} requires an argument 'width', which has no value",
            """set others with --model-args='{{"width": 64}}'""".replace("{{", "{").replace("}}", "}"),
        ),
        ("def model(idim:", "{path}, line 1: SyntaxError", ""),
    ],
)
def test_a_mistake_in_a_model_file_is_a_line_with_its_cure(text, says, cure, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text + "\n")
    with pytest.raises(MLaaS4HEPError) as caught:
        load_model_file(str(path)).build({"x": (3,)}, Task.classification(2))
    check(caught.value, says.format(path=path), cure)


def test_the_error_for_a_new_label_says_what_to_do():
    labels = labels_by_branch("kind", np.array([0, 1]))
    with pytest.raises(MLaaS4HEPError) as caught:
        labels.encode(0, 1, {"kind": np.array([2])})
    check(caught.value, "'kind' has the value 2; the classes are 0, 1", "run again")


@pytest.mark.parametrize(
    ("labels", "params", "says"),
    [
        (["s", "b"], {}, "no event has the label 's'"),
        (["s", "b", "c"], {}, "no event has the label 's'"),
        (["is_a", "is_b"], MULTILABEL, "no event has the label 'is_b'"),
        ("kind", {"split": {"valid": "event % 4 == 1", "test": "event % 4 == 3"}}, "have the same label"),
    ],
)
def test_a_class_without_events_is_a_line_with_its_cure(labels, params, says, tmp_path):
    number = np.arange(120)
    flags = {"is_a": number % 2, "is_b": 0 * number, "kind": number % 2}
    for run, events in enumerate((0, 120, 120)):
        write_events(tmp_path / f"{run}.root", events, run=run, **{name: flag[:events] for name, flag in flags.items()})
    files = [tmp_path / f"{run}.root" for run in range(len(labels) if labels[0] == "s" else 3)]
    with DataGenerator(files, labels, params) as generator, pytest.raises(MLaaS4HEPError) as caught:
        check_parts(generator)
    check(caught.value, says, "check the files and cuts" if "no event" in says else "use more events")


def test_balancing_a_class_without_events_is_a_line_with_its_cure(files):
    params = Params(balance="weights", split={"valid": "event % 4 == 1", "test": "event % 4 == 3"})
    with DataGenerator(files, "kind", params) as generator, pytest.raises(MLaaS4HEPError) as caught:
        list(generator.batches("train"))
    check(caught.value, "cannot balance the classes", "set 'balance' to 'none' in the params")


def check(error, says, cure):
    """One line, with what is wrong and what to change."""
    line = str(error)
    assert "\n" not in line
    assert says in line
    assert cure in line[line.index(says) :]


@pytest.mark.parametrize("name", ["Muon.pt", "muon pt", 'say "pt"', "é"])
def test_the_suggested_preprocessing_converts_a_list_to_a_number(name, tmp_path):
    write_events(tmp_path / "a.root", 60, **{name: np.arange(120).reshape(60, 2) % 4})
    with pytest.raises(MLaaS4HEPError) as caught:
        DataGenerator([str(tmp_path / "a.root")], name, {"cache": False})
    (tmp_path / "made.json").write_text(str(caught.value).rpartition("as in ")[2])
    with DataGenerator(
        [str(tmp_path / "a.root")], "label", {"cache": False}, preproc=str(tmp_path / "made.json")
    ) as generator:
        assert generator.classes == ("1", "5")


def test_the_suggested_option_excludes_one_of_two_branches_with_the_same_column(tmp_path):
    write_events(tmp_path / "a.root", 60, pt_0=np.arange(60.0))
    with pytest.raises(MLaaS4HEPError) as caught:
        DataGenerator([str(tmp_path / "a.root")], params={"cache": False})
    check(caught.value, "two branches would have a column 'pt_0'", "exclude one: --exclude-branches=pt_0 of ")
    params = {"exclude_branches": ["pt_0"], "cache": False}
    with DataGenerator([str(tmp_path / "a.root")], params=params) as generator:
        assert generator.columns.count("pt_0") == 1


def test_a_label_that_is_also_a_feature_is_reported(tmp_path, capsys):
    write_events(tmp_path / "a.root", 100, kind=np.arange(100) % 2)
    with DataGenerator([tmp_path / "a.root"], "kind", {"selected_branches": ["met", "kind"]}) as generator:
        assert "kind" not in generator.columns
    (line,) = capsys.readouterr().err.splitlines()
    assert "label branch 'kind' is selected as a feature, but" in line


@pytest.mark.parametrize(
    ("labels", "content", "says"),
    [
        ("kind", {"cut": "kind < 2"}, "cut: the cut needs the label branch 'kind', which recorded data do not have"),
        (
            "kind",
            {"define": {"k": "kind + 1"}, "cuts": ["k < 3"]},
            "cuts, number 1: the cut needs the label branch 'kind'",
        ),
        ("k", {"define": {"k": "kind + 1"}, "cuts": ["k < 3"]}, "the cut needs the label branch 'k'"),
    ],
)
def test_a_label_that_a_cut_needs_is_an_error_unless_the_cut_is_for_training_alone(labels, content, says, tmp_path):
    write_events(tmp_path / "a.root", 120, kind=np.arange(120) % 3)
    (tmp_path / "cut.json").write_text(json.dumps(content))
    params = {"selected_branches": ["met"], "cache": False}
    with pytest.raises(ConfigError) as caught:
        DataGenerator([tmp_path / "a.root"], labels, params, preproc=str(tmp_path / "cut.json"))
    check(caught.value, says, "apply it only in training: ")
    suggested = json.loads(str(caught.value).partition("apply it only in training: ")[2])
    (tmp_path / "cut.json").write_text(json.dumps({**content, "cut": "met > 0", **suggested}))
    with DataGenerator([tmp_path / "a.root"], labels, params, preproc=str(tmp_path / "cut.json")) as generator:
        assert len(generator.classes) == 2
        assert sum(len(batch) for batch in generator) == 80


def test_a_feature_that_is_computed_from_a_label_is_an_error(tmp_path):
    write_events(tmp_path / "a.root", 100, kind=np.arange(100) % 2)
    (tmp_path / "new.json").write_text(json.dumps({"define": {"k": "kind + 1"}}))
    with pytest.raises(ConfigError) as caught:
        DataGenerator([tmp_path / "a.root"], "kind", preproc=str(tmp_path / "new.json"))
    check(caught.value, "computes features from the label branch 'kind'", "leave these features out")


def test_python_preprocessing_that_needs_a_label_is_an_error(tmp_path):
    write_events(tmp_path / "a.root", 100, kind=np.arange(100) % 2)
    (tmp_path / "cut.py").write_text(
        "branches = ['kind', 'met']\ndef preprocessing(events): return events[events.kind >= 0]\n"
    )
    with pytest.raises(ConfigError) as caught:
        DataGenerator([tmp_path / "a.root"], "kind", {"cache": False}, preproc=str(tmp_path / "cut.py"))
    check(caught.value, "the label branch 'kind', which recorded data do not have", "'training_only' in a preproc.json")


def test_the_sources_of_a_weight_among_the_features_and_in_cuts_are_reported(tmp_path, capsys):
    write_events(tmp_path / "a.root", 100, kind=np.arange(100) % 2, genWeight=np.ones(100))
    (tmp_path / "new.json").write_text(json.dumps({"define": {"w": "abs(genWeight)"}, "cut": "genWeight > 0"}))

    def notices(**params):
        params = {"weight": "w", "cache": False, **params}
        with DataGenerator([tmp_path / "a.root"], "kind", params, preproc=str(tmp_path / "new.json")) as generator:
            columns = generator.columns
        return columns, capsys.readouterr().err

    columns, notice = notices()
    assert "genWeight" in columns
    assert "branch 'genWeight' is a feature, and the weight 'w' is computed from it" in notice
    assert '"exclude_branches": ["genWeight"] in the params' in notice
    columns, notice = notices(exclude_branches=["genWeight"])
    assert "genWeight" not in columns
    assert "the cut needs 'genWeight', from which the weight is computed" in notice
    assert notices(selected_branches=["genWeight"])[1] == ""


def test_an_input_with_a_label_is_refused(tmp_path):
    write_events(tmp_path / "a.root", 100, kind=np.arange(100) % 2)
    inputs = {"event": {"branches": ["met", "kind"]}}
    with pytest.raises(ConfigError, match="input 'event' has the label branch 'kind'; remove it from the input"):
        DataGenerator([tmp_path / "a.root"], "kind", {"inputs": inputs})
