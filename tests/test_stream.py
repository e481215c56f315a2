"""Every event exactly once: many files as batches, whatever is asked for."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tinyroot import write_events, write_tree

from mlaas4hep import DataGenerator, DataReader
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, SpecsMismatch
from mlaas4hep.samples.readers import MAX_IDLE
from mlaas4hep.stream.interleaving import MAX_QUEUES, distribute_files, proportional_shares
from mlaas4hep.stream.split import PARTS

FILES = {"a": (1000, "x"), "b": (37, "x"), "c": (400, "y"), "empty": (0, "y"), "d": (613, "y"), "one": (1, "x")}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Six files of very different length, one of them empty; paths, labels and every event's identity."""
    folder = tmp_path_factory.mktemp("sample")
    paths, labels, identities = [], [], []
    for number, (name, (events, label)) in enumerate(FILES.items()):
        path = folder / f"{name}.root"
        columns = write_events(path, events, seed=number, run=number + 1, first_event=2**53 + 1)
        paths.append(str(path))
        labels.append(label)
        identities += list(zip(*(columns[key].tolist() for key in ("run", "luminosityBlock", "event")), strict=True))
    return paths, labels, Counter(identities)


def identities(batches):
    """How often each event was delivered, by its identity."""
    keys = ("run", "luminosityBlock", "event")
    return Counter(
        identity for batch in batches for identity in zip(*(batch.ids[key].tolist() for key in keys), strict=True)
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunk_size=st.integers(1, 3000), batch_size=st.integers(1, 700), workers=st.sampled_from([1, 2, 4]),
    shuffle=st.booleans(), epoch=st.integers(0, 5),
)  # fmt: skip
def test_every_event_of_a_sample_is_yielded_once_per_epoch(sample, chunk_size, batch_size, workers, shuffle, epoch):
    paths, labels, truth = sample
    params = {"chunk_size": chunk_size, "batch_size": batch_size, "workers": workers, "shuffle": shuffle}
    with DataGenerator(paths, labels, params) as generator:
        batches = list(generator.batches(epoch=epoch))
        assert identities(batches) == truth
        assert all(len(batch) == batch_size for batch in batches[:-1])
        parts = [identities(generator.batches(part, epoch)) for part in PARTS]
    assert sum(parts, Counter()) == truth
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]


def test_labels_and_values_stay_with_their_events(sample):
    paths, labels, _ = sample
    with DataGenerator(paths, labels, {"normalise": "none"}) as generator:
        assert generator.classes == ("x", "y")
        assert generator.columns == ["met", "npt", "pt_0", "pt_1", "pt_2", "pt_3"]
        every = list(generator)
    chunks = {number: list(DataReader(path, normalise="none")) for number, path in enumerate(paths)}
    for batch in every:
        for row in range(len(batch)):
            file, entry = batch.file[row], batch.entry[row]
            x = np.concatenate([chunk.x for chunk in chunks[file]])[entry]
            np.testing.assert_array_equal(batch.x[row, : len(x)], np.nan_to_num(x, nan=0))
            assert ("x", "y")[batch.y[row]] == labels[file]


def flat(batches):
    """Everything about the order and content of batches."""
    return [(len(b), b.x.tobytes(), b.mask.tobytes(), b.y.tolist(), b.file.tolist(), b.entry.tolist()) for b in batches]


def test_the_same_seed_gives_the_same_batches_for_any_number_of_workers(sample):
    paths, labels, _ = sample
    found = []
    for workers in (1, 2, 4):
        with DataGenerator(paths, labels, {"workers": workers, "chunk_size": 300, "batch_size": 64}) as generator:
            found.append(flat(generator.batches("train", epoch=3)))
    assert found[0] == found[1] == found[2]


def test_epochs_and_seeds_differ_in_order_alone(sample):
    paths, labels, _ = sample
    with DataGenerator(paths, labels) as generator, DataGenerator(paths, labels, {"seed": 1}) as other:
        runs = [
            list(generator.batches("train", 0)),
            list(generator.batches("train", 1)),
            list(other.batches("train", 0)),
        ]
    orders = [[entry for batch in run for entry in batch.entry.tolist()] for run in runs]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
    assert identities(runs[0]) == identities(runs[1]) == identities(runs[2])


