"""Floor 4: from batches to a model that an analysis can use.

    from mlaas4hep.training import train_model
    trained = train_model(["ggH.root", "VBF.root"], ["ggH", "VBF"], "ex_pytorch.py", fout="model")

Each framework is imported by its own module alone, when a model of it is trained.
"""

from mlaas4hep.training.run import train_model

__all__ = ["train_model"]
