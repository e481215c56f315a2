"""Whatever a user names as an input is a file, or one line says what it is instead; nothing waits for a FIFO."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from scripts import only_error_line, run_script
from tinyroot import write_events

from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.client import TFaaSClient
from mlaas4hep.client.events import read_events
from mlaas4hep.client.token import find_token
from mlaas4hep.client.upload_spec import read_upload_spec
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.expressions.preproc_file import load_preproc
from mlaas4hep.input_files import read_json, read_lines, read_text, special_kind
from mlaas4hep.io import open_source
from mlaas4hep.io.storage.grid_proxy import proxy_problem
from mlaas4hep.io.storage.location import read_file_list
from mlaas4hep.reader import Specs
from mlaas4hep.reader.selection import match
from mlaas4hep.scoring.scorer import Scorer
from mlaas4hep.stream.labels import read_labels

KINDS = {
    "broken": "a broken link to nowhere",
    "loop": "a link that leads back to itself",
    "fifo": "a FIFO (named pipe)",
    "link_to_fifo": "a FIFO (named pipe)",
    "socket": "a socket",
    "device": "a device",
}


@pytest.fixture(scope="module")
def specials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one path of each kind that is neither a file nor a folder."""
    folder = tmp_path_factory.mktemp("specials")
    (folder / "broken").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    (folder / "link_to_fifo").symlink_to("fifo")
    before = os.getcwd()
    os.chdir(folder)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("socket")
    finally:
        os.chdir(before)
    (folder / "device").symlink_to("/dev/zero")
    return folder


READERS = {
    "--fin, --files": open_source,
    "--labels": read_labels,
    "--params": Params.load,
    "--specs": Specs.load,
    "--preproc": load_preproc,
    "--model": load_model_file,
    "--predict of a bundle": Scorer.load,
    "--branches=@": lambda path: match({}, [f"@{path}"], "a.root"),
    "--upload": read_upload_spec,
    "--predict of events": read_events,
    "--token-file": lambda path: find_token("http://localhost", path),
    "--cert": lambda path: TFaaSClient("https://localhost", cert=path),
    "--capath": lambda path: TFaaSClient("https://localhost", capath=path),
    "--bundle": lambda path: TFaaSClient("http://localhost").bundle(path),
    "--image": lambda path: TFaaSClient("http://localhost").image(path, "model"),
    "text": read_text,
    "lines": read_lines,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", READERS)
@pytest.mark.timeout(20)
def test_the_error_for_an_input_that_is_not_a_file_names_its_kind(specials: Path, option: str, kind: str) -> None:
    path = str(specials / kind)
    with pytest.raises(FileUnreadable) as caught:
        READERS[option](path)
    assert str(caught.value).startswith(f"{path} is {KINDS[kind]}, not a file")


@pytest.mark.parametrize("option", READERS)
def test_a_name_that_is_too_long_is_one_error(option: str, tmp_path: Path) -> None:
    with pytest.raises(FileUnreadable) as caught:
        READERS[option](str(tmp_path / f"{'a' * 300}.json"))
    assert "a" * 300 in caught.value.what


@pytest.mark.parametrize("content", ['"\\ud800"', '{"\\uDC00 a": 1}', '["a", {"b": "\\ud83d\\ud83d"}]'])
def test_json_with_an_unpaired_surrogate_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigError, match=r"a\.json has a string that is not valid Unicode"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('"\\ud83d\\ude00"')
    assert read_json(tmp_path / "b.json") == "\N{GRINNING FACE}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_with_names_of_other_things_than_files_is_refused(specials: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "files.txt").write_text(f"{specials / kind}\n")
    with pytest.raises(FileUnreadable, match=f"{kind} is a .*, not a file"):
        open_source(read_file_list(str(tmp_path / "files.txt"))[0])
    (tmp_path / "other.txt").symlink_to(specials / kind)
    with pytest.raises(FileUnreadable, match=r"other\.txt is a .*, not a file"):
        read_file_list(str(tmp_path / "other.txt"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_of_an_upload_must_be_regular_files(specials: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "params.json").write_text('{"name": "m"}')
    (tmp_path / "labels.txt").write_text("a\n")
    (tmp_path / "model.onnx").symlink_to(specials / kind)
    (tmp_path / "upload.json").write_text(
        '{"model": "model.onnx", "labels": "labels.txt", "name": "m", "params": "params.json"}'
    )
    with pytest.raises(FileUnreadable, match=r"model\.onnx is a .*, not a file"):
        read_upload_spec(tmp_path / "upload.json")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_an_unreadable_part_is_not_packed(specials: Path, tmp_path: Path, kind: str) -> None:
    for name, text in (("params.json", '{"name": "m", "model": "m.onnx", "labels": "l"}'), ("m.onnx", "x"), ("l", "a")):
        (tmp_path / name).write_text(text)
    (tmp_path / "weights").symlink_to(specials / kind)
    with pytest.raises(FileUnreadable, match=r"weights is a .*, not a file; a model folder may contain only"):
        TFaaSClient("http://localhost").bundle(tmp_path)


def test_a_grid_proxy_that_is_a_fifo_does_not_block(specials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X509_USER_PROXY", str(specials / "fifo"))
    assert f"the grid proxy {specials / 'fifo'} is a FIFO (named pipe), not a file" in proxy_problem()


def test_a_branch_may_have_the_name_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "label").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_labels("label") == "label"


def test_regular_files_and_missing_paths_have_no_special_kind(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to("a")
    for path in ("a", "b", "c", "a/c", "nul\0"):
        assert special_kind(tmp_path / path) == ""


@pytest.mark.parametrize(
    ("script", "options", "name"),
    [
        ("reader.py", "--fin=pipe.root", "pipe.root"),
        ("reader.py", "--fin=link.root", "link.root"),
        ("reader.py", "--fin=a.root --specs=pipe.root", "pipe.root"),
        ("workflow.py", "--files=a.root,pipe.root --labels=a,b --model=ex_sklearn.py", "pipe.root"),
        ("workflow.py", "--files=a.root", "params.json"),
    ],
)
def test_scripts_name_a_fifo_or_a_broken_link(tmp_path: Path, script: str, options: str, name: str) -> None:
    write_events(tmp_path / "a.root", 50)
    os.mkfifo(tmp_path / "pipe.root")
    (tmp_path / "link.root").symlink_to("nowhere")
    if name == "params.json":
        os.mkfifo(tmp_path / "params.json")
    done = run_script(script, *options.split(), cwd=tmp_path, timeout=60)
    kind = "a broken link to nowhere" if name == "link.root" else "a FIFO (named pipe)"
    assert only_error_line(done).startswith(f"error: {name} is {kind}, not a file")
