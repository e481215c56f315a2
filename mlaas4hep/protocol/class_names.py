"""Names of the outputs of a classifier.

class_names(["ggH", "VBF"], 1)        # ["VBF"]
"""

from __future__ import annotations

from collections.abc import Sequence


def class_names(labels: Sequence[str], outputs: int) -> Sequence[str]:
    """Return a name for each output.

    With two labels and one output, the output is the probability of the second class and gets its label. If the model
    has no labels, or another number of them, the names are the indices of the outputs.
    """
    if len(labels) == 2 and outputs == 1:
        return labels[1:]
    return labels if len(labels) == outputs else [str(index) for index in range(outputs)]
