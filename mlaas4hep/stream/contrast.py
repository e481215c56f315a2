"""A second class where there are no labels: copies of the events whose columns were shuffled independently.

    both = with_shuffled_copies(chunk, rng)

In the copies every column is distributed as in the data, and no column knows of any other; a classifier that tells the
two apart learns the ratio of the joint density to the product of the marginal ones (Hastie, Tibshirani, Friedman, The
Elements of Statistical Learning, section 14.2.4), that is, what is correlated in the events.
"""

from __future__ import annotations

import numpy as np

from mlaas4hep.stream.batch import Batch


def with_shuffled_copies(events: Batch, rng: np.random.Generator) -> Batch:
    """Return the events (y = 1) and as many copies (y = 0), in random order; value and mask are moved together."""
    count, width = events.x.shape
    rows = rng.permuted(np.broadcast_to(np.arange(count)[:, None], (count, width)), axis=0)
    columns = np.arange(width)
    copies = Batch(
        inputs={name: values[rows, columns] for name, values in events.inputs.items()},
        y=np.zeros(count, np.int64),
        weight=events.weight,
        ids={name: np.zeros_like(values) for name, values in events.ids.items()},
        part=events.part,
        file=events.file,
        entry=np.full(count, -1, np.int64),
    )
    both = Batch.concatenate([events, copies])
    return both[rng.permutation(len(both))]
