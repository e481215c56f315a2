"""What the README and the pages of docs/ show is what there is."""

import importlib.util
import json
import re
import shlex

import pytest
from scripts import ROOT

from mlaas4hep.config import Params
from mlaas4hep.reader import DataReader

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "htautau" / "README.md"]
SCRIPT = re.compile(r"^(?:\$ |    )(?:\./)?((?:reader|workflow|tfaas_client|tfaas_server|hep_resnet)\.py +--.*)$", re.M)


def command_lines(text):
    """The command lines of a page, without comments, continued lines joined."""
    joined = text.replace("\\\n", " ")
    return [shlex.split(line.rstrip(" &"), comments=True) for line in SCRIPT.findall(joined) if "[--" not in line]


def parser_of(script):
    """The parser of one of the scripts."""
    spec = importlib.util.spec_from_file_location(script.removesuffix(".py") + "_script", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_parser()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_is_one_that_its_script_understands(page):
    for script, *args in command_lines(page.read_text(encoding="utf-8")):
        parser_of(script).parse_args(args)


def test_the_quick_start_shows_what_make_demo_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ (\./.*)$", text[text.index("## Quick start") : text.index("## The four scripts")], re.M)
    demo = (ROOT / "examples" / "htautau" / "demo.sh").read_text(encoding="utf-8")
    plain = demo.replace("\\\n", " ").replace("$data", "examples/htautau").replace("$url", "http://localhost:8083")
    wanted = {re.sub(r"\s+", " ", line.strip()) for line in re.findall(r"^ *run (\./.*)$", plain, re.M)}
    runs = {line.replace("$framework", name) for line in wanted for name in ("keras", "pytorch")}
    runs.add("./tfaas_server.py --models-dir=demo/tfaas_models --port=8083 &")
    assert set(shown) <= runs
    assert runs - set(shown) <= {"./tfaas_client.py --url=http://localhost:8083 --predict=demo/keras/example.json"}


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_file_tree_of_the_readme_names_what_there_is():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("## What lies where") : text.index("More: [")]
    for line in re.findall(r"^    (\S.*)$", tree, re.M):
        for name in re.split(r"\s+", line.split("    ")[0].strip()):
            assert (ROOT / name).exists(), name


def test_params_json_is_documented_with_its_defaults():
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", text[: text.index("## files.txt")], re.M))
    documented = {key.strip("`"): default for keys, default in rows.items() for key in keys.split(", ")}
    defaults = Params.parse({}).model_dump()
    assert set(documented) == set(defaults)
    for key, default in documented.items():
        if key != "identifier":
            assert json.loads(default) == defaults[key]


def test_the_preproc_examples_run(tmp_path):
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    section = text[text.index("## preproc.json") : text.index("## The bundle")]
    blocks = re.findall(r"(?:^    .*\n)+", section, re.M)
    assert len(blocks) == 2
    for block in blocks:
        path = tmp_path / "preproc.json"
        path.write_text(block, encoding="utf-8")
        with DataReader(ROOT / "examples/htautau/ggH.root", preproc=path) as reader:
            assert 1000 < sum(len(chunk) for chunk in reader) < reader.num_entries
