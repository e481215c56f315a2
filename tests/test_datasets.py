"""Datasets for PyTorch, TensorFlow and XGBoost, compared with the batches of the generator."""

import json
from collections import Counter

import keras
import numpy as np
import pytest
import xgboost
from tinyroot import write_events
from torch.utils.data import DataLoader, get_worker_info

from mlaas4hep.backends.keras_dataset import event_dataset
from mlaas4hep.backends.torch_dataset import EventDataset
from mlaas4hep.backends.xgboost import EventIterator
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import DataGenerator

PARAMS = {"batch_size": 50, "chunk_size": 200, "cache": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    for number in range(3):
        write_events(folder / f"{number}.root", 300, seed=number, run=number, clusters=4)
    return [str(folder / f"{number}.root") for number in range(3)]


LABELS = ["a", "b", "a"]


def rows(x, y):
    """Return a counter of all events of some batches."""
    return Counter(zip(map(bytes, np.ascontiguousarray(x)), np.asarray(y).tolist(), strict=True))


def whole(files, part="train", epoch=0):
    """Return the events of a set, read by the generator."""
    with DataGenerator(files, LABELS, PARAMS) as generator:
        batches = list(generator.batches(part, epoch))
    return batches, sum((rows(batch.x, batch.y) for batch in batches), Counter())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_of_a_loader_share_the_events_of_an_epoch(files, workers):
    dataset = EventDataset(files, LABELS, PARAMS)
    assert dataset.classes == ("a", "b")
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        batches, truth = whole(files, epoch=epoch)
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        found = [(batch["x"].numpy(), batch["y"].numpy()) for batch in loader]
        assert sum((rows(x, y) for x, y in found), Counter()) == truth
        if workers < 2:
            assert [x.tobytes() for x, _ in found] == [batch.x.tobytes() for batch in batches]


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 0},
        {"num_workers": 2},
        {"num_workers": 2, "persistent_workers": True},
        {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "spawn"},
    ],
    ids=["no workers", "new workers", "persistent", "persistent and spawned"],
)
def test_each_pass_is_the_next_epoch(options, files):
    """With persistent workers, set_epoch has to reach copies of the dataset in other processes."""
    loader = DataLoader(EventDataset(files, LABELS, PARAMS), batch_size=None, **options)

    def one_pass():
        return [(batch["x"].numpy(), batch["y"].numpy()) for batch in loader]

    passes = {epoch: one_pass() for epoch in (0, 1)}
    loader.dataset.set_epoch(5)
    passes |= {epoch: one_pass() for epoch in (5, 6)}
    for epoch, found in passes.items():
        batches, truth = whole(files, epoch=epoch)
        assert sum((rows(x, y) for x, y in found), Counter()) == truth
        if options["num_workers"] < 2:
            assert [x.tobytes() for x, _ in found] == [batch.x.tobytes() for batch in batches]
    first, second, *_ = ([x.tobytes() for x, _ in found] for found in passes.values())
    assert first != second


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("labels", [LABELS, None])
def test_the_length_of_a_dataset_is_the_number_of_its_batches(workers, labels, files):
    dataset = EventDataset(files, labels, PARAMS, part="valid", num_workers=workers)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    assert len(loader) == len(dataset) == len([batch["y"] for batch in loader]) > 1


def test_a_dataset_whose_epochs_differ_in_length_has_no_length(files):
    dataset = EventDataset(files, LABELS, {**PARAMS, "balance": "sampling"})
    with pytest.raises(TypeError, match="the number of events differs between epochs"):
        len(dataset)


def events_of(batches):
    return np.concatenate([np.asarray(batch["x"] if isinstance(batch, dict) else batch.x) for batch in batches])


def test_the_state_after_a_complete_pass_is_the_beginning_of_the_next_epoch(files):
    dataset, again = (EventDataset(files, LABELS, PARAMS, part="valid") for _ in range(2))
    for _ in dataset:
        pass
    again.load_state_dict(dataset.state_dict())
    batches, _ = whole(files, "valid", 1)
    np.testing.assert_array_equal(events_of(again), events_of(batches))


def test_a_state_counts_events_whatever_the_batch_size_is(files):
    dataset = EventDataset(files, LABELS, PARAMS)
    stream = iter(dataset)
    done = [next(stream), next(stream)]
    again = EventDataset(files, LABELS, {**PARAMS, "batch_size": 70})
    again.load_state_dict(dataset.state_dict())
    assert again.state_dict() == dataset.state_dict()
    batches, _ = whole(files)
    np.testing.assert_array_equal(events_of([*done, *again]), events_of(batches))


