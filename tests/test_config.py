"""params.json: defaults, overrides, and what cannot be."""

import inspect

import numpy as np
import pytest
from scripts import ROOT

from mlaas4hep import DataReader
from mlaas4hep.config import FilesParams, FriendParams, Params, ReadParams
from mlaas4hep.config.flags import parse_flags
from mlaas4hep.errors import ConfigError, FileUnreadable
from reader import build_parser


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


def test_defaults_agree_with_the_documentation():
    params = Params.parse({})
    assert (params.nevts, params.shuffle, params.chunk_size, params.batch_size) == (-1, True, 10_000, 256)
    assert params.identifier == ["run", "luminosityBlock", "event"]
    assert (params.branch, params.normalise, params.seed, params.workers) == ("Events", "auto", 0, 1)
    assert params.split == [0.7, 0.15, 0.15]


def test_a_flag_overrides_the_value_in_the_file(tmp_path):
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
    with pytest.raises(ConfigError, match=r"p\.json must contain a JSON object"):
        Params.load(str(tmp_path / "p.json"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileUnreadable, match=r"cannot read .*p\.json: No such file"):
        Params.load(str(tmp_path / "p.json"))


def test_the_keywords_of_a_reader_are_the_keys_of_params_with_the_same_defaults():
    keywords = {name: one.default for name, one in inspect.signature(DataReader).parameters.items()}
    empty = {"selected_branches": None, "exclude_branches": None, "inputs": None, "friends": None}
    for name, default in ReadParams.parse({}).model_dump().items():
        keyword = list(keywords[name]) if isinstance(keywords[name], tuple) else keywords[name]
        assert keyword == empty.get(name, default)


def test_flags_of_the_reader_have_the_defaults_of_params():
    args = build_parser().parse_args(["--fin=a.root"])
    assert parse_flags(args, FilesParams) == FilesParams.parse({})


def test_every_option_for_reading_has_a_flag_but_inputs():
    args = vars(build_parser().parse_args(["--fin=a.root"]))
    assert set(FilesParams.model_fields) - set(args) == {"inputs"}


def test_a_mistake_in_a_flag_names_the_flag():
    args = build_parser().parse_args(["--fin=a.root", "--branches=a", "--workers=0"])
    with pytest.raises(ConfigError, match=r"^--workers cannot be 0: input should be greater than or equal to 1$"):
        parse_flags(args, FilesParams)


def test_the_old_name_of_redirectors_still_works_with_a_warning():
    with (
        pytest.warns(DeprecationWarning, match="use redirector"),
        DataReader(ROOT / "examples/htautau/ggH.root", redirectors=["root://a"]) as reader,
    ):
        assert reader.options.redirector == ["root://a"]


def test_numpy_scalars_are_accepted_as_numbers():
    assert Params.parse({"nevts": np.int64(5), "timeout": np.float32(2.5)}).model_dump()["nevts"] == 5


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (["s/{stem}.root:scores", ":a/Extra;1"], {"scores": ("s/{stem}.root", "scores"), "Extra": ("", "a/Extra;1")}),
        ("s.root:scores,:Extra", {"scores": ("s.root", "scores"), "Extra": ("", "Extra")}),
        ({"x": "root://host:1094//s.root:t:u"}, {"x": ("root://host:1094//s.root", "t:u")}),
        ({"x": "https://host:443/s.root"}, {"x": ("https://host:443/s.root", "")}),
        ({"x": "https://host/s.root:t?token=a:b"}, {"x": ("https://host/s.root?token=a:b", "t")}),
        ('{"x": {"file": "s.parquet"}}', {"x": ("s.parquet", "")}),
        (None, {}),
    ],
)
def test_short_forms_of_friends(short, long):
    params = Params.parse({"friends": short})
    assert params.friends == {alias: FriendParams(file=file, tree=tree) for alias, (file, tree) in long.items()}
    assert Params.parse(params.model_dump()) == params


@pytest.mark.parametrize(
    ("friends", "said"),
    [
        (["x.parquet"], "'x.parquet' does not say what the friend is called"),
        ([":t", "b.root:t"], "two friends are called 't'"),
        ({"a.b": ":t"}, "'a.b' cannot name a friend"),
        ({"a": {"fil": "x"}}, "friend 'a' of params has an unknown key 'fil'; closest: 'file'"),
        ({"a": "{name}.root:t"}, "'{name}' is unknown; '{stem}' and '{dir}' stand for"),
        ('{"a": ', "not valid JSON"),
        ('{"a": {}, "a": {}}', "an object has the key 'a' twice"),
        ("[" * 100_000, "not valid JSON"),
        ({"a": {"index": [3]}}, "'index' in friend 'a' of params"),
        ({"a": {"index": [["x"]]}}, "'index' in friend 'a' of params"),
        ([{"a": 1}], "does not say what the friend is called"),
        ({"": ":t"}, "'' cannot name a friend"),
        (7, "'friends' in params cannot be 7"),
    ],
)
def test_invalid_friends_are_explained(friends, said):
    with pytest.raises(ConfigError) as caught:
        Params.parse({"friends": friends})
    assert said in str(caught.value)
