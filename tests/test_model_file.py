"""Model files, valid and invalid."""

import pytest

from mlaas4hep.backends.model_file import default_model, load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.errors import ConfigError, FileUnreadable, PackageMissing

TWO = Task.classification(2)


@pytest.fixture
def write(tmp_path):
    def write_text(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_text


def test_a_model_file_is_found_in_the_models_folder_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_model_file("ex_pytorch.py").path.name == "ex_pytorch.py"


def test_a_file_in_the_working_directory_takes_precedence_over_the_shipped_one(write, tmp_path, monkeypatch):
    write("def model(idim): return idim", "ex_pytorch.py")
    monkeypatch.chdir(tmp_path)
    assert load_model_file("ex_pytorch.py").build({"x": (7,)}, TWO) == 7


def test_a_required_second_argument_gets_the_number_of_classes(write):
    file = load_model_file(write("def model(idim, classes): return (idim, classes)"))
    assert file.build({"x": (7,)}, Task.classification(3)) == (7, 3)


def test_further_arguments_of_model_are_passed_by_name(write):
    file = load_model_file(write("def model(idim, outputs=9, width=64, *, task): return (idim, outputs, width, task)"))
    assert file.build({"x": (7,)}, TWO) == (7, 1, 64, "classification")
    assert file.build({"x": (7,)}, Task("regression", ("a", "b"))) == (7, 2, 64, "regression")


def test_a_model_with_several_inputs_gets_their_shapes_by_name(write):
    shapes = {"jets": (8, 4), "event": (2,)}
    assert load_model_file(write("def model(shapes): return shapes")).build(shapes, TWO) == shapes


def test_loss_optimizer_and_metrics_of_the_file_are_kept(write):
    file = load_model_file(write("def model(idim): return 1\nloss = 'mse'\nmetrics = [len]\n"))
    assert file.loss == "mse"
    assert file.metrics == [len]
    assert file.optimizer is None


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("def modle(idim): return 1", ConfigError, "does not define a function 'model'; closest: 'modle'"),
        ("model = 3", ConfigError, "does not define a function 'model'"),
        ("def model(idim:\n", ConfigError, ", line 1: SyntaxError"),
        ("1/0", ConfigError, "ZeroDivisionError"),
        ("raise SystemExit(3)", ConfigError, "SystemExit"),
        ("import lightgbm", PackageMissing, "imports 'lightgbm', which is not installed; install it: pip"),
        ("import trch", ConfigError, "imports 'trch', which is neither an installed package nor a file in"),
    ],
)
def test_an_invalid_model_file_is_reported_in_one_line(write, text, kind, says):
    with pytest.raises(kind) as caught:
        load_model_file(write(text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_model_file_is_reported_with_the_closest_example():
    with pytest.raises(FileUnreadable, match=r"model file ex_keras\.yp not found.*closest: 'ex_keras\.py'"):
        load_model_file("ex_keras.yp")


def test_a_failing_model_function_is_reported_with_its_reason(write):
    file = load_model_file(write("def model(idim): raise ValueError('too wide')"))
    with pytest.raises(ConfigError, match=r"model\(9\) of .* fails, line 1: ValueError: too wide"):
        file.build({"x": (9,)}, TWO)


def test_a_model_function_that_returns_none_is_reported(write):
    with pytest.raises(ConfigError, match="returns None; end it with: return model"):
        load_model_file(write("def model(idim): pass")).build({"x": (3,)}, TWO)


def test_the_stderr_of_a_model_file_is_kept(write, capfd):
    load_model_file(
        write(
            "import sys\nprint('I0000 00:00: noise', file=sys.stderr)\nprint('mind this', file=sys.stderr)\n"
            "def model(idim): pass"
        )
    )
    assert "mind this" in capfd.readouterr().err


@pytest.mark.framework
def test_the_default_model_file_exists():
    assert load_model_file(default_model()).path.is_file()
