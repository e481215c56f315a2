"""A small dense network in Keras.

workflow.py --files=files.txt --labels=labels.txt --model=ex_keras.py
"""

import keras
from keras import layers


def model(idim, outputs=1):
    """Return a network for vectors of `idim` numbers; logits come out, or the numbers to be estimated.

    A model that is not compiled gets Adam and the cross-entropy that fits its output.
    """
    return keras.Sequential(
        [
            keras.Input((idim,)),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(outputs),
        ]
    )
