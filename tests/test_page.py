"""The page in a real browser, as a person uses it: by mouse, by keyboard, in narrow windows, with hostile models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from browser import chromium
from serving_fixtures import (  # noqa: F401
    KEYS,
    Server,
    onnx_model,
    server_fixture,
    shared_server_fixture,
    trained_model,
    url_fixture,
    write_archive,
    write_bundle,
)
from test_images import means, png

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
Page, expect = sync_api.Page, sync_api.expect

WEIGHTS = [0.01, 0.02, 0.03, 0.04, 0.05]
FIRST, SECOND = [1.5, 32.125, 25.1, 11.2, None], [-0.5, None, 10.0, None, None]
EXAMPLE = {"model": "htautau", "keys": KEYS, "values": [FIRST, SECOND], "labels": ["ggH", "VBF"]}
METRICS = {
    "test": {"loss": 0.45443, "accuracy": 0.79138, "auc": 0.86449, "auc_uncertainty": 0.00605, "events": 3734},
    "train": {"loss": 0.42907, "accuracy": 0.80488, "auc": 0.88500},
    "best_epoch": 4,
    "epochs": [{"epoch": 1, "loss": None}],
}
TRAINING = {
    "framework": "pytorch",
    "model_file": "ex_pytorch.py",
    "size": "45,953 weights",
    "files": [
        {"name": "ggH.root", "entries": 12000, "label": "ggH"},
        {"name": "VBF.root", "entries": 9, "label": "VBF"},
    ],
    "classes": ["ggH", "VBF"],
}
REPORT = "<!doctype html><title>Report</title><style>h1 { color: rgb(1, 2, 3) }</style><h1>AUC 0.8645</h1>"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
TOKEN = "a-token-that-is-long-enough"


def scores_of(row: list[float | None]) -> float:
    """What the graph says of one event, in 32 bits: the weighted sum of what was measured."""
    return float(np.float32(sum(weight * (value or 0) for weight, value in zip(WEIGHTS, row, strict=True))))


def write_model(folder: Path, name: str = "htautau", graph: bytes | None = None, **files: Any) -> Path:
    """Write a bundle with all that training leaves beside the model."""
    write_bundle(folder, name, trained_model(weights=WEIGHTS) if graph is None else graph)
    content = {"metrics.json": METRICS, "training.json": TRAINING, "example.json": EXAMPLE, "report.html": REPORT}
    for file, value in {**content, **files}.items():
        (folder / file).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def put(url: str, folder: Path, name: str = "htautau", **headers: str) -> None:
    data = write_archive(folder.with_suffix(".tar"), folder, name).read_bytes()
    requests.post(f"{url}/upload", data=data, headers=headers, timeout=20).raise_for_status()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    """A new window; nothing may go wrong in it but answers that are errors."""
    wrong: list[str] = []
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        opened = context.new_page()
        opened.set_default_timeout(10_000)
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
        yield opened
    assert [line for line in wrong if not line.startswith("Failed to load resource")] == []


@pytest.fixture
def model(url: str, tmp_path: Path) -> str:
    """The address of the page with a whole bundle chosen."""
    put(url, write_model(tmp_path / "bundle"))
    return f"{url}/#model=htautau"


def score(page: Page) -> Any:
    return page.get_by_role("region", name="Score")


def field(page: Page, name: str) -> Any:
    return page.locator("#fields").get_by_label(re.compile(rf"^{name} "))


def test_the_page_is_small_and_forbids_external_content(url: str) -> None:
    first = requests.get(f"{url}/", timeout=20)
    parts = re.findall(r'(?:src|href)="(static/[^"]+)"', first.text)
    modules = {
        "static/" + name for name in re.findall(r'from "\./([^"]+)"', requests.get(f"{url}/static/page.js").text)
    }
    answers = {"": first, **{path: requests.get(f"{url}/{path}", timeout=20) for path in {*parts, *modules}}}
    assert sum(len(answer.content) for answer in answers.values()) < 40_000
    kinds = {"": "text/html", "css": "text/css", "js": "text/javascript"}
    for path, answer in answers.items():
        assert answer.headers["content-type"] == f"{kinds[path.rpartition('.')[2]]}; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    for path in ("static/page.py", "static/..%2fpage.py", "static/"):
        assert requests.get(f"{url}/{path}", timeout=20).status_code == 404


def test_missing_parts_of_a_bundle_are_null(url: str, tmp_path: Path) -> None:
    put(url, write_bundle(tmp_path / "alone"), "htautau")
    alone = requests.get(f"{url}/about/htautau", timeout=20).json()
    assert alone["inputs"] == [
        {"name": "MET_phi", "kind": "flat", "columns": ["MET_phi"]},
        {"name": "MET_pt", "kind": "flat", "columns": ["MET_pt"]},
        {"name": "Muon_pt", "kind": "jagged", "columns": ["Muon_pt_0", "Muon_pt_1", "Muon_pt_2"]},
    ]
    assert (alone["labels"], alone["version"], alone["report"]) == (["ggH", "VBF"], "1", False)
    assert [alone[part] for part in ("metrics", "training", "example")] == [None, None, None]
    assert requests.get(f"{url}/report/htautau", timeout=20).status_code == 404
    put(url, write_model(tmp_path / "whole"))
    whole = requests.get(f"{url}/about/htautau", timeout=20).json()
    assert (whole["version"], whole["report"], whole["metrics"]["test"]) == ("2", True, METRICS["test"])
    assert whole["example"] == {key: EXAMPLE[key] for key in ("keys", "values", "labels")}
    assert requests.get(f"{url}/about/htautua", timeout=20).status_code == 404


@pytest.mark.parametrize("nonsense", ["", "[1]", '{"test": 3, "files": 3, "keys": 3}', "[" * 100_000, "\ud800", "NaN"])
def test_files_of_somebody_elses_making_are_left_out(url: str, tmp_path: Path, nonsense: str) -> None:
    folder = write_model(tmp_path / "bundle")
    for file in ("metrics.json", "training.json", "example.json"):
        (folder / file).write_bytes(nonsense.encode(errors="surrogatepass"))
    put(url, folder)
    found = requests.get(f"{url}/about/htautau", timeout=20).json()
    assert [found[part] for part in ("metrics", "training", "example")] == [None, None, None]


def test_a_model_is_chosen_from_the_list_and_stays_chosen(page: Page, url: str, tmp_path: Path) -> None:
    put(url, write_bundle(tmp_path / "other", "another", description="Another one"), "another")
    put(url, write_model(tmp_path / "bundle"))
    page.goto(f"{url}/")
    expect(page.get_by_role("heading", name="another")).to_be_visible()
    models = page.get_by_role("navigation", name="Models")
    expect(models.get_by_role("listitem")).to_have_count(2)
    expect(models.get_by_role("listitem").nth(0)).to_contain_text("Another one")
    expect(models.get_by_role("listitem").nth(1)).to_contain_text("version 1 · ONNX · 2025-01-02 03:04")
    models.get_by_role("link", name="htautau").click()
    for _ in range(2):
        expect(page.get_by_role("heading", name="htautau")).to_be_visible()
        expect(models.locator("[aria-current]")).to_have_text("htautau")
        expect(page).to_have_title("htautau – TFaaS server")
        page.reload()
    page.go_back()
    expect(page.get_by_role("heading", name="another")).to_be_visible()


def test_the_page_shows_that_a_model_is_loading(page: Page, model: str) -> None:
    held: list[Any] = []
    page.route("**/about/htautau", lambda route: held.append(route))
    page.goto(model)
    expect(page.get_by_role("main").get_by_role("status")).to_have_text("Loading htautau …")
    held[0].continue_()
    expect(score(page)).to_contain_text("True label: ggH")
    expect(page.get_by_text("Loading")).to_be_hidden()


def test_inputs_labels_figures_and_files_are_shown(page: Page, model: str) -> None:
    page.goto(model)
    facts = page.locator("#facts")
    for text in ("2 flat and 1 jagged branches, as 5 columns", "ggH, VBF", "pytorch, ex_pytorch.py, 45,953 weights"):
        expect(facts.get_by_text(text, exact=True)).to_be_visible()
    expect(field(page, "Muon_pt")).to_have_accessible_name("Muon_pt jagged, up to 3")
    table = page.get_by_role("table", name="Best epoch: 4. Test set: 3,734 events.")
    assert [row.split() for row in table.get_by_role("row").all_inner_texts()] == [
        ["test", "training"], ["loss", "0.4544", "0.4291"], ["accuracy", "0.7914", "0.8049"],
        ["AUC", "0.8645", "±", "0.0060", "0.8850"],
    ]  # fmt: skip
    page.get_by_text("Trained on 2 files").click()
    expect(page.get_by_text("ggH.root, ggH, 12,000 events")).to_be_visible()


def test_the_form_fills_itself_and_shows_the_score_of_the_graph(page: Page, model: str) -> None:
    page.goto(model)
    for row, truth in ((FIRST, "ggH"), (SECOND, "VBF"), (FIRST, "ggH")):
        expect(score(page).get_by_role("listitem")).to_have_text(re.compile(r"^VBF [-0-9.]+$"))
        expect(score(page)).to_contain_text(f"True label: {truth}")
        shown = float(score(page).get_by_role("strong").inner_text())
        assert shown == pytest.approx(scores_of(row), rel=1e-6)
        assert field(page, "MET_phi").input_value() == str(row[0])
        page.get_by_role("button", name="Next example").click()
    page.reload()
    expect(field(page, "MET_pt")).to_have_value("32.125")
    expect(field(page, "Muon_pt")).to_have_value("25.1, 11.2")
    field(page, "MET_pt").fill("1")
    field(page, "MET_pt").press("Enter")
    expect(score(page)).not_to_contain_text("True label")


def test_an_event_is_entered_by_keyboard_alone(page: Page, model: str) -> None:
    page.goto(model.partition("#")[0])
    expect(score(page).get_by_role("listitem")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="htautau")).to_be_focused()
    expect(page).to_have_url(re.compile("#model=htautau$"))
    for place in ("Predict", "Next example"):
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name=place)).to_be_focused()
    page.keyboard.press("Tab")
    for text in ("0.25", "", "10, , 20"):
        page.keyboard.press("Tab")
        page.keyboard.press("Control+A")
        page.keyboard.press("Delete")
        page.keyboard.type(text)
    expect(field(page, "Muon_pt")).to_be_focused()
    with page.expect_request("**/json") as sent:
        page.keyboard.press("Enter")
    asked = {"keys": ["MET_phi", "MET_pt", "Muon_pt"], "values": [0.25, None, [10, None, 20]], "model": "htautau"}
    assert sent.value.post_data_json == asked
    expect(score(page)).to_contain_text(f"VBF {scores_of([0.25, 0, 10, 0, 20]):.4f}")
    expect(field(page, "Muon_pt")).to_be_focused()


def test_an_error_is_shown_in_the_form_until_a_prediction_succeeds(page: Page, model: str) -> None:
    page.goto(model)
    alert = page.locator("form").get_by_role("alert")
    field(page, "MET_phi").fill("1,5")
    page.get_by_label("Filter inputs").fill("muon")
    page.get_by_role("button", name="Predict").click()
    for _ in range(2):
        expect(alert).to_have_text("'MET_phi' must be a number, or empty for a missing value, not \"1,5\"")
        expect(field(page, "MET_phi")).to_be_focused()
        expect(field(page, "MET_phi")).to_have_attribute("aria-invalid", "true")
        expect(score(page).get_by_role("listitem")).to_have_count(0)
        field(page, "Muon_pt").press("Enter")
    field(page, "Muon_pt").fill("1, 1e999")
    field(page, "MET_phi").fill("1.5")
    field(page, "MET_phi").press("Enter")
    expect(alert).to_have_text("value 2 of 'Muon_pt' is out of range for float32: 1e999")
    expect(field(page, "Muon_pt")).to_be_focused()
    field(page, "Muon_pt").fill("")
    field(page, "Muon_pt").press("Enter")
    expect(score(page).get_by_role("listitem")).to_be_visible()
    expect(alert).to_be_hidden()


@pytest.mark.parametrize("text", ["１２", "0x10", "NaN", "Infinity", "null", "1 2", "1_0", "1,5", "[1]", "e5", "."])
def test_the_page_refuses_and_quotes_a_value_that_is_not_a_number(page: Page, model: str, text: str) -> None:
    page.goto(model)
    expect(score(page)).to_contain_text("True label: ggH")
    field(page, "MET_phi").fill(text)
    field(page, "MET_phi").press("Enter")
    expect(page.locator("form").get_by_role("alert")).to_have_text(
        f"'MET_phi' must be a number, or empty for a missing value, not \"{text}\""
    )


@pytest.mark.parametrize(
    ("text", "value"), [(" 3 ", 3), ("-.5", -0.5), ("+1.", 1), ("1E2", 100), ("-0", 0), ("007", 7)]
)
def test_the_page_accepts_common_notations_of_numbers(page: Page, model: str, text: str, value: float) -> None:
    page.goto(model)
    expect(score(page)).to_contain_text("True label: ggH")
    field(page, "MET_phi").fill(text)
    with page.expect_request("**/json") as sent:
        field(page, "MET_phi").press("Enter")
    assert sent.value.post_data_json["values"][0] == value


def test_the_page_shows_that_the_server_is_unreachable(page: Page, model: str) -> None:
    page.goto(model)
    expect(score(page).get_by_role("listitem")).to_be_visible()
    page.context.set_offline(True)
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("form").get_by_role("alert")).to_have_text("cannot reach the server: Failed to fetch")


def test_one_of_947_inputs_is_found_by_a_filter(page: Page, url: str, tmp_path: Path) -> None:
    graph = onnx_model([0.001] * 947, metadata={"mlaas4hep.keys": [f"column_{number}" for number in range(947)]})
    put(url, write_bundle(tmp_path / "wide", "wide", graph), "wide")
    page.goto(f"{url}/")
    expect(page.get_by_label("Filter inputs")).to_be_visible()
    page.get_by_label("Filter inputs").press_sequentially("N_94")
    expect(page.get_by_text("8 of 947 inputs")).to_be_visible()
    expect(page.locator("#fields label:visible")).to_have_count(8)
    field(page, "column_946").fill("500")
    page.get_by_label("Filter inputs").fill("")
    expect(page.locator("#fields label:visible")).to_have_count(947)
    field(page, "column_0").fill("250")
    field(page, "column_0").press("Enter")
    expect(score(page)).to_contain_text("VBF 0.75")
    high, scrolled = page.locator("#fields").evaluate("area => [area.clientHeight, area.scrollHeight]")
    assert high < 500 < scrolled


def test_a_model_without_names_takes_plain_values(page: Page, url: str, tmp_path: Path) -> None:
    put(url, write_bundle(tmp_path / "b", "plain", onnx_model([1, 10, 100], outputs=3)), "plain")
    page.goto(f"{url}/")
    expect(page.locator("#facts")).to_contain_text("3 numbers without names")
    expect(page.get_by_text("uploaded without training metrics")).to_be_visible()
    values = field(page, "Values")
    expect(values).to_have_accessible_name("Values 3 numbers, separated by commas")
    values.fill("3, , 0.5")
    values.press("Enter")
    expect(score(page).get_by_role("listitem")).to_have_text(["ggH 53", "VBF 106", "output 3 159"])
    values.fill("1, 2")
    values.press("Enter")
    expect(page.locator("form").get_by_role("alert")).to_have_text("the model takes 3 values, but the request has 2")


def test_scores_between_0_and_1_have_bars(page: Page, url: str, tmp_path: Path) -> None:
    put(url, write_bundle(tmp_path / "b", "two", onnx_model([0.25], outputs=2)), "two")
    page.goto(f"{url}/")
    field(page, "Values").fill("1")
    field(page, "Values").press("Enter")
    expect(score(page).get_by_role("listitem")).to_have_text(["ggH 0.25", "VBF 0.5"])
    wide = [
        bar.evaluate("bar => bar.clientWidth / bar.parentElement.clientWidth") for bar in page.locator(".bar").all()
    ]
    assert wide == pytest.approx([0.25, 0.5], abs=0.01)


def test_the_page_of_a_model_that_cannot_run_shows_the_reason_and_all_other_parts(
    page: Page, url: str, server: Server
) -> None:
    write_model(server.models_dir / "htautau", graph=b"garbage")
    page.goto(f"{url}/")
    expect(page.get_by_role("main").get_by_role("alert")).to_have_text(
        "model.onnx is not an ONNX model that onnxruntime can load"
    )
    expect(page.get_by_role("table")).to_be_visible()
    expect(page.get_by_role("button", name="Predict")).to_be_hidden()


def test_the_page_shows_a_readable_error_for_a_missing_model(page: Page, model: str) -> None:
    page.goto(model.replace("htautau", "htautua"))
    expect(page.get_by_role("main").get_by_role("alert")).to_have_text("unknown model 'htautua'; closest: 'htautau'")
    for region in ("Training", "Score", "Event"):
        expect(page.get_by_role("region", name=region)).to_be_hidden()
    page.get_by_role("link", name="htautau").click()
    for region in ("Training", "Score", "Event"):
        expect(page.get_by_role("region", name=region)).to_be_visible()


def test_a_saved_model_is_called_one(page: Page, url: str, server: Server) -> None:
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    module = tf.Module()
    module.score = tf.function(lambda inputs_input: 2 * inputs_input, [tf.TensorSpec((None, 3), tf.float32)])
    concrete = module.score.get_concrete_function()
    folder = server.models_dir / "doubled"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": concrete})
    (folder / "params.json").write_text(json.dumps({"name": "doubled", "model": "saved_model.pb"}))
    page.set_default_timeout(60_000)
    page.goto(f"{url}/")
    expect(page.locator("#facts")).to_contain_text("KindSavedModel", timeout=60_000)
    expect(page.get_by_role("navigation").get_by_role("listitem")).to_contain_text("TensorFlow")


def test_the_error_of_a_server_without_models_says_what_to_do(page: Page, url: str) -> None:
    page.goto(f"{url}/")
    expect(page.get_by_text("There are no models yet.")).to_be_visible()


def test_texts_of_a_model_are_shown_as_plain_text(page: Page, url: str, tmp_path: Path) -> None:
    keys = [HOSTILE, "b"]
    graph = onnx_model([0.25, 0.25], outputs=2, metadata={"mlaas4hep.keys": keys})
    training = dict.fromkeys(("framework", "model_file", "size"), HOSTILE)
    folder = write_model(
        tmp_path / "b",
        graph=graph,
        **{
            "example.json": {"keys": keys, "values": [[1, 2]], "labels": [HOSTILE]},
            "training.json": {**training, "files": [{"name": HOSTILE, "label": HOSTILE}]},
            "metrics.json": {"test": {HOSTILE: 1.0}},
            "labels.txt": f"{HOSTILE}\n{HOSTILE}2\n",
        },
    )
    described = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps({**described, "description": HOSTILE, "timestamp": HOSTILE}))
    put(url, folder)
    page.goto(f"{url}/")
    expect(score(page).get_by_role("listitem").first).to_have_text(f"{HOSTILE} 0.75")
    for place in ("nav", "#description", "#facts", "#fields", "#score", "#training table", "#training details"):
        expect(page.locator(place)).to_contain_text(HOSTILE)
    assert page.locator("img, script").count() == 2  # the page's own: the preview, and its module
    expect(page).to_have_title("htautau – TFaaS server")


def test_a_report_is_shown_in_an_origin_of_its_own(page: Page, model: str) -> None:
    page.goto(model)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Training report").click()
    report = opened.value
    expect(report.get_by_role("heading", name="AUC 0.8645")).to_have_css("color", "rgb(1, 2, 3)")
    assert report.evaluate("[origin, opener]") == ["null", None]


def test_a_hostile_report_runs_no_script_and_loads_no_file(browser: Any, url: str, tmp_path: Path) -> None:
    hostile = f"""<!doctype html><title>quiet</title>{HOSTILE}<img src="/models"><link rel=stylesheet href="/models">
        <iframe src="/models"></iframe><meta http-equiv=refresh content="0;url=/models">
        <form action="/delete" method=post><button>Press</button></form><p>The end"""
    put(url, write_model(tmp_path / "b", **{"report.html": hostile}))
    with browser.new_context() as context:
        report, answered = context.new_page(), []
        report.on("response", lambda response: answered.append(response.url))
        report.goto(f"{url}/report/htautau")
        expect(report.get_by_text("The end")).to_be_visible()
        report.get_by_role("button", name="Press").click()
        expect(report).to_have_title("quiet")
        assert answered == [f"{url}/report/htautau"]


def test_everything_works_under_a_base_path(page: Page, tmp_path: Path) -> None:
    with Server.start(tmp_path / "models", "--base-path=/tfaas") as server:
        put(server.url, write_model(tmp_path / "bundle"))
        page.goto(server.url)
        expect(score(page)).to_contain_text("True label: ggH")
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Training report").click()
        expect(opened.value.get_by_role("heading", name="AUC 0.8645")).to_be_visible()


def test_the_page_sends_its_token_to_a_private_server_but_not_in_urls(page: Page, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    asked: list[str] = []
    with Server.start(tmp_path / "models", f"--token-file={tmp_path / 'tokens'}", "--private") as server:
        put(server.url, write_model(tmp_path / "bundle"), Authorization=f"Bearer {TOKEN}")
        assert requests.get(f"{server.url}/about/htautau", timeout=20).status_code == 401
        assert requests.get(f"{server.url}/report/htautau", timeout=20).status_code == 401
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{server.url}/#model=htautau")
        token = page.get_by_label("Token")
        for given, reason in ((f"{TOKEN}x", "a token is required"), (TOKEN, "invalid token")):
            expect(token).to_be_focused()
            expect(page.get_by_role("alert").filter(has_text="token")).to_contain_text(reason)
            page.keyboard.type(given)
            page.keyboard.press("Enter")
        expect(score(page)).to_contain_text("True label: ggH")
        expect(token).to_be_hidden()
        expect(page.locator("#failures")).to_be_empty()
        with page.expect_download() as download:
            page.get_by_role("link", name="Training report").click()
        assert download.value.suggested_filename == "htautau.html"
        text = download.value.path().read_text(encoding="utf-8")
        assert text.endswith(REPORT)
        assert "default-src 'none'" in text.partition(REPORT)[0]
    assert not any(TOKEN in address for address in asked)


PICTURE = png(np.full((6, 4, 3), (10, 200, 30), np.uint8))
DROP = """(zone, bytes) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "three.png", { type: "image/png" }));
    for (const kind of ["dragenter", "dragover", "drop"]) {
        zone.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
    }
}"""


def put_colours(url: str, folder: Path, labels: str) -> None:
    """Upload a model whose scores are the means of an image's channels."""
    write_bundle(folder, "colours", means("NHWC"), img_channels=3, description="x" * 500)
    (folder / "labels.txt").write_text(labels)
    put(url, folder, "colours")


