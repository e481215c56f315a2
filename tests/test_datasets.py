"""The stream as data sets of PyTorch's, TensorFlow's and XGBoost's, against the batches of the generator."""

import json
from collections import Counter

import keras
import numpy as np
import pytest
import xgboost
from tinyroot import write_events
from torch.utils.data import DataLoader, get_worker_info

from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import DataGenerator
from mlaas4hep.training.keras_dataset import event_dataset
from mlaas4hep.training.torch_dataset import EventDataset
from mlaas4hep.training.xgboost_backend import EventIterator

PARAMS = {"batch_size": 50, "chunk_size": 200, "cache": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    for number in range(3):
        write_events(folder / f"{number}.root", 300, seed=number, run=number, clusters=4)
    return [str(folder / f"{number}.root") for number in range(3)]


LABELS = ["a", "b", "a"]


def rows(x, y):
    """Every event, as often as it is there."""
    return Counter(zip(map(bytes, np.ascontiguousarray(x)), np.asarray(y).tolist(), strict=True))


def whole(files, part="train", epoch=0):
    """The events of a part, by the generator."""
    with DataGenerator(files, LABELS, PARAMS) as generator:
        batches = list(generator.batches(part, epoch))
    return batches, sum((rows(batch.x, batch.y) for batch in batches), Counter())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_processes_of_a_loader_share_the_events_of_an_epoch(files, workers):
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


def test_a_torch_data_set_goes_on_where_it_was_left(files):
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


def test_a_torch_data_set_does_not_pretend_to_know_where_other_processes_stand(files):
    dataset = EventDataset(files, LABELS, PARAMS)
    loader = iter(DataLoader(dataset, batch_size=None, num_workers=1))
    next(loader)
    with pytest.raises(ConfigError, match="not known here: the batches are made by the processes of a DataLoader; tak"):
        dataset.state_dict()
    del loader
    next(iter(DataLoader(dataset, batch_size=None, num_workers=0)))
    assert dataset.state_dict() == {"epoch": 0, "batches": 1}


def state_in_its_process(batches):
    """Beside each batch, what the data set of the process that made it says of its place."""
    return get_worker_info().dataset.state_dict()


def test_a_torch_data_set_in_a_process_of_a_loader_knows_where_that_stands(files):
    """What torchdata's StatefulDataLoader asks for, and gives back to a process of the same number."""
    dataset = EventDataset(files, LABELS, PARAMS)
    states = list(DataLoader(dataset, batch_size=None, num_workers=1, collate_fn=state_in_its_process))
    assert [state["batches"] for state in states] == list(range(1, len(whole(files)[0]) + 1))


def test_keras_fits_on_a_data_set_whose_passes_are_epochs(files):
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


def test_xgboost_reads_the_stream_by_an_iterator(files, tmp_path):
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
