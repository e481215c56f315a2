"""A small dense network in PyTorch.

workflow.py --files=files.txt --labels=labels.txt --model=ex_pytorch.py
"""

from torch import nn


def model(idim, outputs=1):
    """Return a network for vectors of `idim` numbers; it returns logits, or estimates for regression.

    `forward(x)` gets the vectors, with 0 for missing values; `forward(x, mask)` would also get the mask.
    """
    return nn.Sequential(
        nn.Linear(idim, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(64, outputs),
    )
