"""hep_resnet.py as a command: from a folder of images to a served model."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import only_error_line, run_forked, run_script
from serving_fixtures import Server, run_client
from test_foreign_files import Snapshot, check_unchanged, make_foreign, snapshot

from mlaas4hep.input_files import read_json

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
pytest.importorskip("keras", reason="Keras is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SIZE, COUNT = 16, 120
RUN = ["--fdir=images", "--flabels=labels.csv", "--epochs=4", "--batch_size=16"]
BUNDLE = {
    "assets", "epochs.csv", "labels.txt", "metrics.json", "model.keras", "model.onnx", "model.pb", "model.py",
    "model_quantized.onnx", "params.json", "params_quantized.json", "params_tfaas.json", "report.html",
    "saved_model.pb", "training.json", "upload.json", "upload_quantized.json", "upload_tfaas.json", "variables",
}  # fmt: skip


def write_images(folder: Path, count: int = COUNT, seed: int = 0) -> None:
    """Write grey images that are bright on the left or on the right, and a CSV file with these labels."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = ["image,label"]
    for number in range(count):
        pixels = rng.integers(0, 120, (SIZE, SIZE), np.uint8)
        label = ("left", "right")[number % 2]
        pixels[:, : SIZE // 2] += 100 if label == "left" else 0
        pixels[:, SIZE // 2 :] += 100 if label == "right" else 0
        Image.fromarray(pixels).save(folder / f"images/{number:03d}.png")
        rows.append(f"{number:03d},{label}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module", name="place")
def place_fixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Snapshot]:
    """A folder with images and files of other programs, and its initial content."""
    folder = tmp_path_factory.mktemp("resnet")
    write_images(folder)
    make_foreign(folder)
    return folder, snapshot(folder)


@pytest.fixture(scope="module", name="trained")
def trained_fixture(place: tuple[Path, Snapshot]) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder with images and the bundle `models` of a run that was stopped and resumed, and the resumed process.

    The folder is also the one for the cache and for temporary files.
    """
    folder, _ = place
    command = ["hep_resnet.py", *RUN, "--quantize", "--name=sides"]
    env = {"TMPDIR": str(folder), "MLAAS4HEP_CACHE": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    stopped = run_forked(*command, cwd=folder, env=env, signal_after=("epoch   2", signal.SIGTERM))
    assert stopped.returncode == 143
    assert "--resume to continue" in stopped.stderr
    done = run_forked(*command, "--resume", cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_training_adds_its_bundle_only(trained: tuple[Path, Any], place: tuple[Path, Snapshot]) -> None:
    folder, before = place
    assert check_unchanged(before, folder) == {"models"}


def test_the_bundle_is_complete_and_the_model_is_accurate(trained: tuple[Path, Any]) -> None:
    folder, done = trained
    assert {path.name for path in (folder / "models").iterdir()} == BUNDLE
    said = done.stdout.splitlines()
    assert said[0] == (
        "Images: 120 of 16 x 16 pixels and 1 channel, 84 for training, 18 for validation, 18 for testing;"
        " classes left, right"
    )
    assert re.fullmatch(r"Model : resnet18, [\d,]+ weights, 2 outputs, (float32|mixed_b?float16)", said[1])
    assert sum(line.startswith("epoch ") for line in said) == 4
    metrics = read_json(folder / "models/metrics.json")
    assert metrics["test"]["events"] == 18
    assert metrics["test"]["accuracy"] == metrics["quantized"]["accuracy"] == 1.0
    assert metrics["quantized"]["bytes"] < metrics["quantized"]["bytes_before"] / 3
    assert (folder / "models/labels.txt").read_text() == "left\nright\n"
    with (folder / "models/epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[0]["learning_rate"]) == pytest.approx(0.001)
    report = (folder / "models/report.html").read_text()
    assert report.count("data:image/png") >= 12


def test_the_bundle_records_only_the_parameters_of_images(trained: tuple[Path, Any]) -> None:
    folder, _ = trained
    params = read_json(folder / "models/training.json")["params"]
    assert params == {
        "name": "sides", "epochs": 4, "batch_size": 16, "shuffle": True, "balance": "none", "split": [0.7, 0.15, 0.15],
        "seed": 0, "patience": 12, "lr_patience": 4, "lr_factor": 0.3, "checkpoint": 10.0, "tfaas": True,
        "tensorboard": "", "workers": 2,
    }  # fmt: skip
    report = (folder / "models/report.html").read_text()
    assert "lr_patience" in report
    assert not any(name in report for name in ("redirector", "selected_branches", "chunk_size"))


def scores_of(folder: Path, image: Path) -> list[float]:
    """The scores of the bundle's graph for an image, decoded by Pillow."""
    session = onnxruntime.InferenceSession(folder / "models/model.onnx", providers=["CPUExecutionProvider"])
    pixels = np.asarray(Image.open(image), np.float32).reshape(1, SIZE, SIZE, 1)
    scores: list[float] = session.run(["scores"], {"inputs": pixels})[0][0].tolist()
    return scores


def test_our_server_returns_labels_and_probabilities(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = trained
    image = folder / "images/006.png"
    truth = dict(zip(["left", "right"], scores_of(folder, image), strict=True))
    assert truth["left"] > 0.5
    with Server.start(tmp_path / "served") as server:
        for upload in ("upload.json", "upload_quantized.json", "upload_tfaas.json"):
            done = run_client(f"--url={server.url}", f"--upload={folder / 'models' / upload}")
            assert done.returncode == 0, done.stderr
            name = "sides_quantized" if "quantized" in upload else "sides"
            done = run_client(f"--url={server.url}", f"--image={image}", f"--model={name}", "--json")
            assert done.returncode == 0, done.stderr
            (label, other) = json.loads(done.stdout)["labels"]
            assert (label["label"], other["label"]) == ("left", "right")
            tolerance = 0.1 if "quantized" in upload else 1e-4
            assert label["probability"] == pytest.approx(truth["left"], abs=tolerance)


def test_a_stock_server_can_run_the_frozen_graph_and_the_saved_model(
    trained: tuple[Path, Any],
) -> None:
    """Run both in TensorFlow 1 sessions with the node names in params, as the Go server does."""
    tf = pytest.importorskip("tensorflow").compat.v1
    folder, _ = trained
    models, image = folder / "models", folder / "images/007.png"
    pixels = np.asarray(Image.open(image), np.float32).reshape(1, SIZE, SIZE, 1)
    truth = scores_of(folder, image)

    by_folder = read_json(models / "params.json")
    assert by_folder["img_channels"] == 1
    with tf.Session(graph=tf.Graph()) as session:
        tf.saved_model.loader.load(session, ["serve"], str(models))
        fed = {f"{by_folder['input_name']}:0": pixels}
        (row,) = session.run(f"{by_folder['output_name']}:0", fed)
    np.testing.assert_allclose(row, truth, atol=1e-4)

    by_form = read_json(models / "params_tfaas.json")
    assert by_form["img_channels"] == 1
    with tf.Session(graph=tf.Graph()) as session:
        graph = tf.GraphDef.FromString((models / by_form["model"]).read_bytes())
        tf.import_graph_def(graph, name="")
        (row,) = session.run(f"{by_form['output_name']}:0", {f"{by_form['input_name']}:0": pixels})
    np.testing.assert_allclose(row, truth, atol=1e-4)


def test_testing_prints_the_metrics_on_other_images(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = trained
    write_images(tmp_path, 30, seed=9)
    text = (tmp_path / "labels.csv").read_text().replace("004,left", "004,right")  # a wrong label
    (tmp_path / "labels.csv").write_text(text)
    done = run_forked(
        "hep_resnet.py", "--testing", f"--mdir={folder / 'models'}", "--fdir=images", "--flabels=labels.csv",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("Test  : 30 images  loss ")
    assert f"accuracy {29 / 30:.4f}" in said[0]
    assert said[1:] == ["       predicted", "left   left 14", "right  left 1  right 15"]


def test_testing_resizes_images_and_supports_the_8_bit_model(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = trained
    (tmp_path / "images/right").mkdir(parents=True)
    pixels = np.kron(np.asarray(Image.open(folder / "images/001.png")), np.ones((2, 2), np.uint8))
    Image.fromarray(np.stack([pixels] * 3, axis=2)).save(tmp_path / "images/right/a.png")
    done = run_forked(
        "hep_resnet.py", "--testing", "--quantize", f"--mdir={folder / 'models'}", "--fdir=images", "--channels=1",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["       predicted", "left   no images", "right  right 1"]
    assert done.stderr.splitlines() == [
        "note: --testing ignores --image_size and --channels and uses those of the model",
        "note: images are 32 x 32 (height x width) but the model takes 16 x 16; they are resized",
        "note: images are colour but the model takes grey; they are converted",
    ]


def test_testing_requires_the_classes_of_the_model(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = trained
    write_images(tmp_path, 8)
    (tmp_path / "labels.csv").write_text((tmp_path / "labels.csv").read_text().replace("left", "up"))
    options = ["--testing", "--fdir=images", "--flabels=labels.csv"]
    done = run_forked("hep_resnet.py", *options, f"--mdir={folder / 'models'}", cwd=tmp_path)
    assert only_error_line(done) == "error: the model has no class 'up'; it has left, right"
    done = run_forked("hep_resnet.py", *options, "--mdir=nothing", cwd=tmp_path)
    assert only_error_line(done) == "error: folder nothing does not exist; use the folder of a trained model"
    (tmp_path / "half").mkdir()
    (tmp_path / "half/model.onnx").write_bytes((folder / "models/model.onnx").read_bytes()[:1000])
    done = run_forked("hep_resnet.py", *options, "--mdir=half", cwd=tmp_path)
    assert only_error_line(done).startswith("error: onnxruntime cannot load half/model.onnx: ")


def test_a_complete_run_is_not_repeated(trained: tuple[Path, Any]) -> None:
    folder, _ = trained
    before = (folder / "models/metrics.json").stat().st_mtime_ns
    done = run_forked("hep_resnet.py", *RUN, "--quantize", "--name=sides", "--resume", cwd=folder)
    assert done.returncode == 0
    assert "note: models is already trained" in done.stderr
    assert (folder / "models/metrics.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_resumed_run_has_the_result_of_an_uninterrupted_run(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = trained
    shutil.copytree(folder / "images", tmp_path / "images")
    shutil.copy(folder / "labels.csv", tmp_path)
    done = run_script("hep_resnet.py", *RUN, "--quantize", "--name=sides", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ends = [read_json(where / "models/metrics.json") for where in (folder, tmp_path)]
    for end in ends:
        for epoch in end["epochs"]:
            del epoch["seconds"], epoch["waiting"]
    assert ends[0]["epochs"] == ends[1]["epochs"]
    assert ends[0]["test"] == ends[1]["test"]


MISTAKES = {
    "no folder": (["--fdir=nothing"], "error: the folder nothing does not exist; --fdir takes a folder of images"),
    "an empty folder": (["--fdir=empty"], "error: empty has no .png images; images are .png or .jpg files"),
    "other images": (["--image_ext=jpg"], "error: images has no .jpg images; it has 8 .png images: --image_ext=png"),
    "no labels": (["--flabels=nothing.csv"], "error: cannot read nothing.csv: No such file or directory"),
    "no network": (["--model=resnet19"], "error: unknown network 'resnet19'; closest: 'resnet"),
    "no precision": (["--precision=half"], "error: unknown precision 'half'; available: auto, float32"),
    "no optimizer": (["--optimizer=adm"], "error: unknown optimizer 'adm'; closest: 'adam'"),
    "no learning rate": (["--learning_rate=-1"], "error: invalid learning rate -1; use a positive number, as 0.001"),
    "nothing to validate": (["--split=0.01"], "error: the validation set has no images; add images, or increase"),
    "a size": (["--image_size=big"], "error: invalid --image_size 'big'; use N or HEIGHTxWIDTH in pixels"),
    "too small": (["--image_size=4"], "error: images of 4 x 4 pixels are too small; resize them to 8 to 2048"),
    "a split": (["--split=1.5"], "error: 'split' in the options cannot be [-0.5, 0.75, 0.75]"),
    "no text in a split": (["--split=x"], "error: invalid --split 'x'; use 0.7,0.15,0.15 or 0.3"),
    "no epochs": (["--epochs=0"], "error: 'epochs' in the options cannot be 0"),
    "somebody's folder": (["--mdir=images"], "error: images contains files that are not part of a bundle: 000.png"),
    "one class": (["--flabels=one.csv"], "error: all images have the label 'left', but a classifier needs two classes"),
    "a missing image": (["--flabels=more.csv"], "error: 1 of the 9 images listed in more.csv are not in the folder"),
    "a corrupt image": (["--fdir=corrupt"], "error: 1 of 8 images cannot be decoded: 003.png; reason for the first:"),
}  # fmt: skip


@pytest.fixture(scope="module", name="wrong")
def wrong_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    write_images(folder, 8)
    (folder / "empty").mkdir()
    text = (folder / "labels.csv").read_text()
    (folder / "one.csv").write_text(text.replace("right", "left"))
    (folder / "more.csv").write_text(text + "999,left\n")
    shutil.copytree(folder / "images", folder / "corrupt")
    content = (folder / "corrupt/003.png").read_bytes()
    (folder / "corrupt/003.png").write_bytes(content[: len(content) // 2])
    return folder


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_an_error_of_one_line_says_what_to_do(wrong: Path, mistake: str) -> None:
    options, reason = MISTAKES[mistake]
    done = run_forked("hep_resnet.py", "--fdir=images", "--flabels=labels.csv", *options, cwd=wrong)
    assert only_error_line(done).startswith(reason)
    assert not (wrong / "models").exists()


def test_errors_of_options_do_not_import_a_framework(wrong: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{wrong / 'none'}"}
    for name in ("tensorflow", "keras", "torch"):
        (wrong / "none" / name).mkdir(parents=True, exist_ok=True)
        (wrong / "none" / name / "__init__.py").write_text("raise SystemExit('imported')\n")
    done = run_script("hep_resnet.py", "--fdir=nothing", cwd=wrong, env=environment)
    assert only_error_line(done).startswith("error: the folder nothing does not exist")