def test_without_shuffling_evaluation_repeats_itself(sample):
    paths, labels, _ = sample
    with DataGenerator(paths, labels) as generator:
        assert flat(generator.batches("valid", 0, shuffle=False)) == flat(generator.batches("valid", 7, shuffle=False))


def test_every_chunk_has_the_composition_of_the_sample(tmp_path):
    lengths = (9000, 3000, 600)
    paths = []
    for number, events in enumerate(lengths):
        paths.append(str(tmp_path / f"{number}.root"))
        write_events(paths[-1], events, seed=number, run=number, clusters=6)
    with DataGenerator(paths, ["a", "b", "c"], {"chunk_size": 630, "batch_size": 630}) as generator:
        counts = [np.bincount(batch.file, minlength=3).tolist() for batch in generator]
    assert counts == [[450, 150, 30]] * 20


@pytest.mark.usefixtures("empty_working_folder")
def test_every_event_is_yielded_once_with_more_files_than_queues_and_open_files(tmp_path):
    truth = Counter()
    count = MAX_IDLE + 8
    for number in range(count):
        columns = write_events(tmp_path / f"{number:02d}.root", 20 + number, seed=number, run=number)
        truth.update(zip(*(columns[key].tolist() for key in ("run", "luminosityBlock", "event")), strict=True))
    (tmp_path / "files.txt").write_text("*.root\n")
    labels = [number % 2 for number in range(count)]
    with DataGenerator(str(tmp_path / "files.txt"), labels, {"chunk_size": 100, "workers": 4}) as generator:
        assert count > MAX_IDLE > MAX_QUEUES
        for epoch in range(2):
            assert identities(generator.batches(epoch=epoch)) == truth


def part_of_events(paths, **params):
    """The part of each event, by its identity."""
    with DataGenerator(paths, None, params) as generator:
        return {
            key: part
            for part in PARTS
            for batch in generator.batches(part)
            for key in identities([batch[batch.entry >= 0]])
        }


def test_the_split_depends_on_the_events_only(sample, tmp_path):
    paths, _, truth = sample
    parts = part_of_events(paths)
    assert set(parts) == set(truth)
    renamed = tmp_path / "another name.root"
    renamed.write_bytes(Path(paths[0]).read_bytes())
    others = part_of_events([*paths[:0:-1], str(renamed)], seed=5, workers=4, chunk_size=100, shuffle=False)
    assert others == parts
    shares_found = np.array([list(parts.values()).count(part) for part in PARTS]) / len(parts)
    np.testing.assert_allclose(shares_found, [0.7, 0.15, 0.15], atol=0.04)