@pytest.mark.parametrize("dropped", [False, True])
def test_an_image_is_chosen_or_dropped_and_its_labels_are_shown(
    page: Page, url: str, tmp_path: Path, dropped: bool
) -> None:
    put_colours(url, tmp_path / "b", f"red\n{HOSTILE}\nblue\n")
    page.goto(f"{url}/")
    chooser = page.get_by_label("Drop a PNG or JPEG file here, or choose one:")
    expect(chooser).to_be_visible()
    expect(page.get_by_role("button", name="Predict")).to_be_hidden()
    expect(page.locator("#facts")).to_contain_text("images of 6 × 4 × 3 values")
    if dropped:
        page.locator("#drop").evaluate(DROP, list(PICTURE))
    else:
        chooser.set_input_files({"name": "three.png", "mimeType": "image/png", "buffer": PICTURE})
    expect(score(page).get_by_role("listitem")).to_have_text([f"{HOSTILE} 200", "blue 30", "red 10"])
    shown = page.get_by_role("img", name="The image three.png")
    expect(shown).to_be_visible()
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [4, 6]


def test_a_file_that_is_dropped_elsewhere_does_not_replace_the_page(
    page: Page, url: str, model: str, tmp_path: Path
) -> None:
    put_colours(url, tmp_path / "b", "red\ngreen\nblue\n")
    page.goto(f"{url}/#model=colours")
    expect(page.get_by_role("region", name="Image")).to_be_visible()
    missed = DROP.replace("zone.dispatchEvent", "if (zone.dispatchEvent").replace("true }));", "true }))) return kind;")
    assert page.locator("h1").evaluate(missed, list(PICTURE)) is None  # nothing of it is left to the browser
    expect(score(page).get_by_role("listitem")).to_have_text(["green 200", "blue 30", "red 10"])
    page.get_by_role("link", name="htautau").click()
    expect(score(page)).to_contain_text("True label: ggH")
    assert page.locator("h1").evaluate(missed, list(PICTURE)) is None
    expect(score(page)).to_contain_text("True label: ggH")


