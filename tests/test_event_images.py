"""Events as images: objects where eta and phi say, as bright as pT says, and the images where the classifier looks."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from scripts import ROOT, only_error_line, run_forked
from tinyroot import write_tree

from mlaas4hep.images.folder import read_folder

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

SCRIPT = "examples/event_images.py"
RED, GREEN, BLUE = range(3)
CHANNELS = {"Jet": RED, "Muon": GREEN, "Electron": GREEN, "Tau": GREEN, "Photon": BLUE}
Event = Mapping[str, Any]
"""Lists of (pt, eta, phi) by collection, "btag" of the jets, and "MET" as (pt, phi)."""

SIZE = 65
"""Odd: eta 0 and the hardest object are in the centre of a pixel."""

MIDDLE = 32

NAN, INF = math.nan, math.inf
SIX = [(90.0, 1.0, 0.5), (40.0, -0.5, 2.5), (35.0, 2.2, -2.0), (30.0, -3.0, -0.4)]
EVENTS: dict[str, Event] = {
    "nothing": {},
    "faint": {"Jet": [(10.0, 0.0, 0.7)]},
    "a quarter": {"Jet": [(62.5, 0.0, -3.0)]},
    "full": {"Jet": [(250.0, 0.0, 2.0)]},
    "more than full": {"Jet": [(4000.0, 0.0, 2.0)]},
    "two in one place": {"Jet": [(40.0, 0.0, 1.0), (22.5, 0.0, 1.0)]},
    "two jets": {"Jet": [(30.0, -3.2, -1.05), (80.0, 2.0, 0.5)]},
    "around": {"Jet": [(80.0, 2.0, 3.0), (30.0, -3.2, -3.0)]},
    "opposite": {"Jet": [(80.0, 2.0, 1.0), (30.0, -3.0, 1.0 - math.pi)]},
    "colours": {
        "Jet": [(100.0, 0.0, 0.0)],
        "btag": [0.0],
        "Muon": [(60.0, 2.0, 1.0)],
        "Electron": [(50.0, -2.0, 1.0)],
        "Tau": [(40.0, 4.0, 1.0)],
        "Photon": [(30.0, -4.0, 1.0)],
    },
    "b jet": {"Jet": [(100.0, 0.0, 0.0)], "btag": [1.0]},
    "missing": {"Jet": [(100.0, 0.0, 0.25)], "MET": (62.5, 0.25 + 20 * 2 * math.pi / SIZE)},
    "not there": {"Jet": [(NAN, 1.0, 1.0), (50.0, NAN, 1.0), (50.0, 1.0, INF), (INF, 1.0, 1.0)], "MET": (NAN, 1.0)},
    "no b tag": {"Jet": [(100.0, 0.0, 0.0)], "btag": [-1.0]},
    "many": {"Jet": [(30.0 + i, i / 4 - 2, i / 4) for i in range(20)]},
    "as it is": {"Jet": SIX, "MET": (30.0, 1.0)},
    "turned": {"Jet": [(pt, eta, phi - 2.8) for pt, eta, phi in SIX], "MET": (30.0, -1.8)},
    "left to right": {"Jet": [(pt, -eta, phi) for pt, eta, phi in SIX], "MET": (30.0, 1.0)},
    "top to bottom": {"Jet": [(pt, eta, -phi) for pt, eta, phi in SIX], "MET": (30.0, -1.0)},
}


def write(path: Path, events: Sequence[Event], without: Sequence[str] = ()) -> Path:
    """Write events as a file; what begins with one of `without` is left out."""
    lists: dict[str, list[list[float]]] = {
        f"{name}_{what}": [[one[index] for one in event.get(name, ())] for event in events]
        for name in CHANNELS
        for index, what in enumerate(("pt", "eta", "phi"))
    }
    lists["Jet_btag"] = [list(event.get("btag", [0.0] * len(event.get("Jet", ())))) for event in events]
    columns: dict[str, Any] = {
        name: ak.unflatten(np.float32([one for event in values for one in event]), [len(event) for event in values])
        for name, values in lists.items()
    }
    for index, what in enumerate(("pt", "phi")):
        columns[f"MET_{what}"] = np.float32([event.get("MET", (0.0, 0.0))[index] for event in events])
    kept = {name: values for name, values in columns.items() if not name.startswith(tuple(without))}
    write_tree(path, {"event": np.arange(len(events), dtype=np.uint64), **kept}, clusters=min(2, len(events)))
    return path


def pixels(path: Path) -> np.ndarray:
    """Return an image, int64 (height, width, 3)."""
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image).astype(int)


def expected(event: Event, size: int) -> np.ndarray:
    """Draw an event object by object and pixel by pixel."""
    objects = [(CHANNELS[name], *one) for name in CHANNELS for one in event.get(name, ())]
    objects += [(BLUE, tag**2 * pt, eta, phi) for (pt, eta, phi), tag in zip(event["Jet"], event["btag"], strict=True)]
    _, _, _, front = max(objects, key=lambda one: one[1])
    objects = [(channel, pt, eta, around(phi - front)) for channel, pt, eta, phi in objects]
    left = sum(pt for _, pt, eta, _ in objects if eta < 0) > sum(pt for _, pt, eta, _ in objects if eta > 0)
    above = sum(pt for _, pt, _, phi in objects if phi < 0) > sum(pt for _, pt, _, phi in objects if phi > 0)
    met, direction = event["MET"]
    image = np.zeros((size, size, 3), int)
    for row in range(size):
        for column in range(size):
            eta_here = (-1 if left else 1) * (10 * (column + 0.5) / size - 5)
            phi_here = (-1 if above else 1) * (2 * math.pi * (row + 0.5) / size - math.pi)
            total = [0.0, 0.0, 0.0]
            for channel, pt, eta, phi in objects:
                distance = math.hypot(eta - eta_here, around(phi - phi_here))
                total[channel] += pt * math.exp(-((distance / 0.15) ** 2) / 2)
            total[BLUE] += met * math.exp(-((around(direction - front - phi_here) / 0.15) ** 2) / 2)
            image[row, column] = [min(255, round(255 * math.sqrt(one / 250))) for one in total]
    return image


def around(angle: float) -> float:
    """Return an angle as one from -pi to pi."""
    return math.atan2(math.sin(angle), math.cos(angle))


def spots(layer: np.ndarray) -> list[tuple[int, int]]:
    """Return row and column of every pixel that is not dark and brighter than those around it, phi going around."""
    high = np.pad(layer, ((0, 0), (1, 1)))
    high = np.concatenate([high[-1:], high, high[:1]])
    height, width = layer.shape
    return [
        (row, column)
        for row in range(height)
        for column in range(width)
        if layer[row, column] > 20 and (high[row : row + 3, column : column + 3] >= layer[row, column]).sum() == 1
    ]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The images of EVENTS."""
    folder = tmp_path_factory.mktemp("drawn")
    write(folder / "events.root", list(EVENTS.values()))
    done = run_forked(SCRIPT, "--files=events.root,events.root", "--labels=one,two", f"--image_size={SIZE}", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    one, two = ({name: pixels(folder / "hep_images" / label / f"{number:06}.png")
                 for number, name in enumerate(EVENTS, 1)} for label in ("one", "two"))  # fmt: skip
    assert all(np.array_equal(one[name], two[name]) for name in EVENTS)
    return one


@pytest.mark.parametrize(
    ("name", "value"),
    [("faint", 51), ("a quarter", 128), ("full", 255), ("more than full", 255), ("two in one place", 128)],
)
def test_brightness_is_proportional_to_the_square_root_of_pt(drawn, name, value):
    red = drawn[name][..., RED]
    assert red.max() == red[MIDDLE, MIDDLE] == value


def test_events_without_objects_or_with_nan_only_are_drawn_black(drawn):
    assert not drawn["nothing"].any()
    assert not drawn["not there"].any()


def test_objects_are_drawn_at_their_eta_and_phi(drawn):
    per_eta, per_phi = SIZE / 10, SIZE / (2 * math.pi)
    hardest, other = (MIDDLE, int((2.0 + 5) * per_eta)), (MIDDLE + round(1.55 * per_phi), int((-3.2 + 5) * per_eta))
    assert spots(drawn["two jets"][..., RED]) == [hardest, other]  # below, whether phi is larger or smaller


def test_phi_has_no_end(drawn):
    (row, _), (other, _) = spots(drawn["around"][..., RED])
    assert (row, other) == (MIDDLE, MIDDLE + round((2 * math.pi - 6.0) * SIZE / (2 * math.pi)))
    top, bottom = drawn["opposite"][0, :, RED], drawn["opposite"][-1, :, RED]
    assert top.max() > 50
    assert np.abs(top - bottom).max() <= 1


def test_each_kind_has_its_colour(drawn):
    found = [spots(drawn["colours"][..., channel]) for channel in (RED, GREEN, BLUE)]
    column = {eta: int((eta + 5) * SIZE / 10) for eta in (0.0, 2.0, -2.0, 4.0, -4.0)}
    row = MIDDLE + round(1.0 * SIZE / (2 * math.pi))
    assert found == [[(MIDDLE, column[0.0])], [(row, column[eta]) for eta in (-2.0, 2.0, 4.0)], [(row, column[-4.0])]]
    assert spots(drawn["b jet"][..., RED]) == spots(drawn["b jet"][..., BLUE]) == [(MIDDLE, MIDDLE)]
    assert not drawn["no b tag"][..., BLUE].any()


def test_missing_et_is_a_line_across(drawn):
    blue = drawn["missing"][..., BLUE]
    assert (blue == blue[:, :1]).all()
    assert blue[MIDDLE + 20].tolist() == [128] * SIZE
    assert blue.argmax(axis=0).tolist() == [MIDDLE + 20] * SIZE


def test_the_hardest_of_very_many_objects_are_drawn(drawn):
    event = {"Jet": EVENTS["many"]["Jet"][4:], "btag": [0.0] * 16, "MET": (0.0, 0.0)}
    np.testing.assert_allclose(drawn["many"], expected(event, SIZE), atol=1)


@pytest.mark.parametrize("name", ["turned", "left to right", "top to bottom"])
def test_events_that_physics_does_not_tell_apart_look_the_same(drawn, name):
    assert drawn["as it is"].any()
    np.testing.assert_allclose(drawn[name], drawn["as it is"], atol=1)


def some_objects(rng: np.random.Generator, most: int) -> list[tuple[float, float, float]]:
    count = int(rng.integers(0, most))
    numbers = [5 + rng.exponential(40, count), rng.uniform(-5, 5, count), rng.uniform(-math.pi, math.pi, count)]
    return list(zip(*(one.astype(np.float32).tolist() for one in numbers), strict=True))


def test_images_agree_with_a_drawing_pixel_by_pixel(tmp_path):
    rng = np.random.default_rng(0)
    events = []
    for _ in range(12):
        event: dict[str, Any] = {name: some_objects(rng, 5) for name in CHANNELS}
        event["Jet"] += [(20.0, 0.5, 0.5)]  # or there may be none
        event["btag"] = rng.random(len(event["Jet"])).astype(np.float32).tolist()
        event["MET"] = (float(rng.exponential(40)), float(rng.uniform(-3, 3)))
        events.append(event)
    write(tmp_path / "a.root", events[:6])
    write(tmp_path / "b.root", events[6:])
    done = run_forked(SCRIPT, "--files=a.root,b.root", "--labels=a,b", "--image_size=24", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for number, event in enumerate(events):
        path = tmp_path / "hep_images" / "ab"[number // 6] / f"{number % 6 + 1:06}.png"
        np.testing.assert_allclose(pixels(path), expected(event, 24), atol=1, err_msg=str(path))


def jets(*pts: float) -> list[Event]:
    """Events of a jet of each pT, and of as much missing ET."""
    return [{"Jet": [(pt, 1.0, 1.0)], "MET": (pt, 0.0)} for pt in pts]


def test_images_are_counted_labelled_and_found_by_the_classifier(tmp_path):
    write(tmp_path / "a.root", jets(20, 40, 60, 80))
    write(tmp_path / "b.root", jets(30, 50, 70))
    write(tmp_path / "c.root", jets(20, 20, 50))
    (tmp_path / "files.txt").write_text("a.root\nb.root\nc.root\n")
    done = run_forked(
        SCRIPT, "--files=files.txt", "--labels=top,VBF,top", "--nevts=3", "--cuts=MET_pt > 25", "--fout=new",
        "--image_size=16", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["top: 3 images of 16 x 16 pixels", "VBF: 3 images of 16 x 16 pixels"]
    with (tmp_path / "new" / "labels.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["image", "label"]] + [
            [f"{label}/00000{number}.png", label] for label in ("top", "VBF") for number in (1, 2, 3)
        ]
    images = read_folder(tmp_path / "new", tmp_path / "new" / "labels.csv")
    assert images.classes == ("VBF", "top")
    assert images.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["VBF", "labels.csv", "top"]
    bright = [pixels(tmp_path / "new" / "top" / f"00000{number}.png")[..., RED].max() for number in (1, 2, 3)]
    assert np.diff(np.square(bright)).tolist() == pytest.approx(
        [(60 - 40) * np.square(bright[0]) / 40, (50 - 60) * np.square(bright[0]) / 40], rel=0.1
    )


def test_objects_that_one_file_lacks_are_drawn_for_no_file(tmp_path):
    events = [{"Jet": [(50.0, 0.0, 0.0)], "Photon": [(50.0, 1.0, 1.0)], "Muon": [(40.0, 1.0, 2.0)]}] * 2
    write(tmp_path / "a.root", events)
    write(tmp_path / "b.root", events, without=["Photon_pt", "Jet_btag", "MET"])
    done = run_forked(SCRIPT, "--files=a.root,b.root", "--labels=a,b", "--image_size=16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line.split()[-4] for line in lines] == ["Photon", "BJet", "MET"]
    assert lines[0] == "note: b.root lacks some of Photon_pt, Photon_eta, Photon_phi: Photon is not drawn"
    for label in "ab":
        image = pixels(tmp_path / "hep_images" / label / "000001.png")
        assert image[..., RED].any()
        assert image[..., GREEN].any()
        assert not image[..., BLUE].any()


def test_without_any_object_nothing_is_drawn(tmp_path):
    write(tmp_path / "a.root", jets(20, 30))
    write(tmp_path / "b.root", jets(20, 30), without=[f"{name}_eta" for name in CHANNELS])
    done = run_forked(SCRIPT, "--files=a.root,b.root", "--labels=a,b", cwd=tmp_path)
    assert only_error_line(done) == (
        "error: the files have no objects in common; jets need Jet_pt, Jet_eta and Jet_phi"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.root", "b.root"]


def test_an_existing_folder_is_not_changed(tmp_path):
    write(tmp_path / "a.root", jets(20, 30))
    (tmp_path / "hep_images").mkdir()
    (tmp_path / "hep_images" / "thesis.tex").write_text("all of it")
    command = [SCRIPT, "--files=a.root,a.root", "--labels=a,b", "--image_size=16"]
    line = only_error_line(run_forked(*command, cwd=tmp_path))
    assert line == "error: hep_images already exists; delete it, or choose another folder with --fout"
    assert (tmp_path / "hep_images" / "thesis.tex").read_text() == "all of it"
    (tmp_path / "hep_images" / "thesis.tex").unlink()
    assert run_forked(*command, cwd=tmp_path).returncode == 0


TWO = " give two classes, or no labels"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--labels=a"], "there are 1 labels for 2 files; give one label per file, in the same order"),
        (
            ["--labels=a,a"],
            "all files have the label a: a classification needs two classes; give two classes, or no labels",
        ),
        (["--labels=a,../b"], "label '../b' is not a valid folder name; remove / and a leading ."),
        (["--labels=a,b", "--image_size=4"], "--image_size is 4; hep_resnet.py supports 8 to 2048 pixels"),
        (
            ["--labels=a,b", "--cuts=MET_pt > 99"],
            "no event of 'a' passes; loosen --cuts, or increase --nevts",
        ),
        (["--labels=a,b", "--cuts=MET_pt >"], "preproc, cut: expression 'MET_pt >': invalid syntax at the end"),
    ],
)
def test_invalid_options_are_explained_and_leave_no_files(tmp_path, options, line):
    write(tmp_path / "a.root", jets(20, 30))
    done = run_forked(SCRIPT, "--files=a.root,a.root", *options, cwd=tmp_path)
    assert only_error_line(done) == f"error: {line}"
    assert [path.name for path in tmp_path.iterdir()] == ["a.root"]


def test_sigterm_leaves_no_files(tmp_path: Path) -> None:
    files = ",".join([str(ROOT / "examples/htautau/ggH.root")] * 4)
    command = [sys.executable, str(ROOT / SCRIPT), f"--files={files}", "--labels=a,b,c,d", "--image_size=256"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(tmp_path.rglob("a/000100.png")):  # it is drawing
            os.sched_yield()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.splitlines()[-1] == "error: stopped by SIGTERM; run the same command to start again"
    assert list(tmp_path.iterdir()) == []
