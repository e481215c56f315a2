"""A small transformer for jets, in PyTorch: the jets and a token of the event attend to each other.

workflow.py --files=files.txt --labels=labels.txt --model=ex_transformer_pytorch.py --params=objects.json

The params must define the inputs `jets` (with a length) and `event`. Vaswani et al., arXiv:1706.03762.
"""

import torch
from torch import nn


def model(shapes, outputs=1):
    """Return a network for inputs of the shapes {"jets": (8, 4), "event": (5,)}; it returns logits."""
    return Transformer(shapes["jets"][1], shapes["event"][0], outputs)


class Transformer(nn.Module):
    """Two attention layers for the jets and a token of the event variables; the output is computed from the token."""

    def __init__(self, features, numbers, outputs, width=64, layers=2):
        super().__init__()
        self.jet = nn.Linear(features, width)
        self.token = nn.Linear(numbers, width)
        self.layers = nn.ModuleList([Layer(width) for _ in range(layers)])
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, jets, jets_mask, event):
        """Return logits; `jets` (n, 8, 4), `jets_mask` (n, 8), `event` (n, 5)."""
        tokens = torch.cat([self.token(event)[:, None], self.jet(jets)], dim=1)
        present = torch.cat([torch.ones_like(jets_mask[:, :1]), jets_mask], dim=1) > 0
        for layer in self.layers:
            tokens = layer(tokens, present)
        return self.out(tokens[:, 0])


class Layer(nn.Module):
    """Attention, then a network for each token, both with residual connections."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys, self.values, self.output = (nn.Linear(width, width) for _ in range(4))
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width)
        )

    def forward(self, tokens, present):
        """Return tokens (n, count, width); attention ignores tokens that are not present."""
        normed = self.norm_attention(tokens)
        split = (*tokens.shape[:2], self.heads, -1)
        queries, keys, values = (
            part(normed).reshape(split).transpose(1, 2) for part in (self.queries, self.keys, self.values)
        )
        attended = nn.functional.scaled_dot_product_attention(queries, keys, values, present[:, None, None])
        tokens = tokens + self.output(attended.transpose(1, 2).reshape(tokens.shape))
        return tokens + self.feed_forward(self.norm_feed_forward(tokens))
