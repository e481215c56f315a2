"""A second class for samples without labels: copies of the events with independently shuffled columns.

    both = add_shuffled_copies(chunk, rng)

In the copies, every column has the distribution of the data, but the columns are independent. A classifier that
separates events from copies learns the ratio of the joint density to the product of the marginal densities (Hastie,
Tibshirani, Friedman, The Elements of Statistical Learning, section 14.2.4), that is, the correlations in the events.
"""

from __future__ import annotations

import numpy as np

from mlaas4hep.stream.batch import Batch


def add_shuffled_copies(events: Batch, rng: np.random.Generator) -> Batch:
    """Return the events (y = 1) and as many copies (y = 0), in random order. A value and its mask stay together."""
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
