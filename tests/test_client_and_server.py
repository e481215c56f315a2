"""Our client with our server; other tests combine each with foreign servers and clients."""

from __future__ import annotations

import json
import re
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import requests
from serving_fixtures import Server, bundle_fixture, onnx_model, run_client, write_bundle  # noqa: F401
from test_images import means, png, store_model
from tinyroot import write_events, write_tree

KEYS = {
    "mlaas4hep.keys": ["met", "pt_0", "pt_1"],
    "mlaas4hep.branches": {"met": [0, 1, "flat"], "pt": [1, 2, "jagged"]},
}


def scores_of(columns: dict[str, object]) -> np.ndarray:
    """The scores of the model `events`: met + 10 * the first pt + 100 * the second; missing values count as 0."""
    pt = [[*lists, 0.0, 0.0] for lists in columns["pt"].to_list()]  # type: ignore[attr-defined]
    return np.array(
        [met + 10 * first + 100 * second for met, (first, second, *_) in zip(columns["met"], pt, strict=True)]
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    models = tmp_path_factory.mktemp("both") / "models"
    store_model(models, "colours", means("NHWC"), "red\ngreen\nblue\n")
    graph = onnx_model([1.0, 10.0, 100.0], metadata=KEYS)
    write_bundle(models / "events", "events", graph=graph)
    write_bundle(models / "plain", "plain", graph=onnx_model([1.0]))
    lists = {"mlaas4hep.keys": ["pt_0", "pt_1"], "mlaas4hep.branches": {"pt": [0, 2, "jagged"]}}
    write_bundle(models / "lists", "lists", graph=onnx_model([1.0, 10.0], metadata=lists))
    with Server.start(models) as running:
        yield running


@pytest.mark.parametrize("protocol", ["tfaas", "v2"])
def test_scores_of_a_root_file_are_in_order_and_use_few_requests(server: Server, tmp_path: Path, protocol: str) -> None:
    columns = write_events(tmp_path / "e.root", 5_000, clusters=3)
    before = requests.get(f"{server.url}/status", timeout=20).json()["postRequests"]
    done = run_client(
        f"--url={server.url}", f"--protocol={protocol}", "--predict=e.root", "--model=events", "--json", cwd=tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads(done.stdout))[:, 0]
    np.testing.assert_allclose(found, scores_of(columns), rtol=1e-6)
    after = requests.get(f"{server.url}/status", timeout=20).json()["postRequests"]
    assert after - before < 10


@pytest.mark.parametrize("lists", [[[1.5], [2.5]], [[], [1.0]], [[1.0, 2.0]], [[]]])
@pytest.mark.parametrize("protocol", ["tfaas", "v2"])
def test_an_event_with_a_list_is_not_mistaken_for_a_list_of_rows(
    server: Server, tmp_path: Path, lists: list[list[float]], protocol: str
) -> None:
    write_tree(tmp_path / "e.root", {"pt": ak.Array([np.array(one, np.float32) for one in lists])})
    asked = [f"--url={server.url}", f"--protocol={protocol}", "--predict=e.root"]
    done = run_client(*asked, "--branches=pt", "--model=plain", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: .*must be a number.*name (their )?elements.*, as in \w+_0\n", done.stderr), done.stderr
    done = run_client(*asked, "--branches=pt_0", "--model=plain", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == [[one[0] if one else 0.0] for one in lists]
    done = run_client(*asked, "--branches=pt", "--model=lists", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == [[one @ np.array([1, 10])[: len(one)]] for one in map(np.array, lists)]


def test_an_image_gets_labels_and_probabilities(server: Server, tmp_path: Path) -> None:
    pixels = np.broadcast_to(np.array([10, 200, 30], np.uint8), (6, 4, 3))
    (tmp_path / "a.png").write_bytes(png(np.ascontiguousarray(pixels)))
    done = run_client(f"--url={server.url}", f"--image={tmp_path}/a.png", "--model=colours")
    assert re.sub(r" +", " ", done.stdout.strip()).splitlines()[-3:] == ["green 200", "blue 30", "red 10"], done.stdout
    told = run_client(f"--url={server.url}", f"--image={tmp_path}/a.png", "--model=colours", "--json")
    assert json.loads(told.stdout)["labels"][0] == {"label": "green", "probability": 200.0}


def test_the_wrong_kind_of_model_is_an_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "row.json").write_text('{"values": [1, 2, 3]}')
    for options, reason in (
        ([f"--image={tmp_path}/a.png", "--model=events"], "the model takes rows of values, not images"),
        ([f"--predict={tmp_path}/row.json", "--model=colours"], "the model takes images, not rows of values"),
    ):
        done = run_client(f"--url={server.url}", *options)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: POST")
        assert reason in line


def test_a_private_server_requires_a_token(tmp_path: Path, bundle: Path) -> None:
    token = "a-token-that-is-long-enough"
    (tmp_path / "tokens").write_text(token + "\n")
    with Server.start(tmp_path / "models", f"--token-file={tmp_path}/tokens", "--private") as running:
        url = f"--url={running.url}"
        refused = run_client(url, f"--bundle={bundle}")
        assert refused.returncode == 1
        assert "401" in refused.stderr
        assert "--token-file" in refused.stderr
        assert run_client(url, f"--bundle={bundle}", f"--token-file={tmp_path}/tokens").returncode == 0
        listed = run_client(url, "--models", "--json", BEARER_TOKEN=token)
        assert [model["name"] for model in json.loads(listed.stdout)] == ["htautau"]
