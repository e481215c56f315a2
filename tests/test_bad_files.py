"""Files that cannot be read: left out, listed with reasons, and tried again."""

import json
import os
import re

import numpy as np
import pytest
import uproot
from scripts import only_error_line, run_forked
from tinyroot import damage, write_events, write_tree

from mlaas4hep import DataGenerator
from mlaas4hep.errors import FileUnreadable
from mlaas4hep.samples.bad_files import allowed_bad_files

GOOD, EVENTS = 14, 40
MODEL = "from sklearn.linear_model import LogisticRegression\ndef model(idim): return LogisticRegression()\n"
STOPPED_MODEL = """
import os, signal
from sklearn.linear_model import LogisticRegression
models = []
def model(idim):
    models.append(LogisticRegression())
    if len(models) == 2 and os.path.exists("stop"):
        os.remove("stop")
        os.kill(os.getpid(), signal.SIGTERM)
    return models[-1]
"""
REASONS = {
    "empty": "empty.root is empty",
    "text": "the format of .*text.root is not supported",
    "cut": "cut.root is truncated: it has 2,000 of",
    "treeless": "tree 'Events' not found in .*treeless.root, which has 'Other'",
    "gone": "file not found: .*gone.root",
    "folder": "folder.root is a folder, not a file",
    "damaged": "damaged.root: cannot read branch",
}


@pytest.fixture
def folder(tmp_path):
    """14 good files, and one that is bad in each of seven ways."""
    for number in range(GOOD):
        write_events(
            tmp_path / f"good{number}.root", EVENTS, seed=number, run=number, genWeight=np.full(EVENTS, number + 1.0)
        )
    for name in ("cut", "damaged"):
        write_events(tmp_path / f"{name}.root", 1000, clusters=1, run=100, genWeight=np.ones(1000))
    (tmp_path / "empty.root").write_bytes(b"")
    (tmp_path / "text.root").write_text("not found\n" * 50)
    os.truncate(tmp_path / "cut.root", 2000)
    write_tree(tmp_path / "treeless.root", {"x": np.arange(3.0)}, name="Other")
    (tmp_path / "folder.root").mkdir()
    damage(tmp_path / "damaged.root", "met", 0)
    return tmp_path


def sample(folder, first=0, bad=tuple(REASONS)):
    names = [*(f"good{number}" for number in range(first, GOOD, 2)), *bad]
    return {"files": [str(folder / f"{name}.root") for name in names]}


def options(**more):
    return {"on_error": "skip", "max_bad": 7, "batch_size": 64, **more}


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_files_are_left_out_with_their_reasons(folder, workers):
    signal = {**sample(folder), "weight": "genWeight", "xsec": 2.0}
    samples = {"signal": signal, "background": sample(folder, 1, [])}
    with DataGenerator(samples, params=options(workers=workers, lumi=1.0)) as made:
        left_out = {file.name: file.reason for file in made.sample.survey.left_out}
        found = {one.sample: one for one in made.sample.yields}
        entries = sum(len(batch) for batch in made)
        notices = made.sample.data_notices()
    assert list(left_out) == [str(folder / f"{name}.root") for name in REASONS]
    for reason, pattern in zip(left_out.values(), REASONS.values(), strict=True):
        assert re.search(pattern, reason)
    assert entries == GOOD * EVENTS
    assert found["signal"].events == found["background"].events == GOOD // 2 * EVENTS
    assert found["signal"].weighted == pytest.approx(2000.0)  # sumw has the weights of the good files alone
    assert len([line for line in notices if line.startswith("left out ")]) == 7
    assert "7 files were left out" in notices


def test_without_skip_the_first_bad_file_is_an_error(folder):
    with pytest.raises(FileUnreadable, match=r"empty\.root is empty"):
        DataGenerator({"s": sample(folder), "b": sample(folder, 1, [])})


@pytest.mark.parametrize(
    ("max_bad", "files", "allowed"), [(0.01, 1000, 10), (0.01, 5, 1), (0, 1000, 0), (3, 10, 3), (0.5, 9, 4)]
)
def test_max_bad_is_a_number_or_a_fraction(max_bad, files, allowed):
    assert allowed_bad_files(max_bad, files) == allowed


def test_too_many_bad_files_are_an_error(folder):
    samples = {"s": sample(folder), "b": sample(folder, 1, [])}
    with pytest.raises(
        FileUnreadable, match=r"7 of 21 files cannot be read, and 'max_bad' allows 6: sample 's': .*empty.root is empty"
    ):
        DataGenerator(samples, params=options(max_bad=6))
    with pytest.raises(FileUnreadable, match=r"'max_bad' allows 1"):
        DataGenerator(samples, params={"on_error": "skip"})
    with pytest.raises(FileUnreadable, match=r"none of the files of sample 's' can be read"):
        DataGenerator({"s": sample(folder, GOOD), "b": sample(folder, 1, [])}, params=options())
    with pytest.raises(FileUnreadable, match=r"none of the files with label 'x' can be read"):
        DataGenerator([folder / "gone.root", folder / "good1.root"], ["x", "y"], options())
    with pytest.raises(FileUnreadable, match="none of the 2 files can be read"):
        DataGenerator([folder / "gone.root", folder / "text.root"], None, options())


def train(folder, *more, params=None, files="samples.json", model=MODEL):
    (folder / "model.py").write_text(model)
    (folder / "params.json").write_text(
        json.dumps({"on_error": "skip", "max_bad": 7, "tfaas": False, "trial_export": False, **(params or {})})
    )
    arguments = [f"--files={files}", "--model=model.py", "--params=params.json", "--fout=out", *more]
    return run_forked("workflow.py", *arguments, cwd=folder)


