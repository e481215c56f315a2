"""A small dense network in Keras.

workflow.py --files=files.txt --labels=labels.txt --model=ex_keras.py
"""

import keras
from keras import layers


def model(idim, outputs=1):
    """Return a network for vectors of `idim` numbers; it returns logits, or estimates for regression.

    It is not compiled, so it is trained with Adam and the loss that matches its output.
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
