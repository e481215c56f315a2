"""Signed models: made with OpenSSL's keys, trusted by servers that know the public key, and by no others."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import requests
from scripts import ROOT, run_forked, run_script
from serving_fixtures import KEYS, Server, onnx_model, trained_model, write_archive, write_bundle
from test_deadlines import FOR_EVER, looping_model

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.signing import TrustedKeys, read_private_key, sign


def make_keys(folder: Path, algorithm: str = "ed25519") -> tuple[str, str]:
    """Return the files of a private and a public key that OpenSSL makes."""
    private, public = str(folder / f"{algorithm}.pem"), str(folder / f"{algorithm}.pub.pem")
    subprocess.run(["openssl", "genpkey", "-algorithm", algorithm, "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(keys: tuple[str, str], tmp_path: Path) -> Path:
    path = tmp_path / "signed.onnx"
    path.write_bytes(trained_model())
    sign(path, read_private_key(keys[0]))
    return path


def trusted(path: Path, *public: str) -> bool:
    return TrustedKeys.read(",".join(public)).read_if_signed(path) is not None


def test_a_signed_graph_is_the_same_graph_with_one_more_entry(signed: Path) -> None:
    model = onnx.load(str(signed))
    assert [entry.key for entry in model.metadata_props] == [
        "mlaas4hep.keys", "mlaas4hep.branches", "mlaas4hep.signature",
    ]  # fmt: skip
    session = onnxruntime.InferenceSession(str(signed))
    rows = np.ones((1, len(KEYS)), np.float32)
    assert session.run(None, {"inputs": rows})[0].tolist() == [[11111]]


def test_a_signature_is_trusted_by_its_key_alone(signed: Path, keys: tuple[str, str], tmp_path: Path) -> None:
    _, other = make_keys(tmp_path)
    assert trusted(signed, keys[1])
    assert trusted(signed, other, keys[1])
    assert not trusted(signed, other)
    assert not trusted(signed)


def test_a_graph_that_was_signed_and_changed_is_not_trusted(signed: Path, keys: tuple[str, str]) -> None:
    content = signed.read_bytes()
    changes = [content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :] for index in range(len(content))]
    extended = [content + onnx_model(), onnx_model() + content[-113:], content[:-1], content[1:], content[-113:], b""]
    for changed in [*changes, *extended]:
        signed.write_bytes(changed)
        assert not trusted(signed, keys[1])


def test_signing_again_replaces_the_signature(signed: Path, keys: tuple[str, str], tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    size = signed.stat().st_size
    sign(signed, read_private_key(private))
    assert signed.stat().st_size == size
    assert trusted(signed, public)
    assert not trusted(signed, keys[1])


def test_a_graph_with_data_in_other_files_is_never_signed(keys: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(
        onnx.ModelProto.FromString(onnx_model([1.0] * 2000)), str(path), save_as_external_data=True, size_threshold=0
    )
    with pytest.raises(ConfigError, match=r"m.onnx has data in other files, so it cannot be signed"):
        sign(path, read_private_key(keys[0]))


def test_the_error_for_a_file_without_a_key_names_it(keys: tuple[str, str], tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "x25519")
    (tmp_path / "text.pem").write_text("text")
    for path in (private, keys[1], str(tmp_path / "text.pem")):
        with pytest.raises(ConfigError, match="is not a private Ed25519 key without a password; make one: openssl"):
            read_private_key(path)
    for path in (public, str(tmp_path / "text.pem")):
        with pytest.raises(ConfigError, match="is not a public Ed25519 key; see 'Where models run'") as caught:
            TrustedKeys.read(path)
        assert "openssl" not in str(caught.value)
    with pytest.raises(FileUnreadable, match=r"cannot read the key .*: No such file"):
        TrustedKeys.read(str(tmp_path / "nothing.pem"))


@pytest.mark.parametrize("folder", ["", "my keys; rm -r x"])
def test_the_command_for_a_private_key_in_place_of_the_public_one_writes_a_new_file(
    keys: tuple[str, str], tmp_path: Path, folder: str
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    path = tmp_path / folder / "public.pem"  # a private key, whatever its name
    private = Path(keys[0]).read_bytes()
    path.write_bytes(private)
    (path.parent / "public-2.pem").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        TrustedKeys.read(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path} is a private key, and the public key is needed; ")
    command = message.partition("make a file of the public key: ")[2]
    subprocess.run(command, shell=True, check=True, timeout=60)
    assert path.read_bytes() == private
    assert (path.parent / "public-2.pem").read_text() == "mine"
    made = path.parent / "public-3.pem"
    assert made.read_bytes() == Path(keys[1]).read_bytes()
    TrustedKeys.read(str(made))


def test_no_command_is_suggested_for_private_keys_that_openssl_cannot_convert(tmp_path: Path) -> None:
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:abcdef", "-out", locked],
        check=True, timeout=60,
    )  # fmt: skip
    for path in (make_keys(tmp_path, "x25519")[0], str(locked)):
        with pytest.raises(ConfigError, match="is a private key, and the public key of an Ed25519 pair") as caught:
            TrustedKeys.read(path)
        assert "openssl" not in str(caught.value)


def test_the_command_for_a_new_key_replaces_no_file(
    keys: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.pem").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        read_private_key("key.pem")
    command = str(caught.value).partition("make one: ")[2]
    subprocess.run(command, shell=True, check=True, timeout=60)
    assert (tmp_path / "key.pem").read_text() == "mine"
    read_private_key("key-2.pem")


def test_a_server_runs_signed_models_itself_and_others_in_processes(keys: tuple[str, str], tmp_path: Path) -> None:
    import psutil

    graph = tmp_path / "loop.onnx"
    graph.write_bytes(looping_model())
    unsigned = graph.read_bytes()
    sign(graph, read_private_key(keys[0]))
    with Server.start(tmp_path / "models", f"--trust={keys[1]}", "--run-time=1") as server:
        for name, content in (("signed", graph.read_bytes()), ("unsigned", unsigned)):
            archive = write_archive(tmp_path / "m.tar", write_bundle(tmp_path / name, name, graph=content), name)
            assert requests.post(f"{server.url}/upload", data=archive.read_bytes(), timeout=60).status_code == 200
        processes = []
        for name in ("signed", "unsigned"):
            row: dict[str, Any] = {"model": name, "values": [1, 2]}
            assert requests.post(f"{server.url}/json", json=row, timeout=60).json() == [1, 2]
            processes.append(len(psutil.Process(server.process.pid).children()))
        assert processes == [0, 1]
        row = {"model": "unsigned", "values": [1, FOR_EVER]}
        assert requests.post(f"{server.url}/json", json=row, timeout=60).status_code == 503


def test_an_invalid_trusted_key_gives_one_line(tmp_path: Path) -> None:
    done = run_script(
        "tfaas_server.py", f"--models-dir={tmp_path / 'm'}", f"--trust={tmp_path / 'no.pem'}", cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr == f"error: cannot read the key {tmp_path / 'no.pem'}: No such file or directory\n"


def workflow(folder: Path, *options: str) -> str:
    """Train with two folds; return what was said."""
    data = ROOT / "examples/htautau"
    (folder / "params.json").write_text('{"epochs": 1, "tfaas": false, "nevts": 200, "kfold": 2}')
    done = run_forked(
        "workflow.py", f"--files={data}/ggH.root,{data}/VBF.root", "--labels=ggH,VBF", "--model=ex_sklearn.py",
        f"--params={folder / 'params.json'}", f"--fout={folder / 'bundle'}", *options, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_workflow_signs_new_and_existing_graphs(keys: tuple[str, str], tmp_path: Path) -> None:
    workflow(tmp_path, f"--sign={keys[0]}")
    graphs = sorted(path.relative_to(tmp_path / "bundle") for path in (tmp_path / "bundle").rglob("*.onnx"))
    assert [str(path) for path in graphs] == ["folds/0/model.onnx", "folds/1/model.onnx", "model.onnx"]
    assert all(trusted(tmp_path / "bundle" / path, keys[1]) for path in graphs)
    before = {path: (tmp_path / "bundle" / path).read_bytes() for path in graphs}
    assert "signed" not in workflow(tmp_path, "--resume", f"--sign={keys[0]}")
    assert {path: (tmp_path / "bundle" / path).read_bytes() for path in graphs} == before
    other = make_keys(tmp_path)
    said = workflow(tmp_path, "--resume", f"--sign={other[0]}")
    assert "parameters and model file; its ONNX files are signed now\n" in said
    assert all(trusted(tmp_path / "bundle" / path, other[1]) for path in graphs)