def test_the_page_shows_why_an_image_is_refused_and_accepts_another(page: Page, url: str, tmp_path: Path) -> None:
    put_colours(url, tmp_path / "b", "red\ngreen\n")
    page.goto(f"{url}/")
    chooser, alert = page.get_by_label("Drop a PNG"), page.get_by_role("region", name="Image").get_by_role("alert")
    expect(chooser).to_be_visible()
    chooser.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"x"})
    expect(alert).to_have_text("the image is damaged, or is not a PNG or JPEG file")
    chooser.set_input_files({"name": "b.png", "mimeType": "image/png", "buffer": PICTURE})
    expect(score(page).get_by_role("listitem")).to_have_text(["red 10", "green 200", "output 3 30"])
    expect(alert).to_be_hidden()


def test_the_rate_of_requests_is_followed_while_somebody_looks(page: Page, model: str, url: str) -> None:
    page.clock.install(time=0)
    page.clock.pause_at(1)
    looks: list[str] = []
    page.on("request", lambda request: looks.append(request.url) if "metrics" in request.url else None)
    with page.expect_event("requestfinished", lambda request: "metrics" in request.url):
        page.goto(model)
    expect(score(page).get_by_role("listitem")).to_be_visible()

    def wait() -> None:
        with page.expect_response("**/metrics"):
            page.clock.run_for(2000)

    wait()
    expect(page.locator("#curve")).to_have_attribute("points", re.compile("^120,"))
    for number, rate in ((10, "5.0"), (0, "0.0"), (60, "30")):
        for _ in range(number):
            requests.get(f"{url}/status", timeout=20)
        wait()
        expect(page.get_by_text(f"{rate} requests/s")).to_be_visible()
    expect(page.get_by_text("peak: 30")).to_be_visible()
    points = page.locator("#curve").get_attribute("points").split(" ")
    assert [point.split(",")[1] for point in points][-3:] == ["26", "31", "1"]
    seen = len(looks)
    hide = "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    hide += " document.dispatchEvent(new Event('visibilitychange')) }"
    page.evaluate(hide, True)
    page.clock.run_for(20_000)
    with page.expect_response("**/metrics"):
        page.evaluate(hide, False)
    assert len(looks) == seen + 1


