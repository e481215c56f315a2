"""Samples files: the forms that are read, and the errors for those that are not."""

import json

import pytest

from mlaas4hep.config.samples import is_samples_file, load_samples, parse_samples
from mlaas4hep.errors import ConfigError


def test_json_and_yaml_have_the_same_content(tmp_path):
    (tmp_path / "s.json").write_text(
        '{"ggH": {"files": ["a.root", "b/*.root:Events"], "xsec": 1.5e-3, "sumw": "Runs:genEventSumw", "label": 1},'
        ' "data": {"files": {"c.root": "Data"}, "is_data": true, "nevts": 100, "metadata": {"year": 2018}}}'
    )
    (tmp_path / "s.yaml").write_text(
        "ggH:\n  files: [a.root, 'b/*.root:Events']\n  xsec: 1.5e-3\n  sumw: 'Runs:genEventSumw'\n  label: 1\n"
        "data:\n  files: {c.root: Data}\n  is_data: true\n  nevts: 100\n  metadata: {year: 2018}\n"
    )
    samples = load_samples(str(tmp_path / "s.json"))
    assert samples == load_samples(str(tmp_path / "s.yaml"))
    assert samples["ggH"].files == {"a.root": "", "b/*.root:Events": ""}
    assert (samples["ggH"].xsec, samples["ggH"].sumw, samples["ggH"].label) == (0.0015, "Runs:genEventSumw", "1")
    assert (samples["data"].files, samples["data"].nevts) == ({"c.root": "Data"}, 100)


def test_filesets_of_coffea_are_samples():
    samples = parse_samples({
        "plain": ["a.root", "b.root"],
        "dict": {"files": {"a.root": "Events", "b.root": None}},
        "preprocessed": {
            "files": {"a.root": {"object_path": "tree", "steps": [[0, 10]], "uuid": "1"}},
            "form": None, "metadata": None,
        },
        "older": {"files": ["a.root"], "treename": "tree"},
    })  # fmt: skip
    assert samples["plain"].files == {"a.root": "", "b.root": ""}
    assert samples["dict"].files == {"a.root": "Events", "b.root": ""}
    assert samples["preprocessed"].files == {"a.root": "tree"}
    assert samples["older"].branch == "tree"


