"""params.json: defaults, overrides, and what cannot be."""

import pytest

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, FileUnreadable


def test_params_of_the_original_load_as_they_are():
    params = Params.parse(
        {"nevts": 10000, "shuffle": True, "chunk_size": 1000, "epochs": 5, "batch_size": 100,
         "identifier": ["runNo", "evtNo", "lumi"], "branch": "boostedAk8/events", "selected_branches": "",
         "exclude_branches": "", "hist": "pdfs", "redirector": "root://stormgf1.pi.infn.it:1094", "verbose": 1}
    )  # fmt: skip
    assert params.selected_branches == []
    assert params.redirector == ["root://stormgf1.pi.infn.it:1094"]
    assert params.identifier == ["runNo", "evtNo", "lumi"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 1}, "params has an unknown key 'epoch'; closest: 'epochs'"),
        ({"epochs": "1"}, "'epochs' in params cannot be '1'"),
        ({"epochs": 0}, "'epochs' in params cannot be 0"),
        ({"shuffle": 1}, "'shuffle' in params cannot be 1"),
        ({"split": [0.5, 0.5]}, "three positive shares"),
        ({"normalise": "log"}, "'normalise' in params cannot be 'log'"),
        ({"name": "a b"}, "'name' in params cannot be 'a b'"),
        *(
            ({key: float("inf")}, f"'{key}' in params cannot be inf: input should be a finite number")
            for key in ("timeout", "checkpoint", "fit_gb", "cache_gb")
        ),
        ({"checkpoint": float("nan")}, "'checkpoint' in params cannot be nan"),
    ],
)
def test_mistakes_in_params_are_one_line_that_names_key_and_value(content, says):
    with pytest.raises(ConfigError) as caught:
        Params.parse(content)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_defaults_are_those_that_the_documentation_names():
    params = Params.parse({})
    assert (params.nevts, params.shuffle, params.chunk_size, params.batch_size) == (-1, True, 10_000, 256)
    assert params.identifier == ["run", "luminosityBlock", "event"]
    assert (params.branch, params.normalise, params.seed, params.workers) == ("Events", "auto", 0, 1)
    assert params.split == [0.7, 0.15, 0.15]


def test_a_flag_replaces_what_the_file_says(tmp_path):
    (tmp_path / "params.json").write_text('{"epochs": 3, "seed": 7, "identifier": "run, event"}')
    params = Params.load(str(tmp_path / "params.json"), epochs=5)
    assert (params.epochs, params.seed, params.identifier) == (5, 7, ["run", "event"])


def test_parameters_do_not_change_under_a_reader():
    with pytest.raises(ValueError, match="frozen"):
        Params.parse({}).epochs = 3


@pytest.mark.parametrize("shares", [[0.7, 0.3], [1.0, 0.0, 0.0], [0.7, 0.2, 0.2], [1.2, -0.1, -0.1]])
def test_shares_are_three_positive_numbers_that_add_up_to_one(shares):
    with pytest.raises(ConfigError, match=r"'split' in params cannot be .*: three positive shares"):
        Params.parse({"split": shares})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_shares_that_are_no_numbers_are_refused(value):
    with pytest.raises(ConfigError, match="'split'"):
        Params.parse({"split": [value, 0.5, 0.5]})


@pytest.mark.parametrize("text", ["[]", "3", '"epochs"', "null"])
def test_a_file_that_holds_no_object_is_refused(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ConfigError, match=r"p\.json holds no JSON object"):
        Params.load(str(tmp_path / "p.json"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileUnreadable, match=r"cannot read .*p\.json: No such file"):
        Params.load(str(tmp_path / "p.json"))