def test_an_open_page_shows_new_and_deleted_models_and_keeps_typed_values(
    page: Page, model: str, url: str, server: Server, tmp_path: Path
) -> None:
    page.clock.install()

    def wait() -> None:
        with page.expect_event("requestfinished", lambda request: request.url.endswith("/models")):
            page.clock.run_for(5000)

    page.goto(model)
    expect(score(page)).to_contain_text("True label: ggH")
    field(page, "MET_phi").fill("0.25")
    names = page.get_by_role("navigation").get_by_role("link")
    changed = page.locator("#changed")
    put(url, write_bundle(tmp_path / "a", "another"), "another")
    wait()
    expect(names).to_have_text(["another", "htautau"])
    expect(names.nth(1)).to_have_attribute("aria-current", "true")
    expect(field(page, "MET_phi")).to_be_focused()
    expect(changed).to_be_hidden()
    names.nth(0).focus()
    put(url, tmp_path / "bundle")
    wait()
    expect(changed).to_have_text("The model was replaced: reload the page to see the new one.")
    expect(names.nth(0)).to_be_focused()
    expect(field(page, "MET_phi")).to_have_value("0.25")
    requests.delete(f"{url}/delete/htautau", timeout=20).raise_for_status()
    wait()
    expect(names).to_have_text(["another"])
    expect(changed).to_have_text("The model was deleted.")
    expect(field(page, "MET_phi")).to_have_value("0.25")
    names.nth(0).click()
    expect(page.get_by_role("heading", name="another")).to_be_visible()
    expect(changed).to_be_hidden()