def test_a_state_that_does_not_apply_is_reported(files, capsys):
    dataset, again = (EventDataset(files, LABELS, PARAMS) for _ in range(2))
    next(iter(dataset))
    state = dataset.state_dict()
    again.load_state_dict(state)
    again.set_epoch(3)
    batches, _ = whole(files, epoch=3)
    np.testing.assert_array_equal(events_of(again), events_of(batches))
    assert "it does not apply to epoch 3, which starts at its beginning" in capsys.readouterr().err
    again.load_state_dict({**state, "shard": [0, 2]})
    with pytest.raises(ConfigError, match="is that of shard 0 of 2, but this is shard 0 of 1; use the same number"):
        next(iter(again))
    with pytest.raises(ConfigError, match="with other files, labels, preprocessing or params"):
        EventDataset(files, ["b", "a", "a"], PARAMS).load_state_dict(state)


def test_a_torch_dataset_continues_from_its_state(files):
    batches, _ = whole(files, "valid", 4)
    dataset = EventDataset(files, LABELS, PARAMS, part="valid")
    dataset.set_epoch(4)
    stream = iter(dataset)
    next(stream)
    state = json.loads(json.dumps(dataset.state_dict()))
    again = EventDataset(files, LABELS, PARAMS, part="valid", specs=dataset.specs)
    again.load_state_dict(state)
    assert [batch["x"].numpy().tobytes() for batch in again] == [batch.x.tobytes() for batch in batches[1:]]
    assert len(list(again)) == len(batches)


def test_the_state_of_a_torch_dataset_is_unknown_if_workers_make_the_batches(files):
    dataset = EventDataset(files, LABELS, PARAMS)
    loader = iter(DataLoader(dataset, batch_size=None, num_workers=1))
    next(loader)
    with pytest.raises(
        ConfigError, match="unknown, because the workers of a DataLoader make the batches; use num_workers=0"
    ):
        dataset.state_dict()
    del loader
    next(iter(DataLoader(dataset, batch_size=None, num_workers=0)))
    state = dataset.state_dict()
    assert (state["epoch"], state["events"], state["shard"]) == (0, 50, [0, 1])


def state_in_its_process(batches):
    """Adds the state of the dataset in the worker to each batch."""
    return get_worker_info().dataset.state_dict()


def test_a_torch_dataset_in_a_worker_returns_the_state_of_the_worker(files):
    """torchdata's StatefulDataLoader saves this state, and restores it in the worker with the same index."""
    dataset = EventDataset(files, LABELS, PARAMS)
    states = list(DataLoader(dataset, batch_size=None, num_workers=1, collate_fn=state_in_its_process))
    sizes = [len(batch) for batch in whole(files)[0]]
    assert [state["events"] for state in states] == np.cumsum(sizes).tolist()


def test_keras_fit_gets_the_next_epoch_in_each_pass(files):
    with DataGenerator(files, LABELS, PARAMS) as generator:
        dataset = event_dataset(generator)
        for epoch in (0, 1):
            batches, _ = whole(files, epoch=epoch)
            found = [(x.numpy(), y.numpy(), w.numpy()) for x, y, w in dataset]
            assert [x.tobytes() for x, _, _ in found] == [batch.x.tobytes() for batch in batches]
            assert [y.tobytes() for _, y, _ in found] == [batch.y.tobytes() for batch in batches]
        inputs, _, _ = next(iter(event_dataset(generator, "valid", ("x", "mask"))))
        assert set(inputs) == {"x", "mask"}
        model = keras.Sequential([keras.Input(generator.shapes["x"]), keras.layers.Dense(1, activation="sigmoid")])
        model.compile(loss="binary_crossentropy")
        history = model.fit(
            dataset, validation_data=event_dataset(generator, "valid"), epochs=2, verbose=0, shuffle=False
        )
    assert len(history.history["val_loss"]) == 2


def test_xgboost_trains_on_an_event_iterator(files, tmp_path):
    batches, _ = whole(files)
    x = np.concatenate([np.where(batch.mask, batch.x, np.nan) for batch in batches])
    y = np.concatenate([batch.y for batch in batches])
    params = {"objective": "binary:logistic", "max_depth": 3}
    truth = xgboost.train(params, xgboost.QuantileDMatrix(x, y), 5).inplace_predict(x)
    with DataGenerator(files, LABELS, PARAMS) as generator:
        for matrix, cache in (
            (xgboost.QuantileDMatrix, None),
            (xgboost.ExtMemQuantileDMatrix, str(tmp_path / "cache")),
        ):
            data = matrix(EventIterator(generator, "train", cache))
            assert data.num_row() == len(y)
            np.testing.assert_allclose(xgboost.train(params, data, 5).inplace_predict(x), truth, atol=1e-5)
            del data
