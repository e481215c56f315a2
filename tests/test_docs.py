"""The README and the pages of docs/ match the code."""

import importlib.util
import re
import shlex

import pytest
from scripts import ROOT

from mlaas4hep.config import FilesParams, Params, ReweightParams
from mlaas4hep.config.flags import flag_table, key_table
from mlaas4hep.config.samples import SampleParams
from mlaas4hep.reader import DataReader

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "htautau" / "README.md"]
SCRIPT = re.compile(r"^(?:\$ |    )(?:\./)?((?:reader|workflow|tfaas_client|tfaas_server|hep_resnet)\.py +--.*)$", re.M)


def command_lines(text):
    """The command lines of a page, without comments and with continued lines joined."""
    joined = text.replace("\\\n", " ")
    return [shlex.split(line.rstrip(" &"), comments=True) for line in SCRIPT.findall(joined) if "[--" not in line]


def parser_of(script):
    """The parser of one of the scripts."""
    spec = importlib.util.spec_from_file_location(script.removesuffix(".py") + "_script", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_parser()


SHOWN = [
    pytest.param(script, args, id=f"{page.relative_to(ROOT)}: {script} {shlex.join(args)}")
    for page in PAGES
    for script, *args in command_lines(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("script", "args"), SHOWN)
def test_every_command_line_is_valid(script, args):
    parser = parser_of(script)
    parser.parse_args(args)
    flags = {arg.partition("=")[0] for arg in args if arg.startswith("--")}
    assert flags <= {flag for action in parser._actions for flag in action.option_strings}


def test_the_pages_show_command_lines_of_every_script():
    assert {shown.values[0] for shown in SHOWN} == {
        "reader.py", "workflow.py", "tfaas_client.py", "tfaas_server.py", "hep_resnet.py",
    }  # fmt: skip
    assert len(SHOWN) > 30


def test_the_quick_start_shows_the_commands_of_make_demo():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ (\./.*)$", text[text.index("## Quick start") : text.index("## The scripts")], re.M)
    demo = (ROOT / "examples" / "htautau" / "demo.sh").read_text(encoding="utf-8")
    plain = demo.replace("\\\n", " ").replace("$data", "examples/htautau").replace("$url", "http://localhost:8083")
    wanted = {re.sub(r"\s+", " ", line.strip()) for line in re.findall(r"^ *run (\./.*)$", plain, re.M)}
    runs = {line.replace("$framework", name) for line in wanted for name in ("keras", "pytorch")}
    runs.add("./tfaas_server.py --models-dir=demo/tfaas_models --port=8083 &")
    assert set(shown) <= runs
    assert runs - set(shown) <= {"./tfaas_client.py --url=http://localhost:8083 --predict=demo/keras/example.json"}


def test_links_between_pages_are_valid():
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 10
    assert [f"{page.name}: {target}" for page, target in links if not (page.parent / target).exists()] == []


def test_the_files_in_the_layout_of_the_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("## Repository layout") : text.index("More: [")]
    lines = re.findall(r"^    (\S.*)$", tree, re.M)
    assert len(lines) > 10
    for line in lines:
        for name in re.split(r"\s+", line.split("    ")[0].strip()):
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    ("page", "table"),
    [
        ("formats.md", key_table(Params)),
        ("formats.md", key_table(ReweightParams)),
        ("samples.md", key_table(SampleParams)),
        ("streaming.md", flag_table(FilesParams)),
    ],
)
def test_options_are_documented_as_they_are_defined(page, table):
    assert len(table.splitlines()) > 6
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert table in text, f"put this table into docs/{page}:\n{table}"


def test_the_preproc_examples_run(tmp_path):
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    section = text[text.index("## preproc.json") : text.index("## The bundle")]
    blocks = re.findall(r"(?:^    .*\n)+", section, re.M)
    assert len(blocks) == 3
    for block in blocks:
        path = tmp_path / "preproc.json"
        path.write_text(block, encoding="utf-8")
        with DataReader(ROOT / "examples/htautau/ggH.root", preproc=path) as reader:
            assert 1000 < sum(len(chunk) for chunk in reader) < reader.num_entries