def test_the_first_model_is_shown_after_its_upload(page: Page, url: str, tmp_path: Path) -> None:
    page.clock.install()
    page.goto(f"{url}/")
    expect(page.get_by_text("There are no models yet.")).to_be_visible()
    put(url, write_model(tmp_path / "bundle"))
    page.clock.run_for(5000)
    expect(score(page)).to_contain_text("True label: ggH")
    expect(page.get_by_text("There are no models yet.")).to_be_hidden()


def test_one_of_200_models_is_found_by_a_filter(page: Page, url: str, server: Server) -> None:
    for number in range(200):
        name = f"{'a_long_name_' * 10}{number:03}"
        write_bundle(server.models_dir / name, name, description="a tagger" if number == 7 else "")
    page.goto(f"{url}/#model={name}")
    nav = page.get_by_role("navigation")
    expect(nav.get_by_role("listitem")).to_have_count(200)
    expect(nav.locator("[aria-current]")).to_be_in_viewport()
    lowest, scrolled = nav.get_by_role("list").evaluate(
        "list => [list.getBoundingClientRect().bottom, list.scrollHeight]"
    )
    assert lowest <= 900 < scrolled
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Skip the list")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=name)).to_be_focused()
    page.get_by_label("Filter models").press_sequentially("NAME_19")
    expect(nav.get_by_text("10 of 200 models")).to_be_visible()
    expect(nav.get_by_role("listitem")).to_have_count(10)
    page.get_by_label("Filter models").fill("tagger")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=re.compile("_007$"))).to_be_focused()


def test_errors_of_the_page_itself_are_shown(browser: Any, model: str) -> None:
    with browser.new_context() as context:
        opened = context.new_page()
        opened.goto(model)
        opened.evaluate("setTimeout(() => { throw new Error('a defect') })")
        opened.evaluate("void Promise.reject(new Error('another one'))")
        reasons = ["the page failed: Uncaught Error: a defect", "the page failed: another one"]
        expect(opened.locator("#failures p")).to_have_text(reasons)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_axe_finds_no_violations_and_no_content_is_clipped(
    browser: Any, model: str, url: str, tmp_path: Path, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    put_colours(url, tmp_path / "c", "red\ngreen\nblue\n")
    size = {"width": width, "height": 800}
    with browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True) as context:
        page = context.new_page()
        page.goto(model)
        field(page, "MET_pt").fill("x")
        field(page, "MET_pt").press("Enter")
        expect(page.locator("form").get_by_role("alert")).to_be_visible()
        found = axe.Axe().run(page)
        page.goto(f"{url}/#model=colours")
        expect(page.get_by_role("region", name="Image")).to_be_visible()
        also = axe.Axe().run(page)
        assert [one["id"] for one in (*found.response["violations"], *also.response["violations"])] == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
