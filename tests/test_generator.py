"""DataGenerator by hand and at its edges; the property that every event comes once is in test_stream.py."""

import json
from collections import Counter

import awkward as ak
import numpy as np
import pytest
from tinyroot import copy_with_new_uuid, write_events, write_tree

from mlaas4hep.errors import ConfigError
from mlaas4hep.reader import DataReader
from mlaas4hep.samples.readers import MAX_IDLE
from mlaas4hep.stream import PARTS, DataGenerator
from mlaas4hep.stream.interleaving import MAX_QUEUES

IDS = ("run", "luminosityBlock", "event")


def identities(batches):
    """How often each event was delivered."""
    return Counter(
        identity for batch in batches for identity in zip(*(batch.ids[name].tolist() for name in IDS), strict=True)
    )


def content(batches):
    """All that is in some batches."""
    names = ("x", "mask", "y", "weight", "file", "entry")
    return [tuple(getattr(batch, name).tobytes() for name in names) for batch in batches]


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """40 files of 1 to 200 events, two of them empty, with labels; and the identity of every event."""
    folder = tmp_path_factory.mktemp("forty")
    lengths = [(number * 37) % 200 + 1 for number in range(40)]
    lengths[7] = lengths[30] = 0
    paths, truth = [], Counter()
    for number, events in enumerate(lengths):
        paths.append(str(folder / f"{number}.root"))
        columns = write_events(paths[-1], events, seed=number, run=number, first_event=2**53 + number, clusters=2)
        truth.update(zip(*(columns[name].tolist() for name in IDS), strict=True))
    assert len(paths) > MAX_IDLE > MAX_QUEUES
    assert sum(truth.values()) == len(truth) == sum(lengths)
    return paths, [str(number % 3) for number in range(40)], truth


def test_unshuffled_chunks_take_from_each_file_in_order_and_proportion(tmp_path):
    for name, events in (("a", 4), ("b", 2)):
        write_events(tmp_path / f"{name}.root", events, clusters=1)
    params = {"shuffle": False, "chunk_size": 3, "batch_size": 4, "normalise": "none"}
    with DataGenerator([tmp_path / "a.root", tmp_path / "b.root"], ["s", "b"], params) as generator:
        assert generator.classes == ("b", "s")
        assert generator.num_entries == 6
        batches = list(generator)
    where = [list(zip(batch.file.tolist(), batch.entry.tolist(), strict=True)) for batch in batches]
    assert where == [[(0, 0), (0, 1), (1, 0), (0, 2)], [(0, 3), (1, 1)]]
    assert [batch.y.tolist() for batch in batches] == [[1, 1, 0, 1], [1, 0]]
    assert {batch.x.dtype.name for batch in batches} == {"float32"}
    assert all(batch.weight.tolist() == [1] * len(batch) for batch in batches)


@pytest.mark.parametrize("shuffle", [True, False])
def test_events_of_forty_files_are_yielded_once_in_the_same_order_for_any_number_of_workers(forty, shuffle):
    paths, labels, truth = forty
    found = []
    for workers in (1, 2, 4):
        params = {"workers": workers, "chunk_size": 333, "batch_size": 50, "shuffle": shuffle, "seed": 5}
        with DataGenerator(paths, labels, params) as generator:
            every = list(generator.batches(epoch=1))
            assert identities(every) == truth
            parts = [list(generator.batches(part, epoch=1)) for part in PARTS] if workers != 2 else []
        if parts:
            assert sum(map(identities, parts), Counter()) == truth
        found.append((content(every), [content(batches) for batches in parts]))
    assert found[0] == found[2]
    assert found[0][0] == found[1][0]


def test_specs_of_a_sample_agree_with_those_of_its_files_merged_in_any_order(forty):
    paths, labels, _ = forty
    with DataGenerator(paths, labels) as generator, DataGenerator(paths[::-1], labels[::-1]) as backwards:
        assert generator.specs == backwards.specs
        assert generator.specs.events == generator.num_entries
    with DataGenerator(paths, labels, {"chunk_size": 17, "workers": 2}) as other:
        assert other.specs == generator.specs
    single = [DataReader(path).specs for path in paths]
    merged = single[-1]
    for specs in single[-2::-1]:
        merged = specs.merge(merged)
    assert merged == generator.specs


def test_an_incomplete_epoch_does_not_affect_the_next_one(forty):
    paths, labels, truth = forty
    with DataGenerator(paths, labels, {"chunk_size": 100, "batch_size": 10, "workers": 2}) as generator:
        left = generator.batches()
        first = next(left)
        left.close()
        again = list(generator.batches())
    assert content([first]) == content(again[:1])
    assert identities(again) == truth


