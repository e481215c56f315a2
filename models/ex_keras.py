"""A small dense network in Keras.

workflow.py --files=files.txt --labels=labels.txt --model=ex_keras.py
"""

import keras
from keras import layers


def model(idim, classes=2):
    """Return a network for vectors of `idim` numbers; probabilities come out.

    A model that is not compiled gets Adam and the cross-entropy that fits its output.
    """
    outputs = 1 if classes == 2 else classes
    return keras.Sequential(
        [
            keras.Input((idim,)),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(outputs, activation="sigmoid" if outputs == 1 else "softmax"),
        ]
    )
