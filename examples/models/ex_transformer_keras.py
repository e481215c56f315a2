"""A small transformer for jets, in Keras: the jets and a token of the event attend to each other.

workflow.py --files=files.txt --labels=labels.txt --model=ex_transformer_keras.py --params=objects.json

The params must define the inputs `jets` (with a length) and `event`. Vaswani et al., arXiv:1706.03762.
"""

import keras
from keras import layers, ops


def model(shapes, outputs=1, width=64, depth=2):
    """Return a network for inputs of the shapes {"jets": (8, 4), "event": (5,)}; it returns probabilities."""
    jets = keras.Input(shapes["jets"], name="jets")
    jets_mask = keras.Input(shapes["jets"][:1], name="jets_mask")
    event = keras.Input(shapes["event"], name="event")

    token = layers.Reshape((1, width))(layers.Dense(width)(event))
    tokens = layers.Concatenate(axis=1)([token, layers.Dense(width)(jets)])
    present = layers.Concatenate(axis=1)([ops.ones_like(jets_mask[:, :1]), jets_mask])
    present = ops.expand_dims(present, 1) > 0  # all tokens attend to the tokens that are present
    for _ in range(depth):
        normed = layers.LayerNormalization()(tokens)
        tokens = tokens + layers.MultiHeadAttention(4, width // 4)(normed, normed, attention_mask=present)
        hidden = layers.Dense(2 * width, activation="relu")(layers.LayerNormalization()(tokens))
        tokens = tokens + layers.Dense(width)(layers.Dropout(0.1)(hidden))

    hidden = layers.Dense(width, activation="relu")(layers.LayerNormalization()(tokens)[:, 0])
    scores = layers.Dense(outputs, activation="sigmoid" if outputs == 1 else "softmax")(hidden)
    return keras.Model([jets, jets_mask, event], scores)