def test_two_parts_can_be_read_at_the_same_time(forty):
    paths, labels, _ = forty
    with DataGenerator(paths, labels, {"batch_size": 64, "workers": 2}) as generator:
        alone = [content(generator.batches(part)) for part in ("train", "valid")]
        train, valid = generator.batches("train"), generator.batches("valid")
        together = [], []
        for batch in train:
            together[0].extend(content([batch]))
            together[1].extend(content([other for other in [next(valid, None)] if other is not None]))
        together[1].extend(content(valid))
    assert list(together) == alone


def test_identifiers_of_all_64_bits_are_delivered_exactly(tmp_path):
    numbers = np.array([3, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    write_tree(tmp_path / "a.root", {"event": numbers, "x": np.arange(5.0)})
    with DataGenerator([tmp_path / "a.root"], None, {"shuffle": False}) as generator:
        (batch,) = generator
    found = batch[batch.entry >= 0]
    assert {entry: int(event) for entry, event in zip(found.entry.tolist(), found.ids["event"], strict=True)} == dict(
        enumerate(numbers.tolist())
    )


def test_files_that_keep_their_identifiers_in_different_types_mix_exactly(tmp_path):
    for name, dtype in (("a", np.int64), ("b", np.uint64), ("c", np.int32)):
        first = 2**62 + 1 if dtype is not np.int32 else 1
        write_tree(tmp_path / f"{name}.root", {"event": (np.arange(4) + first).astype(dtype), "x": np.arange(4.0)})
    with DataGenerator([tmp_path / f"{name}.root" for name in "abc"], list("abc"), {"shuffle": False}) as generator:
        (batch,) = generator
    assert sorted(batch.ids["event"].tolist()) == sorted([*range(1, 5), *2 * list(range(2**62 + 1, 2**62 + 5))])


def test_a_sample_of_wide_vectors_mixes_all_its_files_in_every_chunk_too(tmp_path):
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.root")
        write_tree(paths[-1], {"run": np.full(20, number), "x": np.ones((20, 3000), np.float32)})
    with DataGenerator(paths, ["s", "s", "b", "b"], {"chunk_size": 20, "batch_size": 20}) as generator:
        assert [np.bincount(batch.file, minlength=4).tolist() for batch in generator] == [[5, 5, 5, 5]] * 4


def test_values_that_do_not_fit_are_cut_off_and_counted(tmp_path):
    write_tree(tmp_path / "short.root", {"pt": ak.Array([[1.0], [2.0, 3.0]])})
    write_tree(tmp_path / "long.root", {"pt": ak.Array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]])})
    specs = DataReader(tmp_path / "short.root", selected_branches=["pt"]).specs
    params = {"selected_branches": ["pt"], "normalise": "none", "shuffle": False}
    with DataGenerator([tmp_path / "short.root", tmp_path / "long.root"], ["a", "b"], params, specs) as generator:
        (batch,) = generator
        assert batch.x.tolist() == [[1, 0], [2, 3], [1, 2], [4, 5]]
        assert batch.mask.tolist() == [[True, False], [True, True], [True, True], [True, True]]
        assert generator.sample.truncated == {"pt": 1 + 2}


def test_nan_and_infinity_are_finite_in_batches_and_only_nan_is_masked(tmp_path):
    write_tree(tmp_path / "a.root", {"x": np.array([0.0, np.nan, np.inf, -np.inf, 10.0])})
    copy_with_new_uuid(tmp_path / "a.root", tmp_path / "b.root")
    params = {"normalise": "minmax", "shuffle": False}
    with DataGenerator([tmp_path / "a.root", tmp_path / "b.root"], ["a", "b"], params) as generator:
        (batch,) = generator
    assert batch.x[:5, 0].tolist() == [0, 0, 11, -10, 1]
    assert batch.mask[:5, 0].tolist() == [True, False, True, True, True]


def test_nevts_is_a_limit_for_each_file(tmp_path):
    for name, events in (("a", 50), ("b", 5)):
        write_events(tmp_path / f"{name}.root", events)
    with DataGenerator([tmp_path / "a.root", tmp_path / "b.root"], ["a", "b"], {"nevts": 10}) as generator:
        pairs = [pair for batch in generator for pair in zip(batch.file.tolist(), batch.entry.tolist(), strict=True)]
    assert sorted(pairs) == [(0, entry) for entry in range(10)] + [(1, entry) for entry in range(5)]


def test_examples_are_raw_events_of_each_file_in_turn(tmp_path):
    columns = [write_events(tmp_path / f"{name}.root", 200, seed=seed) for seed, name in enumerate("ab")]
    with DataGenerator([tmp_path / "a.root", tmp_path / "b.root"], ["a", "b"]) as generator:
        events = generator.examples(6, raw=True)
        test = {
            (f, e)
            for batch in generator.batches("test")
            for f, e in zip(batch.file.tolist(), batch.entry.tolist(), strict=True)
        }
    assert events.file.tolist() == [0, 1, 0, 1, 0, 1]
    assert set(zip(events.file.tolist(), events.entry.tolist(), strict=True)) <= test
    for file, entry, x in zip(events.file, events.entry, events.x, strict=True):
        assert x[generator.columns.index("met")] == columns[file]["met"][entry]