def test_files_without_identifiers_are_split_by_their_own_identity(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_tree(tmp_path / f"{name}.root", {"met": rng.normal(size=500)}, clusters=2)
    paths = [str(tmp_path / "a.root"), str(tmp_path / "b.root")]

    def entries(files, part):
        with DataGenerator(files, None, {}) as generator:
            found = [batch[batch.entry >= 0] for batch in generator.batches(part)]
        return sorted((files[f], e) for batch in found for f, e in zip(batch.file, batch.entry.tolist(), strict=True))

    assert entries(paths, "test") == entries(paths[::-1], "test")
    assert sum(len(entries(paths, part)) for part in PARTS) == 1000


def test_shuffled_copies_have_the_columns_and_not_their_relations(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=5000)
    write_tree(tmp_path / "twins.root", {"event": np.arange(5000), "x": x, "y": x}, clusters=2)
    with DataGenerator([str(tmp_path / "twins.root")], None, {"batch_size": 10_000, "normalise": "none"}) as generator:
        assert generator.classes == ("shuffled", "event")
        (batch,) = generator
    events, copies = batch[batch.y == 1], batch[batch.y == 0]
    assert sorted(events.entry.tolist()) == list(range(5000))
    np.testing.assert_array_equal(events.x[:, 0], events.x[:, 1])
    assert abs(np.corrcoef(copies.x.T)[0, 1]) < 0.05
    for column in (0, 1):
        np.testing.assert_array_equal(np.sort(copies.x[:, column]), np.sort(events.x[:, column]))


def test_a_label_branch_defines_the_classes_and_is_not_a_feature(tmp_path):
    kind = np.array([7, -1, 7, 3] * 50)
    write_events(tmp_path / "a.root", 200, kind=kind)
    with DataGenerator(str(tmp_path / "a.root"), "kind") as generator:
        assert generator.classes == ("-1", "3", "7")
        assert "kind" not in generator.columns
        for batch in generator:
            np.testing.assert_array_equal(np.array([-1, 3, 7])[batch.y], kind[batch.entry])


def test_flags_of_several_branches_give_the_classes_and_are_no_features(tmp_path):
    kind = np.arange(200) * 7 % 3
    flags = {f"is_{name}": (kind == index).astype("i4") for index, name in enumerate("abc")}
    write_events(tmp_path / "a.root", 200, **flags)
    with DataGenerator(str(tmp_path / "a.root"), "is_*") as generator:
        assert generator.classes == ("is_a", "is_b", "is_c")
        assert not [name for name in generator.columns if name.startswith("is_")]
        for batch in generator:
            np.testing.assert_array_equal(batch.y, kind[batch.entry])


def test_weights_are_values_of_an_expression_and_may_be_negative(tmp_path):
    gen = np.where(np.arange(300) % 5 == 0, -1.5, 1.0)
    columns = write_events(tmp_path / "a.root", 300, genWeight=gen)
    with DataGenerator(str(tmp_path / "a.root"), None, {"weight": "genWeight * met"}) as generator:
        assert generator.columns == ["npt", "pt_0", "pt_1", "pt_2", "pt_3"]  # what weighs an event is no feature
        for batch in generator.batches():
            mine = batch.entry >= 0
            truth = (gen * columns["met"])[batch.entry[mine]]
            np.testing.assert_allclose(batch.weight[mine], truth, rtol=1e-6)
            assert (truth < 0).any()


def test_expressions_select_the_events_of_each_part(tmp_path):
    columns = write_events(tmp_path / "a.root", 300, kind=np.arange(300) % 2)
    params = {"split": {"valid": "event % 5 == 0", "test": "event % 5 == 1 & met > 0"}}
    with DataGenerator(str(tmp_path / "a.root"), "kind", params) as generator:
        for part, remainders in (("train", {2, 3, 4}), ("valid", {0}), ("test", {1})):
            entries = np.concatenate([batch.entry for batch in generator.batches(part)])
            truth = np.flatnonzero(np.isin(columns["event"] % 5, list(remainders)))
            assert sorted(entries.tolist()) == truth.tolist()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weight": "genWeigth"}, "weight: branch 'genWeigth' is not in tree 'Events' of .*; closest: 'genWeight'"),
        ({"weight": "pt"}, r"weight: 'pt' gives a list per event; take one of its values, as in Jet_pt\[:, 0\]"),
        (
            {"weight": "1 / (event - event)"},
            "weight: '1 / .event - event.' is inf for entry 0 of .*; weights",
        ),
        ({"weight": "met +"}, "weight: .*met"),
        ({"split": {"valid": "met > 1", "test": "met > 2"}}, "split: 'met > 1' and 'met > 2' both select"),
        ({"split": {"valid": "met > 1"}}, 'give expressions for "valid" and "test"'),
        (
            {"inputs": {"jets": {"branches": ["met"], "length": 3}}},
            "'met' is one number per event; move it to an input",
        ),
        ({"inputs": {"jets": {"branches": ["pt"], "lenght": 3}}}, "input 'jets' of params has an unknown key 'lenght'"),
        ({"inputs": {"jets": {"length": 3}}}, "input 'jets' of params has no 'branches'"),
        ({"inputs": {"a b": {"branches": ["pt"]}}}, "'a b' cannot name an input"),
        ({"inputs": {"a": {"branches": ["pt"], "sort": "-pt"}}}, "input 'a' has 'sort' but no 'length'"),
        ({"inputs": {"a": {"branches": ["mett"]}}}, "branch 'mett' is not in tree 'Events' of .*; closest: 'met'"),
        (
            {"inputs": {"a": {"branches": ["met"]}}, "selected_branches": "met"},
            "selected branches and inputs exclude each other",
        ),
    ],
)
def test_invalid_parameters_are_an_error_of_one_line(tmp_path, params, message):
    write_events(tmp_path / "a.root", 20, genWeight=np.ones(20), kind=np.arange(20) % 2)
    with pytest.raises(MLaaS4HEPError, match=message), DataGenerator(str(tmp_path / "a.root"), "kind", params) as made:
        list(made)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_named_inputs_are_shuffled_with_their_events(sample, workers):
    paths, labels, truth = sample
    params = {
        "workers": workers, "chunk_size": 300, "batch_size": 64, "normalise": "none",
        "inputs": {"tracks": {"branches": ["pt"], "length": 2, "sort": "-pt"}, "event": {"branches": ["met"]}},
    }  # fmt: skip
    by_file = []
    for path in paths:
        with DataReader(path, normalise="none", nan=0) as reader:
            by_file.append(
                [dict(zip(reader.columns, row, strict=True)) for chunk in reader for row in chunk.x.tolist()]
            )
    with DataGenerator(paths, labels, params) as generator:
        assert generator.shapes == {"tracks": (2, 1), "event": (1,)}
        batches = list(generator.batches(epoch=3))
    assert identities(batches) == truth
    for batch in batches:
        assert set(batch.inputs) == {"tracks", "tracks_mask", "event", "event_mask"}
        for row, (file, entry) in enumerate(zip(batch.file, batch.entry, strict=True)):
            event = by_file[file][entry]
            pt = sorted((value for name, value in event.items() if name.startswith("pt_")), reverse=True)
            assert batch.inputs["event"][row, 0] == event["met"]
            assert batch.inputs["tracks"][row, :, 0].tolist() == [*pt, 0, 0][:2]


