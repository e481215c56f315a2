"""A small transformer over jets, in Keras: every jet looks at all others, and a token at all of them.

workflow.py --files=files.txt --labels=labels.txt --model=ex_transformer_keras.py --params=objects.json

with inputs `jets` (of some length) and `event` in the params. Vaswani et al., arXiv:1706.03762.
"""

import keras
from keras import layers, ops


def model(shapes, outputs=1, width=64, depth=2):
    """Return a network for `jets` and `event` of the shapes {"jets": (8, 4), "event": (5,)}; logits come out."""
    jets = keras.Input(shapes["jets"], name="jets")
    jets_mask = keras.Input(shapes["jets"][:1], name="jets_mask")
    event = keras.Input(shapes["event"], name="event")

    token = layers.Reshape((1, width))(layers.Dense(width)(event))
    tokens = layers.Concatenate(axis=1)([token, layers.Dense(width)(jets)])
    present = layers.Concatenate(axis=1)([ops.ones_like(jets_mask[:, :1]), jets_mask])
    present = ops.expand_dims(present, 1) > 0  # whatever looks, only what is present is seen
    for _ in range(depth):
        normed = layers.LayerNormalization()(tokens)
        tokens = tokens + layers.MultiHeadAttention(4, width // 4)(normed, normed, attention_mask=present)
        hidden = layers.Dense(2 * width, activation="relu")(layers.LayerNormalization()(tokens))
        tokens = tokens + layers.Dense(width)(layers.Dropout(0.1)(hidden))

    hidden = layers.Dense(width, activation="relu")(layers.LayerNormalization()(tokens)[:, 0])
    scores = layers.Dense(outputs, activation="sigmoid" if outputs == 1 else "softmax")(hidden)
    return keras.Model([jets, jets_mask, event], scores)
