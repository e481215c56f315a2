"""A classifier whose score is decorrelated from the mass, in PyTorch: a cut on the score does not sculpt the mass.

workflow.py --files=files.txt --labels=labels.txt --model=ex_disco_pytorch.py --params=params.json

The params must define the input `event`, and the training-only input `aux` with the mass as its only branch:

    {"inputs": {"event": {"branches": ["tau21", "d2"]}, "aux": {"branches": ["mass"], "training_only": true}},
     "batch_size": 1024}

The loss is the cross-entropy plus STRENGTH times the squared distance correlation of score and mass in the background,
as proposed by Kasieczka and Shih, arXiv:2001.05310. Estimates of the distance correlation need large batches.
"""

import torch
from torch import nn

STRENGTH = 50.0
"""Weight of the distance correlation in the loss: 0 for a classifier that may use the mass."""


def model(shapes, outputs=1):
    """Return a network for inputs of the shapes {"event": (n,)}; it returns logits."""
    return Network(shapes["event"][0], outputs)


class Network(nn.Module):
    """A network with two hidden layers."""

    def __init__(self, features, outputs, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
        )

    def forward(self, event):
        """Return logits; `event` (n, features)."""
        return self.layers(event)


def loss(outputs, labels, weights, aux):
    """Return the loss of a batch; `outputs` and `labels` (n, 1), `weights` (n,), `aux["aux"]` (n, 1)."""
    entropy = nn.functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")[:, 0]
    background = labels[:, 0] == 0
    score, mass = torch.sigmoid(outputs[background, 0]), aux["aux"][background, 0]
    correlation = squared_distance_correlation(score, mass, weights[background])
    return (weights * entropy).sum() / weights.abs().sum() + STRENGTH * correlation


def squared_distance_correlation(x, y, weights):
    """Return dCov²(x, y) / sqrt(dCov²(x, x) dCov²(y, y)), between 0 (independent) and 1.

    dCov²(x, y) = <|x-x'| |y-y'|> + <|x-x'|> <|y-y'|> - 2 <|x-x'| |y-y''|>, where x, x', x'' are different events
    (arXiv:2001.05310). It is computed as the mean product of the centred distances.
    """
    share = weights / weights.sum()
    a, b = (_centred((z[:, None] - z[None, :]).abs(), share) for z in (x, y))

    def covariance(first, second):
        return share @ (first * second) @ share

    return covariance(a, b) / (covariance(a, a) * covariance(b, b)).clamp(min=1e-20).sqrt()


def _centred(distances, share):
    """Subtract the weighted means of rows and columns, and add that of all distances."""
    rows = distances @ share
    return distances - rows[:, None] - rows[None, :] + share @ rows