def test_the_error_for_files_with_different_branches_names_files_and_branches(tmp_path):
    write_events(tmp_path / "a.root", 20)
    write_events(tmp_path / "b.root", 20, extra=np.zeros(20))
    with pytest.raises(SpecsMismatch, match=r"b\.root and .*a\.root do not have the same branches: .*extra"):
        DataGenerator([str(tmp_path / "a.root"), str(tmp_path / "b.root")])


def test_cuts_leave_every_surviving_event_exactly_once(sample, tmp_path):
    paths, labels, _ = sample
    (tmp_path / "cut.json").write_text('{"cut": "met > 25"}')
    expected = Counter()
    for path in paths:
        for chunk in DataReader(path, normalise="none"):
            met = chunk.x[:, 0]
            keys = zip(*(chunk.ids[key].tolist() for key in ("run", "luminosityBlock", "event")), strict=True)
            expected.update(key for key, value in zip(keys, met.tolist(), strict=True) if value > 25)
    params = {"chunk_size": 100, "batch_size": 50}
    with DataGenerator(paths, labels, params, preproc=tmp_path / "cut.json") as generator:
        assert generator.specs.events == sum(expected.values())
        assert identities(generator.batches(epoch=2)) == expected


def test_an_unknown_part_is_an_error(sample):
    with DataGenerator(sample[0], sample[1]) as generator, pytest.raises(ConfigError, match="train, valid, test"):
        next(generator.batches("validation"))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 16), st.integers(1, 50))
def test_queues_hold_every_file_once_and_shares_add_up(entries, count, chunks):
    groups = [number % 3 for number in range(len(entries))]
    queues = distribute_files(entries, groups, count)
    assert sorted(file for queue in queues for file in queue) == list(range(len(entries)))
    assert all(len({groups[file] for file in queue}) == 1 for queue in queues) or len(entries) <= count
    lengths = [sum(entries[file] for file in queue) for queue in queues]
    given_out = np.sum([proportional_shares(lengths, chunk, chunks) for chunk in range(chunks)], axis=0)
    assert given_out.tolist() == lengths


def test_excluded_branches_are_left_out_although_the_specs_have_them(tmp_path):
    for name in "ab":
        write_events(tmp_path / f"{name}.root", 200)
    files = [tmp_path / "a.root", tmp_path / "b.root"]
    with DataGenerator(files, ["a", "b"]) as generator:
        specs = generator.specs
    with DataGenerator(files, ["a", "b"], {"exclude_branches": "met,npt"}, specs) as generator:
        assert set(specs.branches) == {"met", "npt", "pt"}
        assert list(generator.specs.branches) == ["pt"]
        assert generator.columns == ["pt_0", "pt_1", "pt_2", "pt_3"]
        assert {batch.x.shape[1] for batch in generator} == {4}