def test_a_run_lists_what_it_left_out_and_tries_it_again(folder):
    names = {name: {"files": [os.path.basename(file) for file in one["files"]], "label": name[0]}
             for name, one in {"signal": sample(folder), "background": sample(folder, 1, [])}.items()}  # fmt: skip
    (folder / "samples.json").write_text(json.dumps(names))
    done = train(folder)
    assert done.returncode == 0, done.stderr
    assert "note: 7 files were left out" in done.stderr
    skipped = json.loads((folder / "out/skipped.json").read_text())
    assert list(skipped) == ["signal"]
    assert list(skipped["signal"]["files"]) == [str(folder / f"{name}.root") for name in REASONS]
    assert skipped["signal"]["label"] == "s"
    report = (folder / "out/report.html").read_text()
    assert "7 files left out" in report
    assert "gone.root" in report
    assert not (folder / "out.skipped.json").exists()
    write_events(folder / "gone.root", EVENTS, run=55, genWeight=np.ones(EVENTS))  # it is back
    done = run_forked("reader.py", "--fin=out/skipped.json", "--on-error=skip", "--max-bad=6", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["events"], len(result["left_out"])) == (EVENTS, 6)


def test_a_plain_list_becomes_a_samples_file(folder):
    files = [f"{name}.root" for name in ("good0", "gone", "good1", "text")]
    (folder / "files.txt").write_text("\n".join(files))
    done = train(folder, "--labels=a,a,b,b", files="files.txt")
    assert done.returncode == 0, done.stderr
    skipped = json.loads((folder / "out/skipped.json").read_text())
    found = {name: list(one["files"]) for name, one in skipped.items()}
    assert found == {"a": [str(folder / "gone.root")], "b": [str(folder / "text.root")]}


def test_a_resumed_run_keeps_the_files_that_it_left_out(folder):
    """A run is stopped at its second fold; meanwhile a bad file becomes readable, and a good one is moved away."""
    names = [f"{name}.root" for name in ("good0", "good2", "gone", "good1", "good3")]
    (folder / "files.txt").write_text("\n".join(names))
    (folder / "stop").write_text("")
    params = {"kfold": 2, "max_bad": 1}

    def run(*more):
        return train(folder, "--labels=a,a,b,b,b", *more, params=params, files="files.txt", model=STOPPED_MODEL)

    assert run().returncode == 143
    assert json.loads((folder / "out.skipped.json").read_text())["b"]["files"] == {str(folder / "gone.root"): ""}
    write_events(folder / "gone.root", EVENTS, run=55, genWeight=np.ones(EVENTS))
    (folder / "good3.root").rename(folder / "away.root")
    done = run("--resume")
    assert done.returncode == 1
    assert "file not found: good3.root; the run began with this file" in only_error_line(done)
    (folder / "away.root").rename(folder / "good3.root")
    done = run("--resume")
    assert done.returncode == 0, done.stderr
    assert "gone.root can be read now, but stays left out, because the run began without it" in done.stderr
    training = json.loads((folder / "out/training.json").read_text())
    assert [file["name"] for file in training["files"]] == ["good0.root", "good2.root", "good1.root", "good3.root"]
    assert [file["name"] for file in training["left_out"]] == ["gone.root"]
    assert not (folder / "out.skipped.json").exists()
    done = run("--resume")
    assert done.returncode == 0
    assert "is already trained" in done.stderr


def test_scores_of_readable_files_are_written(folder):
    (folder / "files.txt").write_text("good0.root\ngood1.root")
    assert train(folder, "--labels=a,b", files="files.txt").returncode == 0
    arguments = ["--predict=out", "--files=good2.root,gone.root,good4.root", "--params=params.json", "--fout=scores"]
    done = run_forked("workflow.py", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "note: left out gone.root: file not found" in done.stderr
    assert sorted(os.listdir(folder / "scores")) == ["good2.scores.root", "good4.scores.root", "skipped.json"]
    assert uproot.open(folder / "scores/good4.scores.root")["scores"].num_entries == EVENTS


def test_a_samples_file_is_scored_with_its_trees_and_cuts(folder):
    (folder / "files.txt").write_text("good0.root\ngood1.root")
    assert train(folder, "--labels=a,b", files="files.txt").returncode == 0
    columns = write_events(folder / "two.root", 50, run=60, genWeight=np.ones(50))
    with uproot.update(folder / "two.root") as file:
        types = {name: "var * float32" if name == "pt" else values.dtype for name, values in columns.items()}
        file.mktree("Other", types).extend({name: values[:20] for name, values in columns.items()})
    samples = {
        "all": {"files": {"two.root": "Events"}, "nevts": 5},
        "few": {"files": {"two.root": "Other"}, "cut": "met > 20"},
    }
    (folder / "apply.json").write_text(json.dumps(samples))
    done = run_forked("workflow.py", "--predict=out", "--files=apply.json", "--fout=scores", cwd=folder)
    assert done.returncode == 0, done.stderr
    names = sorted(os.listdir(folder / "scores"))
    assert names == ["two_Events.scores.root", "two_Other.scores.root"]
    passes = [uproot.open(folder / "scores" / name)["scores"]["passes_cuts"].array(library="np") for name in names]
    assert passes[0].tolist() == [True] * 50
    assert passes[1].tolist() == (columns["met"][:20] > 20).tolist()
