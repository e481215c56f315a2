"""Deep Sets for jets, in Keras: the output does not depend on the order of the jets.

workflow.py --files=files.txt --labels=labels.txt --model=ex_deepsets_keras.py --params=objects.json

The params must define the inputs `jets` (with a length) and `event`. Zaheer et al., arXiv:1703.06114.
"""

import keras
from keras import layers, ops


def model(shapes, outputs=1, width=64):
    """Return a network for inputs of the shapes {"jets": (8, 4), "event": (5,)}; it returns logits."""
    jets = keras.Input(shapes["jets"], name="jets")
    jets_mask = keras.Input(shapes["jets"][:1], name="jets_mask")
    event = keras.Input(shapes["event"], name="event")

    present = layers.Reshape((shapes["jets"][0], 1))(jets_mask)
    encoded = layers.Dense(width, activation="relu")(jets)
    encoded = layers.Dense(width, activation="relu")(encoded) * present
    mean = ops.sum(encoded, axis=1) / ops.maximum(ops.sum(present, axis=1), 1)

    hidden = layers.Concatenate()([mean, ops.max(encoded, axis=1), event])
    hidden = layers.Dense(2 * width, activation="relu")(hidden)
    hidden = layers.Dropout(0.2)(hidden)
    hidden = layers.Dense(width, activation="relu")(hidden)
    return keras.Model([jets, jets_mask, event], layers.Dense(outputs)(hidden))
