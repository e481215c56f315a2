"""Deep Sets for jets, in PyTorch: the output does not depend on the order of the jets.

workflow.py --files=files.txt --labels=labels.txt --model=ex_deepsets_pytorch.py --params=objects.json

The params must define the inputs `jets` (with a length) and `event`. Zaheer et al., arXiv:1703.06114.
"""

import torch
from torch import nn


def model(shapes, outputs=1):
    """Return a network for inputs of the shapes {"jets": (8, 4), "event": (5,)}; it returns logits."""
    return DeepSets(shapes["jets"][1], shapes["event"][0], outputs)


class DeepSets(nn.Module):
    """A network for each jet, then mean and maximum over the jets, then a network for these and the event variables."""

    def __init__(self, features, numbers, outputs, width=64):
        super().__init__()
        self.jet_network = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.event_network = nn.Sequential(
            nn.Linear(2 * width + numbers, 2 * width),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(2 * width, width),
            nn.ReLU(),
            nn.Linear(width, outputs),
        )

    def forward(self, jets, jets_mask, event):
        """Return logits; `jets` (n, 8, 4), `jets_mask` (n, 8), `event` (n, 5)."""
        present = jets_mask[:, :, None]
        encoded = self.jet_network(jets) * present
        mean = encoded.sum(dim=1) / present.sum(dim=1).clamp(min=1)
        return self.event_network(torch.cat([mean, encoded.amax(dim=1), event], dim=1))