def test_specifications_for_rdataframe_are_samples():
    samples = parse_samples({
        "samples": {
            "higgs": {
                "trees": ["mini"], "files": ["a.root", "b.root"],
                "metadata": {"xsecs": 0.006, "sumws": 27881776.6, "lumi": 10064.0, "sample_category": "signal"},
            },
            "two": {"trees": ["t1", "t2"], "files": ["a.root", "b.root"], "metadata": None},
            "same": {"trees": ["t1", "t2"], "files": ["a.root", "a.root"]},
        }
    })  # fmt: skip
    higgs = samples["higgs"]
    assert (higgs.files, higgs.xsec, higgs.sumw) == ({"a.root": "mini", "b.root": "mini"}, 0.006, 27881776.6)
    assert (higgs.label, higgs.metadata["lumi"]) == ("signal", 10064.0)
    assert samples["two"].files == {"a.root": "t1", "b.root": "t2"}
    assert samples["same"].files == {"a.root:t1": "", "a.root:t2": ""}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "contains no samples"),
        ("[1]", "contains no samples"),
        ('{"x": {"files": []}}', "'files' in sample 'x' of .*s.json cannot be \\[\\]: give a file"),
        ('{"x": {"file": "a"}}', "sample 'x' of .*s.json has no 'files'|unknown key 'file'"),
        ('{"x": {"files": "a", "xsec": -1}}', "'xsec' in sample 'x' of .*: input should be greater than 0"),
        ('{"x": {"files": ["a", "a"]}}', "the file 'a' is listed twice"),
        ('{"x": {"files": "a", "sumw": 3}}', "'sumw' has no effect without 'xsec'"),
        ('{"x": {"files": "a", "xsec": 3, "sumw": 0}}', "'sumw' must be positive"),
        ('{"x": {"files": "a", "is_data": true, "xsec": 3}}', "events of data have weight 1, but 'xsec' is given"),
        ('{"x": {"files": "a", "crosssection": 3}}', "unknown key 'crosssection'.*known keys: files, label"),
        ('{"x": {"files": "a"}, "x": {"files": "b"}}', "the key 'x' twice"),
        ('{"x": {"files": "a"}', "s.json is not JSON: .* line 1"),
        ('{"samples": {"x": {"files": ["a"], "trees": ["t", "u"]}}}', "has 1 files and 2 trees"),
        ('{"samples": {"x": {"files": ["a", "a"], "trees": ["t"]}}}', "sample 'x' of .*: the file 'a' is listed twice"),
        ('{"samples": {"x": {"files": 5, "trees": ["t"]}}}', "'files' of sample 'x' of .* cannot be 5"),
        ('{"samples": {"x": {"files": ["a"], "trees": 5}}}', "'trees' of sample 'x' of .* cannot be 5"),
        ('{"samples": {"x": {"files": ["a"], "metadata": [1]}}}', "'metadata' in sample 'x' of .* cannot be"),
        ('{"x": {"files": "a"}, "y": {"file": "b"}}', "sample 'y' of .* (has an unknown key 'file'|has no 'files')"),
        ('{"x": {"files": "a"}, "y": 3}', "'files' in sample 'y' of .* cannot be 3: give a file, a list of files"),
        ('{"samples": {"x": {"files": "a"}}, "range": [0, 5]}', "'range' is not supported"),
    ],
)  # fmt: skip
def test_the_error_is_one_line_that_names_the_sample(tmp_path, content, reason):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_samples(str(tmp_path / "s.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [1", "s.yaml is not YAML: .* line 1, column"),
        ("a: {files: x}\na: {files: y}", "the key 'a' twice"),
        ("no: {files: x}", "the name of a sample cannot be False; put it in quotes"),
        ("2016: {files: x}", "the name of a sample cannot be 2016; put it in quotes"),
        ("a: !!python/object/apply:os.system [ls]", "s.yaml is not YAML: .*could not determine a constructor"),
    ],
)
def test_errors_in_yaml_are_explained(tmp_path, text, reason):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        load_samples(str(tmp_path / "s.yaml"))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", '{"x": {"files": "a.root"}}', True),
        ("a.json", json.dumps({"samples": {"x": {"files": ["a.root"]}}}), True),
        ("a.json", '{"x": {"files": "a.root"},}', True),  # a mistake that is worth its message
        ("a.json", '{"x": ["a.root"], "y": ["b.root"]}', True),
        ("a.json", '{"x": {"files": "a.root", "xsec": 1}, "y": 3}', True),
        ("a.json", "{'x': {'files': 'a.root'}}", True),
        ("a.json", '{"pt": 1.5, "eta": 2}', False),
        ("a.json", '{"pt": [1.5], "eta": [2]}', False),
        ("a.json", '{"pt": 1.5}\n{"pt": 2.5}\n', False),
        ("a.json", '{"files": 1}\n{"files": 2}\n', False),
        ("a.json", '[{"pt": 1.5}]', False),
        ("a.jsonl", '{"x": {"files": "a.root"}}', False),
        ("a.yml", "pt: 1", True),
    ],
)
def test_a_samples_file_is_distinguished_from_data_in_json(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert is_samples_file(str(tmp_path / name)) is expected


def test_yaml_samples_share_keys_by_anchors(tmp_path):
    text = "a: &common\n  files: a.root\n  xsec: 2\nb:\n  <<: *common\n  files: b.root\n"
    (tmp_path / "s.yaml").write_text(text)
    samples = load_samples(str(tmp_path / "s.yaml"))
    assert (samples["b"].files, samples["b"].xsec) == ({"b.root": ""}, 2)