def test_a_sample_of_empty_files_is_an_error(tmp_path):
    write_events(tmp_path / "a.root", 0)
    with pytest.raises(ConfigError, match="there are no events: the files are empty"):
        DataGenerator([tmp_path / "a.root"])


def test_no_files_are_an_error():
    with pytest.raises(ConfigError, match="there are no files to read"):
        DataGenerator([])


def pairs(batches):
    """File and entry of each event, in order."""
    return [pair for batch in batches for pair in zip(batch.file.tolist(), batch.entry.tolist(), strict=True)]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("mix", ["proportional", "balanced", "sequential"])
def test_shards_have_no_event_in_common_and_together_all(forty, world, mix):
    paths, labels, truth = forty
    for part in (None, "train"):
        found = []
        for rank in range(world):
            with DataGenerator(paths, labels, {"mix": mix, "chunk_size": 500}) as generator:
                found.append(Counter(pairs(generator.batches(part, epoch=2, shard=(rank, world)))))
                whole = Counter(pairs(generator.batches(part, epoch=2)))
        assert sum(found, Counter()) == whole
        assert max(whole.values()) == 1
        if part is None:
            assert sum(whole.values()) == sum(truth.values())
            assert min(map(len, found)) > 0.8 * len(truth) / world


def test_a_rank_outside_of_the_world_is_refused(forty):
    paths, _, _ = forty
    with (
        DataGenerator(paths[:2], ["a", "b"]) as generator,
        pytest.raises(ConfigError, match="rank 2 for world size 2"),
    ):
        generator.batches(shard=(2, 2))


def test_sequential_mixing_reads_file_after_file_and_balanced_mixing_equal_numbers_per_class(tmp_path):
    for name, events in (("a", 60), ("b", 20)):
        write_events(tmp_path / f"{name}.root", events, clusters=2)
    files = [tmp_path / "a.root", tmp_path / "b.root"]
    with DataGenerator(files, ["s", "b"], {"mix": "sequential", "chunk_size": 10}) as generator:
        assert [file for file, _ in pairs(generator)] == [0] * 60 + [1] * 20
    with DataGenerator(files, ["s", "b"], {"mix": "balanced", "chunk_size": 10, "batch_size": 10}) as generator:
        counts = [np.bincount(batch.file, minlength=2).tolist() for batch in generator]
    assert counts == [[5, 5]] * 4 + [[10, 0]] * 4


def test_balanced_mixing_yields_equal_numbers_per_class_and_per_file_of_a_class(tmp_path):
    labels = {"s0": 40, "s1": 40, "s2": 10, "b": 54}
    for number, (name, events) in enumerate(labels.items()):
        write_events(tmp_path / f"{name}.root", events, run=number, clusters=2)
    files = [tmp_path / f"{name}.root" for name in labels]
    params = {"mix": "balanced", "chunk_size": 12, "batch_size": 12}
    with DataGenerator(files, ["s", "s", "s", "b"], params) as generator:
        counts = [np.bincount(batch.file, minlength=4).tolist() for batch in generator]
    assert counts[:5] == [[2, 2, 2, 6]] * 5  # until the shortest file is over
    assert [(sum(found[:3]), found[3]) for found in counts[:9]] == [(6, 6)] * 9
    assert np.sum(counts, axis=0).tolist() == list(labels.values())


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("taken", [0, 1, 7])
def test_a_restored_stream_continues_with_the_next_event(forty, taken, workers):
    paths, labels, _ = forty
    params = {"chunk_size": 300, "batch_size": 100, "workers": workers, "cache": False}
    with DataGenerator(paths, labels, params) as generator:
        whole = content(generator.batches("train", epoch=3))
        stream = generator.batches("train", epoch=3)
        first = content(next(stream) for _ in range(taken))
        state = json.loads(json.dumps(generator.state_dict()))
    with DataGenerator(paths, labels, params) as generator:
        generator.load_state_dict(state)
        rest = content(generator.batches("train", epoch=3))
        assert generator.state_dict()["batches"] == len(whole)
        again = content(generator.batches("train", epoch=3))
    assert first + rest == whole == again


def test_a_state_of_other_events_is_refused(forty):
    paths, labels, _ = forty
    with DataGenerator(paths, labels) as generator:
        next(iter(generator))
        state = generator.state_dict()
    with (
        DataGenerator(paths, labels, {"seed": 1}) as generator,
        pytest.raises(ConfigError, match="saved with other"),
    ):
        generator.load_state_dict(state)
